"""InferenceService documents of both dialects: what each choice of the project file becomes."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.documents import knative_document, read_service, standard_document
from tidegate.errors import DeploymentError

GPU = {
    "runtime": "tidegate-onnx-gpu",
    "accelerator": {
        "resource": "nvidia.com/mig-1g.10gb",
        "count": 2,
        "node_selector": {"nvidia.com/gpu.product": "NVIDIA-L4"},
        "runtime_class": "nvidia",
        "shared_memory": "2Gi",
    },
}


def annotations(document: dict[str, Any]) -> dict[str, str]:
    return document["metadata"]["annotations"]


def predictor(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["predictor"]


def variables(fields: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value") for entry in fields["model"]["env"]}


def test_a_service_without_a_canary_is_one_named_predictor(cluster, v1, schema_errors):
    document = standard_document(Service("flights-late", "flights", v1), cluster())

    assert document["metadata"]["namespace"] == "flights"
    assert document["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "tidegate"}
    assert annotations(document)["serving.kserve.io/deploymentMode"] == "Standard"
    assert "canary" not in document["spec"]
    assert predictor(document)["name"] == "v1"
    assert predictor(document)["serviceAccountName"] == "tidegate-serving"
    assert predictor(document)["timeout"] == 60
    assert predictor(document)["model"]["storageUri"].endswith("/versions/1/")
    assert predictor(document)["model"]["protocolVersion"] == "v2"
    assert predictor(document)["model"]["runtime"] == "tidegate-onnx"
    assert schema_errors(document) == []


def test_a_standard_canary_has_its_percent_and_a_fixed_number_of_replicas(cluster, service, schema_errors):
    serving = {"min_replicas": 3, "max_replicas": 9, "autoscaling": {"by": "cpu", "target": 70}}
    three = Service(service.name, service.namespace, _with(service.stable, 3), _with(service.canary, 3), 5)

    document = standard_document(three, cluster(serving=serving))
    [canary] = document["spec"]["canary"]

    assert canary["trafficPercent"] == 5
    assert canary["predictor"]["name"] == "v2"
    assert canary["predictor"]["minReplicas"] == 1
    assert not {"maxReplicas", "scaleTarget", "scaleMetric", "autoScaling"} & canary["predictor"].keys()
    assert predictor(document)["maxReplicas"] == 9
    assert predictor(document)["scaleTarget"] == 70
    assert predictor(document)["scaleMetric"] == "cpu"
    assert annotations(document)["serving.kserve.io/autoscalerClass"] == "hpa"
    assert schema_errors(document) == []


@pytest.mark.parametrize(
    ("stable", "canary", "percent", "expected"),
    [
        pytest.param(1, 1, 0, (1, 1), id="one-each-even-at-0-percent"),
        pytest.param(1, 1, 50, (1, 1), id="one-each"),
        pytest.param(2, 2, 5, (3, 1), id="of-2-KServe-takes-1-so-3-are-asked-for"),
        pytest.param(10, 10, 5, (11, 1), id="one-more-until-the-canary-is-ready"),
        pytest.param(10, 10, 10, (10, 1), id="shares-that-come-out-even"),
        pytest.param(10, 10, 50, (10, 5), id="half-each"),
        pytest.param(10, 10, 100, (10, 10), id="everything-to-the-canary"),
        pytest.param(4, 1, 50, (4, 1), id="a-canary-that-keeps-fewer"),
        pytest.param(1, 8, 50, (4, 4), id="a-canary-that-keeps-more-never-has-more-than-the-stable"),
        pytest.param(0, 0, 5, (1, 1), id="nothing-scales-to-zero-while-there-is-a-canary"),
    ],
)
def test_replicas_while_there_is_a_canary(cluster, service, stable, canary, percent, expected):
    asked = Service(service.name, service.namespace, _with(service.stable, stable), _with(service.canary, canary), percent)
    serving = {"min_replicas": 0, "max_replicas": 5, "autoscaling": {"by": "prometheus", "query": "sum(up)"}}

    document = standard_document(asked, cluster(serving=serving, prometheus={"url": "http://prometheus:9090"}))

    replicas = predictor(document)["minReplicas"], document["spec"]["canary"][0]["predictor"]["minReplicas"]
    assert replicas == expected
    assert read_service(document) == asked


def test_with_accelerators_the_stable_asks_for_no_more_than_it_had(cluster, service):
    asked = Service(service.name, service.namespace, _with(service.stable, 2), _with(service.canary, 2), 5)

    document = standard_document(asked, cluster(serving={**GPU, "min_replicas": 2, "max_replicas": 2}))

    assert predictor(document)["minReplicas"] == 2
    assert document["spec"]["canary"][0]["predictor"]["minReplicas"] == 1


def test_a_canary_says_all_that_the_stable_says_since_kserve_merges_it_over_the_stable(cluster, service):
    serving = {**GPU, "spread": True, "log_payloads_to": "http://sink", "node_selector": {"pool": "serving"}}

    document = standard_document(service, cluster(serving=serving))
    stable, canary = predictor(document), document["spec"]["canary"][0]["predictor"]

    assert stable.keys() == canary.keys()
    assert stable["model"].keys() == canary["model"].keys()
    assert stable["nodeSelector"] == canary["nodeSelector"]


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_what_changes_during_a_rollout_never_reaches_the_pods(cluster, service, mode):
    """KServe copies annotations to the pods, where a predictor's own win: a change there restarts pods or makes a revision."""
    section = cluster(mode=mode)

    def templates(now: Service) -> list[dict[str, Any]]:
        document = (
            standard_document(now, section)
            if mode == "Standard"
            else knative_document(now, section, latest=now.canary or now.stable, percent=now.canary_percent or None)
        )
        predictors = [predictor(document), *(canary["predictor"] for canary in document["spec"].get("canary", []))]
        return [_pod_template(document, fields) for fields in predictors]

    at_5, at_50 = templates(service), templates(service.with_canary(service.canary, 50))
    promoted = templates(service.promoted())

    assert at_5 == at_50
    assert promoted[-1] == at_5[-1]


