"""Monitoring manifests: strict schemas, one list of metrics, alerts that fire when they must and only then (real promtool)."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tidegate.rollout.gateway_counters import GATEWAY_METRICS
from tidegate.serving.metrics.names import LATENCY_BOUNDS, METRICS, PUSHED_METRICS

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "kserve/monitoring"
FOLDERS = sorted(file.parent for file in MONITORING.rglob("kustomization.yaml"))
RULES = sorted(MONITORING.rglob("prometheus-rule.yaml"))


def groups_in(file):
    return yaml.safe_load(file.read_text())["spec"]["groups"]


def rules_in(file):
    return [rule for group in groups_in(file) for rule in group["rules"]]


ALERTS = [
    pytest.param(rule, id=f"{file.parent.name}-{rule['alert']}") for file in RULES for rule in rules_in(file) if "alert" in rule
]
DASHBOARD = json.loads((MONITORING / "tidegate.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]

# What Prometheus and the operator's discovery add to every series of a pod.
DISCOVERED = {"namespace", "pod", "job", "instance", "le"}
LABELS = {metric.name: {*DISCOVERED, *metric.common, *metric.labels} for metric in METRICS.values()} | {
    metric.name: {"namespace", "model", *metric.labels} for metric in PUSHED_METRICS.values()
}
HISTOGRAMS = [name for name, metric in METRICS.items() if metric.kind == "histogram"]
LABELS |= {f"{name}{suffix}": LABELS[name] for name in HISTOGRAMS for suffix in ("_bucket", "_count", "_sum")}


EXPRESSIONS = [rule["expr"] for file in RULES for rule in rules_in(file)]


@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in FOLDERS])
def test_manifests_are_valid(folder, rendered, check_manifest):
    for document in rendered(folder):
        check_manifest(document)


def test_dashboard_is_found_by_the_sidecar(rendered):
    (dashboard,) = [document for document in rendered(MONITORING) if document["kind"] == "ConfigMap"]

    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["tidegate.json"]) == DASHBOARD


def test_pod_monitor_selects_the_model_servers_pods(rendered):
    (monitor,) = [document for document in rendered(MONITORING) if document["kind"] == "PodMonitor"]
    predictors = [
        document["spec"]["predictor"]
        for document in rendered(ROOT / "kserve/inference-service")
        if document["kind"] == "InferenceService"
    ]
    (selected,) = monitor["spec"]["selector"]["matchExpressions"]
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}

    assert predictors
    for predictor in predictors:
        assert selected["key"] in predictor["labels"]
        assert [port["name"] for port in predictor["model"]["ports"] if port["containerPort"] == 8080] == ["http1"]
    assert ports == {"http1", "user-port"}


@pytest.mark.parametrize("expression", EXPRESSIONS + QUERIES)
def test_every_metric_is_on_the_list(expression):
    recorded = {rule["record"] for file in RULES for rule in rules_in(file) if "record" in rule}
    named = set(re.findall(r"\b(?:(?:tidegate|process)_\w+(?=[\[{)\s])|(?:istio|envoy)_\w+(?=[\[{]))", expression))
    derived = set(re.findall(r"\btidegate:[a-z0-9_:]+", expression))

    assert named | derived or expression.startswith("up{")
    assert derived <= recorded
    assert named <= {*LABELS, *GATEWAY_METRICS}


@pytest.mark.parametrize("expression", EXPRESSIONS + QUERIES)
def test_every_label_is_one_that_the_metric_has(expression):
    """Of plain metrics: matchers, and what the sum around them goes by."""
    for metric, matchers in re.findall(r"\b((?:tidegate|process)_[a-z_]+)(?:\{([^}]*)\})?", expression):
        if metric in LABELS:
            assert set(re.findall(r"(\w+)(?:=~|=|!~|!=)\"", matchers)) <= LABELS[metric], metric
    for by, metric in re.findall(r"(?:sum|max) by \(([^)]*)\) \((?:rate|increase)?\(?(tidegate_[a-z_]+)", expression):
        assert set(re.split(r", *", by)) <= LABELS[metric], metric


def test_every_metric_on_the_list_is_on_the_dashboard():
    shown = " ".join(QUERIES)

    assert [name for name in [*METRICS, *PUSHED_METRICS] if name not in shown] == []


def test_every_bound_of_latency_is_a_bucket():
    bounds = {bound for expression in EXPRESSIONS + QUERIES for bound in re.findall(r'le="([^"]+)"', expression)}

    assert bounds
    assert bounds <= {f"{bound:.10g}" for bound in LATENCY_BOUNDS}


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_a_page_in_the_runbook(alert):
    runbook = (ROOT / "docs/monitoring.md").read_text()

    assert f"### {alert['alert']}\n" in runbook
    assert alert["annotations"]["runbook_url"] == f"docs/monitoring.md#{alert['alert'].lower()}"
    assert alert["labels"]["severity"] in ("page", "ticket")


def test_docs_list_every_metric_and_every_alert():
    docs = (ROOT / "docs/monitoring.md").read_text()

    for metric in (*METRICS.values(), *PUSHED_METRICS.values()):
        assert f"`{metric.name}`" in docs
    for label in {label for metric in (*METRICS.values(), *PUSHED_METRICS.values()) for label in metric.labels}:
        assert f"`{label}`" in docs
    described = set(re.findall(r"^### (Tidegate\w+)$", docs, re.MULTILINE))
    assert described == {rule["alert"] for file in RULES for rule in rules_in(file) if "alert" in rule}


def test_dashboard_is_sound():
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))

    assert len(set(identities)) == len(identities)
    assert used - variables == set()
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    places = [set(cells(panel["gridPos"])) for panel in DASHBOARD["panels"]]
    assert sum(map(len, places)) == len(set.union(*places))
    assert max(x for place in places for x, _ in place) < 24


def cells(place):
    return ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"]))


@pytest.fixture
def promtool(program, tmp_path):
    def run(command, document):
        file = tmp_path / f"{command}.yaml"
        file.write_text(yaml.safe_dump(document))
        return subprocess.run(
            [program("promtool"), command, "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.mark.parametrize("file", [pytest.param(file, id=file.parent.name) for file in RULES])
def test_rules_are_rules(promtool, file):
    done = promtool("check", yaml.safe_load(file.read_text())["spec"])

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_parses(promtool):
    filled = [
        query.replace("$__rate_interval", "5m").replace("$namespace", "models").replace("$model", "late") for query in QUERIES
    ]
    assert not any("$" in query for query in filled)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(filled)]

    done = promtool("check", {"groups": [{"name": "dashboard", "rules": rules}]})

    assert done.returncode == 0, done.stdout + done.stderr


POD = 'namespace="models",model="late",version="1",revision="v1",pod="a"'


def counter(name, per_step, steps=1200, **labels):
    told = "".join(f',{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{POD}{told}}}", "values": f"0+{per_step}x{steps}"}


def requests(errors, per_step=3000):
    return [
        counter("tidegate_requests_total", per_step - errors, status="200"),
        counter("tidegate_requests_total", errors, status="500"),
        counter("tidegate_requests_total", 0, status="503"),
    ]


def rejections(count, reason, per_step=3000):
    return [
        counter("tidegate_requests_total", per_step, status="200"),
        counter("tidegate_rejected_total", count, reason=reason),
    ]


def latency(bound, slow, per_step=3000):
    return [
        counter("tidegate_request_latency_seconds_bucket", per_step - slow, le=bound),
        counter("tidegate_request_latency_seconds_count", per_step),
        counter("tidegate_requests_total", per_step, status="200"),
    ]


def level(name, value, steps=1200, **labels):
    told = "".join(f',{label}="{value}"' for label, value in labels.items())
    return [{"series": f"{name}{{{POD}{told}}}", "values": f"{value}+0x{steps}"}]


def predictions(before, after, days=10):
    """Tenths of the probability, so many every half hour: `before`, and from the eighth day on `after`."""
    old, new = 8 * 48, (days - 8) * 48
    return [
        {
            "series": f'tidegate_predictions_total{{{POD},bin="{number / 10:.1f}-{(number + 1) / 10:.1f}"}}',
            "values": f"0+{first}x{old} {first * old}+{second}x{new}",
        }
        for number, (first, second) in enumerate(zip(before, after, strict=True))
    ]


P95, P99 = "0.1001776", "0.2591169"
SAME, MOVED = (10, 10, 10, 10, 10, 10, 10, 10, 10, 10), (30, 20, 10, 10, 10, 10, 5, 3, 1, 1)
PREDICTED = counter("tidegate_predictions_total", 1000, bin="0.4-0.5")


@pytest.mark.parametrize(
    ("alert", "series", "at", "fires"),
    [
        # 5 % of errors: 50 times the budget; 1 %: 10 times; 0.4 %: 4 times; 0.05 %: within it.
        pytest.param("TidegateErrorsFastBurn", requests(150), "2h", True, id="errors-5-percent"),
        pytest.param("TidegateErrorsFastBurn", requests(30), "8h", True, id="errors-1-percent-for-hours"),
        pytest.param("TidegateErrorsFastBurn", requests(12), "8h", False, id="errors-0.4-percent-do-not-page"),
        pytest.param("TidegateErrorsFastBurn", requests(0), "2h", False, id="no-errors"),
        pytest.param("TidegateErrorsFastBurn", requests(1, per_step=2), "2h", False, id="one-of-a-few-requests"),
        pytest.param("TidegateErrorsSlowBurn", requests(12), "30h", True, id="errors-0.4-percent-for-a-day"),
        pytest.param("TidegateErrorsSlowBurn", requests(6), "4d", True, id="errors-0.2-percent-for-days"),
        pytest.param("TidegateErrorsSlowBurn", requests(2), "4d", False, id="errors-within-budget"),
        pytest.param("TidegateP95FastBurn", latency(P95, 2500), "2h", True, id="p95-most-are-slow"),
        pytest.param("TidegateP95FastBurn", latency(P95, 140), "2h", False, id="p95-4.7-percent-slow"),
        pytest.param("TidegateP95SlowBurn", latency(P95, 200), "4d", True, id="p95-6.7-percent-slow-for-days"),
        pytest.param("TidegateP95SlowBurn", latency(P95, 140), "4d", False, id="p95-within-budget-for-days"),
        pytest.param("TidegateP99FastBurn", latency(P99, 600), "2h", True, id="p99-20-percent-slow"),
        pytest.param("TidegateP99FastBurn", latency(P99, 25), "2h", False, id="p99-0.8-percent-slow"),
        pytest.param("TidegateP99SlowBurn", latency(P99, 45), "4d", True, id="p99-1.5-percent-slow-for-days"),
        pytest.param("TidegateP99SlowBurn", latency(P99, 25), "4d", False, id="p99-within-budget-for-days"),
        pytest.param("TidegateServerNotReady", level("tidegate_workers_ready", 0), "10m", True, id="no-worker"),
        pytest.param("TidegateServerNotReady", level("tidegate_workers_ready", 0), "1m", False, id="just-started"),
        pytest.param("TidegateServerNotReady", level("tidegate_workers_ready", 1), "10m", False, id="worker"),
        pytest.param("TidegateServerNotScraped", level("up", 0, job="tidegate-model-servers"), "10m", True, id="down"),
        pytest.param("TidegateServerNotScraped", level("up", 1, job="tidegate-model-servers"), "10m", False, id="up"),
        pytest.param("TidegateServerNotScraped", level("up", 0, job="another"), "10m", False, id="not-ours"),
        pytest.param("TidegateRequestsRejected", rejections(150, "queue-full"), "1h", True, id="too-many-wait"),
        pytest.param("TidegateRequestsRejected", rejections(150, "deadline"), "1h", True, id="too-many-wait-too-long"),
        pytest.param("TidegateRequestsRejected", rejections(15, "queue-full"), "1h", False, id="a-few-wait-in-vain"),
        pytest.param("TidegateRequestsRejected", rejections(150, "abandoned"), "1h", False, id="callers-that-went"),
        pytest.param("TidegateProviderFallback", level("tidegate_provider_fallback", 1), "1h", True, id="fallback"),
        pytest.param("TidegateProviderFallback", level("tidegate_provider_fallback", 0), "1h", False, id="no-fallback"),
        pytest.param(
            "TidegateLogDropsRows",
            [counter("tidegate_log_dropped_rows_total", 1, reason="queue-full")],
            "40m",
            True,
            id="drops",
        ),
        pytest.param(
            "TidegateLogDropsRows",
            [counter("tidegate_log_dropped_rows_total", 0, reason="queue-full")],
            "40m",
            False,
            id="no-drops",
        ),
        pytest.param("TidegateLogWritesFail", [counter("tidegate_log_write_failures_total", 1)], "2h", True, id="failures"),
        pytest.param("TidegateLogWritesFail", [counter("tidegate_log_write_failures_total", 0)], "2h", False, id="writes"),
        pytest.param(
            "TidegateFeaturesMissing",
            [PREDICTED, counter("tidegate_feature_missing_total", 300, view="weather")],
            "3h",
            True,
            id="missing-30-percent",
        ),
        pytest.param(
            "TidegateFeaturesMissing",
            [PREDICTED, counter("tidegate_feature_missing_total", 100, view="weather")],
            "3h",
            False,
            id="missing-10-percent",
        ),
        pytest.param(
            "TidegateValuesUnusual",
            [PREDICTED, counter("tidegate_unusual_values_total", 100, input="carrier")],
            "3h",
            True,
            id="unusual-10-percent",
        ),
        pytest.param(
            "TidegateValuesUnusual",
            [PREDICTED, counter("tidegate_unusual_values_total", 10, input="carrier")],
            "3h",
            False,
            id="unusual-1-percent",
        ),
        pytest.param("TidegatePredictionsShifted", predictions(SAME, MOVED), "9d12h", True, id="moved"),
        pytest.param("TidegatePredictionsShifted", predictions(SAME, SAME), "9d12h", False, id="as-before"),
        pytest.param(
            "TidegatePredictionsShifted",
            predictions([one / 50 for one in SAME], [one / 50 for one in MOVED]),
            "9d12h",
            False,
            id="too-few",
        ),
        pytest.param("TidegateDriftDetected", level("tidegate_drift_detected", 1, kind="data"), "10m", True, id="drift"),
        pytest.param("TidegateDriftDetected", level("tidegate_drift_detected", 0, kind="data"), "10m", False, id="no-drift"),
        pytest.param(
            "TidegateDriftNotChecked", level("tidegate_drift_checked_timestamp_seconds", 0), "3d", True, id="checked-long-ago"
        ),
        pytest.param(
            "TidegateDriftNotChecked", level("tidegate_drift_checked_timestamp_seconds", 172_800), "3d", False, id="yesterday"
        ),
    ],
)
def test_alert_fires_when_it_must_and_only_then(promtool, tmp_path, alert, series, at, fires):
    step = "30m" if alert.endswith(("Shifted", "SlowBurn")) else "5m"
    done = promtool("test", alert_test(tmp_path, MONITORING / "prometheus-rule.yaml", alert, series, at, fires, step))

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    tested = {case.values[0] for case in test_alert_fires_when_it_must_and_only_then.pytestmark[0].args[1]}

    assert tested == {rule["alert"] for rule in rules_in(MONITORING / "prometheus-rule.yaml") if "alert" in rule}


def at_the_gateway(gateway, good, bad):
    if gateway == "istio":
        labels = 'reporter="source",destination_service_namespace="models",destination_service_name="late-v1-predictor"'
        series = {
            f'istio_requests_total{{{labels},response_code="{code}"}}': rate for code, rate in (("200", good), ("503", bad))
        }
    else:
        labels = 'envoy_cluster_name="models/late-predictor-00001"'
        series = {
            f'envoy_cluster_upstream_rq_xx{{{labels},envoy_response_code_class="{code}"}}': rate
            for code, rate in (("2", good), ("5", bad))
        }
    return [{"series": name, "values": f"0+{rate}x100"} for name, rate in series.items()]


@pytest.mark.parametrize("gateway", ["istio", "envoy"])
@pytest.mark.parametrize(
    ("good", "bad", "fires"), [pytest.param(90, 10, True, id="10-percent"), pytest.param(99, 1, False, id="1-percent")]
)
def test_gateway_alert(promtool, tmp_path, gateway, good, bad, fires):
    rules = MONITORING / f"gateway-{gateway}" / "prometheus-rule.yaml"
    series = at_the_gateway(gateway, good, bad)

    done = promtool("test", alert_test(tmp_path, rules, "TidegateGatewayErrors", series, "30m", fires, "1m"))

    assert done.returncode == 0, done.stdout + done.stderr


def alert_test(folder, rules, alert, series, at, fires, step):
    needed = {"groups": [{"name": group["name"], "rules": what_it_needs(alert, rules, group)} for group in groups_in(rules)]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(needed))
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    expected = [{"labels": "{}", "value": int(fires)}]
    return {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": step,
        "group_eval_order": [group["name"] for group in groups_in(rules)],
        "tests": [
            {
                "interval": step,
                "input_series": series,
                "promql_expr_test": [{"expr": firing, "eval_time": at, "exp_samples": expected}],
            }
        ],
    }


def what_it_needs(alert, rules, group):
    """The rules of `group` that the alert is computed from, in their order: days of all rules would take minutes."""
    by_record = {rule["record"]: rule for rule in rules_in(rules) if "record" in rule}
    (wanted,) = [rule for rule in rules_in(rules) if rule.get("alert") == alert]
    needed, left = [wanted], [wanted]
    while left:
        records = set(re.findall(r"\btidegate:[a-z0-9_:]+", left.pop()["expr"]))
        left += [by_record[record] for record in records if by_record[record] not in needed]
        needed += left
    return [rule for rule in group["rules"] if rule in needed]