def test_the_model_server_knows_what_it_serves_and_gets_secrets_by_reference_only(cluster, service):
    secrets = [{"variable": "REDIS_PASSWORD", "secret": "redis", "key": "password"}]

    document = standard_document(service, cluster(secrets=secrets))

    stable, canary = predictor(document), document["spec"]["canary"][0]["predictor"]
    assert variables(stable) == {
        "TIDEGATE_NAME": "flights-late",
        "TIDEGATE_REVISION": "v1",
        "TIDEGATE_VERSION": "1",
        "TIDEGATE_WORKERS": "2",
        "REDIS_PASSWORD": None,
    }
    assert variables(canary)["TIDEGATE_REVISION"] == "v2"
    assert variables(canary)["TIDEGATE_VERSION"] == "2"
    assert stable["model"]["env"][-1]["valueFrom"] == {"secretKeyRef": {"name": "redis", "key": "password"}}


def test_a_secret_may_not_hide_a_setting(cluster, service):
    secrets = [{"variable": "TIDEGATE_WORKERS", "secret": "redis", "key": "password"}]

    with pytest.raises(DeploymentError, match=r"cluster.secrets: TIDEGATE_WORKERS is a setting"):
        standard_document(service, cluster(secrets=secrets))


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_accelerator_placement_and_shared_memory(cluster, service, mode, schema_errors):
    serving = {**GPU, "node_selector": {"pool": "serving"}, "tolerations": [{"key": "spot"}], "cpu": "4", "memory": "8Gi"}

    document = _build(mode, service, cluster(mode=mode, serving=serving))
    fields = predictor(document)

    expected = {"cpu": "4", "memory": "8Gi", "nvidia.com/mig-1g.10gb": "2"}
    assert fields["model"]["resources"] == {"requests": expected, "limits": expected}
    assert fields["nodeSelector"] == {"pool": "serving", "nvidia.com/gpu.product": "NVIDIA-L4"}
    assert [toleration["key"] for toleration in fields["tolerations"]] == ["spot", "nvidia.com/gpu"]
    assert fields["runtimeClassName"] == "nvidia"
    assert fields["volumes"] == [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}]
    assert fields["model"]["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    assert schema_errors(document) == []


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_node_affinity(cluster, service, mode, schema_errors):
    zone = {"key": "topology.kubernetes.io/zone", "values": ["a", "b"]}
    large = {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["40000"], "required": False}

    document = _build(mode, service, cluster(mode=mode, serving={"node_affinity": [zone, large]}))

    affinity = predictor(document)["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": zone["key"], "operator": "In", "values": ["a", "b"]}]
    [preferred] = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    [expression] = preferred["preference"]["matchExpressions"]
    assert expression == {"key": large["key"], "operator": "Gt", "values": ["40000"]}
    assert schema_errors(document) == []


def test_a_share_of_a_gpu_is_a_resource_of_another_name(cluster, service):
    serving = {"runtime": "tidegate-onnx-gpu", "accelerator": {"resource": "nvidia.com/gpu.shared"}}

    document = standard_document(service, cluster(serving=serving))

    assert predictor(document)["model"]["resources"]["limits"]["nvidia.com/gpu.shared"] == "1"


def test_replicas_are_spread_by_revision(cluster, service):
    document = standard_document(service, cluster(serving={"spread": True}))

    [constraint] = predictor(document)["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    assert constraint["labelSelector"]["matchLabels"]["tidegate.dev/revision"] == "v1"


def test_the_payload_logger_tells_revisions_apart(cluster, service, schema_errors):
    document = standard_document(service, cluster(serving={"log_payloads_to": "http://broker.logs/default"}))

    assert predictor(document)["logger"] == {"mode": "all", "url": "http://broker.logs/default"}
    assert predictor(document)["labels"]["endpoint"] == "v1"
    assert document["spec"]["canary"][0]["predictor"]["labels"]["endpoint"] == "v2"
    assert schema_errors(document) == []


def test_replaced_in_place_there_is_one_deployment_and_never_one_pod_more(cluster, v1, v2, schema_errors):
    documents = [
        standard_document(Service("flights-late", "flights", revision), cluster(serving=GPU), in_place=True)
        for revision in (v1, v2)
    ]

    for document in documents:
        assert "name" not in predictor(document)
        assert predictor(document)["deploymentStrategy"] == {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
        }
        assert schema_errors(document) == []
    assert [read_service(document).stable for document in documents] == [v1, v2]


@pytest.mark.parametrize(
    ("percent", "expected"), [pytest.param(5, 5, id="split"), pytest.param(0, 0, id="zero"), pytest.param(None, None, id="all")]
)
def test_a_knative_document_is_its_latest_revision(cluster, service, percent, expected, schema_errors):
    latest = service.canary if percent is not None else service.stable

    document = knative_document(service, cluster(mode="Knative"), latest=latest, percent=percent)

    assert annotations(document)["serving.kserve.io/deploymentMode"] == "Knative"
    assert annotations(document)["serving.kserve.io/enable-tag-routing"] == "true"
    assert "serving.kserve.io/autoscalerClass" not in annotations(document)
    assert predictor(document).get("canaryTrafficPercent") == expected
    assert "name" not in predictor(document)
    assert predictor(document)["labels"]["tidegate.dev/revision"] == latest.name
    assert schema_errors(document) == []
    assert read_service(document) == service


def test_a_knative_rollback_keeps_the_canary_as_latest_with_nothing(cluster, service, v2):
    document = knative_document(service.rolled_back(), cluster(mode="Knative"), latest=v2, percent=0)

    assert predictor(document)["canaryTrafficPercent"] == 0
    assert read_service(document) == service.rolled_back()


SCALING = [
    pytest.param("Standard", {}, {"serving.kserve.io/autoscalerClass": "none"}, {"minReplicas": 1}, id="standard-none"),
    pytest.param(
        "Standard",
        {"max_replicas": 4, "autoscaling": {"by": "memory", "target": 80}},
        {"serving.kserve.io/autoscalerClass": "hpa"},
        {"maxReplicas": 4, "scaleMetric": "memory", "scaleTarget": 80},
        id="standard-memory",
    ),
    pytest.param(
        "Standard",
        {"max_replicas": 4, "autoscaling": {"by": "prometheus", "target": 100, "query": "sum(rate(r[1m]))"}},
        {"serving.kserve.io/autoscalerClass": "keda"},
        {
            "maxReplicas": 4,
            "autoScaling": {
                "metrics": [
                    {
                        "type": "External",
                        "external": {
                            "metric": {
                                "backend": "prometheus",
                                "serverAddress": "http://prometheus:9090",
                                "query": "sum(rate(r[1m]))",
                            },
                            "target": {"type": "Value", "value": "100"},
                        },
                    }
                ]
            },
        },
        id="standard-prometheus",
    ),
    pytest.param(
        "Standard",
        {"max_replicas": 4, "autoscaling": {"by": "kafka", "brokers": "k:9092", "topic": "t", "consumer_group": "g"}},
        {"serving.kserve.io/autoscalerClass": "external"},
        {"minReplicas": 1},
        id="standard-kafka-by-its-own-scaled-object",
    ),
    pytest.param(
        "Knative",
        {"min_replicas": 0, "max_replicas": 9, "autoscaling": {"by": "concurrency", "target": 8}},
        {},
        {"minReplicas": 0, "maxReplicas": 9, "scaleMetric": "concurrency", "scaleTarget": 8},
        id="knative-concurrency-to-zero",
    ),
    pytest.param(
        "Knative",
        {"max_replicas": 9, "autoscaling": {"by": "rps", "target": 500}},
        {},
        {"maxReplicas": 9, "scaleMetric": "rps", "scaleTarget": 500},
        id="knative-rps-over-100",
    ),
    pytest.param(
        "Knative",
        {"max_replicas": 9, "autoscaling": {"by": "cpu", "target": 60}},
        {"autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev"},
        {"maxReplicas": 9, "scaleMetric": "cpu", "scaleTarget": 60},
        id="knative-cpu-by-its-hpa",
    ),
    pytest.param("Knative", {}, {}, {"minReplicas": 1, "maxReplicas": 1}, id="knative-none-is-fixed"),
]


@pytest.mark.parametrize(("mode", "serving", "on_service", "on_predictor"), SCALING)
def test_autoscaling(cluster, v1, mode, serving, on_service, on_predictor, schema_errors):
    section = cluster(mode=mode, serving=serving, prometheus={"url": "http://prometheus:9090"})
    kept = section.serving.min_replicas

    document = _build(mode, Service("flights-late", "flights", _with(v1, kept)), section)

    assert on_service.items() <= annotations(document).items()
    for field, value in on_predictor.items():
        assert predictor(document)[field] == value
    assert schema_errors(document) == []


def test_knatives_memory_target_is_in_mebibytes(cluster, v1):
    section = cluster(
        mode="Knative", serving={"max_replicas": 3, "memory": "2Gi", "autoscaling": {"by": "memory", "target": 75}}
    )

    document = _build("Knative", Service("flights-late", "flights", v1), section)

    assert predictor(document)["annotations"]["autoscaling.knative.dev/metric"] == "memory"
    assert predictor(document)["annotations"]["autoscaling.knative.dev/target"] == "1536"
    assert "scaleTarget" not in predictor(document)


def test_a_canary_beside_keda_has_fixed_replicas(cluster, service):
    serving = {"max_replicas": 4, "autoscaling": {"by": "prometheus", "query": "sum(up)"}}

    document = standard_document(service, cluster(serving=serving, prometheus={"url": "http://prometheus:9090"}))

    key = "serving.kserve.io/autoscalerClass"
    assert document["spec"]["canary"][0]["predictor"]["annotations"][key] == "none"
    assert key not in predictor(document)["annotations"]


def test_prometheus_with_a_token_is_asked_through_a_trigger_authentication(cluster, v1, schema_errors):
    section = cluster(
        serving={"max_replicas": 4, "autoscaling": {"by": "prometheus", "query": "sum(up)"}},
        prometheus={"url": "https://thanos:9091", "token": "PROMETHEUS_TOKEN"},
    )

    document = standard_document(Service("flights-late", "flights", v1), section)

    [metric] = predictor(document)["autoScaling"]["metrics"]
    assert metric["external"]["authenticationRef"] == {
        "authModes": "bearer",
        "authenticationRef": {"name": "tidegate-prometheus"},
    }
    assert schema_errors(document) == []


REFUSED = [
    pytest.param("Standard", {"mode": "Knative"}, {}, "whose webhook refuses spec.canary", id="canary-in-knative-mode"),
    pytest.param("Knative", {"mode": "Standard"}, {}, "canaryTrafficPercent is ignored", id="percent-in-standard-mode"),
    pytest.param(
        "Standard", {}, {"in_place": True}, "replaced in place, so there can be no canary v2", id="in-place-with-a-canary"
    ),
    pytest.param(
        "Standard",
        {"serving": {"max_replicas": 2, "autoscaling": {"by": "prometheus", "query": "up"}}},
        {},
        "needs cluster.prometheus.url",
        id="prometheus-nowhere",
    ),
    pytest.param(
        "Knative",
        {"mode": "Knative", "serving": {"min_replicas": 0, "max_replicas": 2, "autoscaling": {"by": "cpu"}}},
        {},
        "never scales to zero",
        id="hpa-to-zero",
    ),
    pytest.param("Knative", {"mode": "Knative"}, {"percent": 101}, "must lie between 0 and 100", id="percent-over-100"),
    pytest.param("Knative", {"mode": "Knative"}, {"percent": -1}, "must lie between 0 and 100", id="percent-under-0"),
    pytest.param("Knative", {"mode": "Knative"}, {"percent": None}, "would get all traffic", id="all-traffic-to-a-canary"),
    pytest.param(
        "Knative",
        {"mode": "Knative"},
        {"latest": Revision("v9", "s3://bucket/models/9/"), "percent": 5},
        "neither stable nor canary",
        id="traffic-to-a-stranger",
    ),
]


@pytest.mark.parametrize(("dialect", "section", "arguments", "message"), REFUSED)
def test_wrong_pairings_are_refused_with_an_explanation(cluster, service, dialect, section, arguments, message):
    kept = section.get("serving", {}).get("min_replicas", 1)
    asked = Service(service.name, service.namespace, _with(service.stable, kept), _with(service.canary, kept), 5)

    build = {
        "Standard": lambda: standard_document(asked, cluster(**section), **arguments),
        "Knative": lambda: knative_document(asked, cluster(**section), **{"latest": asked.canary, "percent": 5, **arguments}),
    }[dialect]

    with pytest.raises(DeploymentError, match=message):
        build()


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
def test_equal_arguments_give_equal_documents(cluster, service, mode):
    first, second = (_build(mode, service, cluster(mode=mode, serving=GPU)) for _ in range(2))

    assert first == second
    assert list(first["metadata"]["annotations"]) == list(second["metadata"]["annotations"])


NOT_READABLE = [
    pytest.param(lambda document: annotations(document).pop("tidegate.dev/service"), "did not write it", id="not-ours"),
    pytest.param(lambda document: annotations(document).update({"tidegate.dev/service": "{"}), "is damaged", id="not-json"),
    pytest.param(lambda document: annotations(document).update({"tidegate.dev/service": "[]"}), "is damaged", id="no-object"),
    pytest.param(
        lambda document: annotations(document).update({"tidegate.dev/service": "{}"}), "is damaged", id="lacks-fields"
    ),
    pytest.param(lambda document: document["metadata"].update(name="copy"), "is about 'flights-late'", id="copied"),
    pytest.param(lambda document: document.pop("metadata"), "is malformed", id="no-metadata"),
]


@pytest.mark.parametrize(("damage", "message"), NOT_READABLE)
def test_a_document_that_tidegate_did_not_write_is_not_read(cluster, service, damage, message):
    document = copy.deepcopy(standard_document(service, cluster()))
    damage(document)

    with pytest.raises(DeploymentError, match=message):
        read_service(document)


def _build(mode: str, service: Service, section: Any) -> dict[str, Any]:
    if mode == "Standard":
        return standard_document(service, section)
    percent = service.canary_percent if service.canary else None
    return knative_document(service, section, latest=service.canary or service.stable, percent=percent)


def _with(revision: Revision, replicas: int) -> Revision:
    return Revision(revision.name, revision.storage_uri, env=revision.env, min_replicas=replicas)


def _pod_template(document: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """What KServe makes the pods from: buildObjectMeta and buildPodSpec of components/predictor.go, KServe at aaac4e2."""
    labels = {**document["metadata"]["labels"], **fields["labels"]}
    return {
        "labels": labels,
        "annotations": {**annotations(document), **fields["annotations"]},
        "spec": {key: fields.get(key) for key in ("model", "nodeSelector", "tolerations", "volumes", "serviceAccountName")},
    }


def test_standard_pods_have_a_port_for_grpc_and_serve_on_until_proxies_know_that_they_end(cluster, service):
    for fields in (
        predictor(standard_document(service, cluster())),
        standard_document(service, cluster())["spec"]["canary"][0]["predictor"],
    ):
        assert [(port["name"], port["containerPort"]) for port in fields["model"]["ports"]] == [("http1", 8080), ("h2c", 8081)]
        assert fields["model"]["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "5"]}}}


def test_knative_takes_neither_a_second_port_nor_a_lifecycle(cluster, service):
    fields = predictor(knative_document(service, cluster(mode="Knative"), latest=service.canary, percent=5))

    assert not {"ports", "lifecycle"} & fields["model"].keys()
    assert "terminationGracePeriodSeconds" not in fields


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        pytest.param({}, 30, id="as by default"),
        pytest.param({"TIDEGATE_DRAIN_SECONDS": "60.5", "TIDEGATE_DRAIN_DELAY_SECONDS": "2"}, 83, id="as the project says"),
    ],
)
def test_a_pod_has_time_to_drain_and_to_write_its_log(cluster, service, env, seconds):
    stable = replace(service.stable, env=env)

    fields = predictor(standard_document(replace(service, stable=stable), cluster()))

    assert fields["terminationGracePeriodSeconds"] == seconds
