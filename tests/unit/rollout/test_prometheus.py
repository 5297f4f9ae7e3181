"""The judge's view of a cluster, with a Prometheus that answers what the test says."""

import http.server
import json
import threading
import urllib.parse

import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.errors import DeploymentError, RolloutError
from tidegate.project.cluster import Prometheus
from tidegate.rollout import prometheus_api
from tidegate.rollout.prometheus import PrometheusMetricsSource
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS

NOW = 1_000_000.0


class FakeTarget:
    def __init__(self):
        self.service = Service("late", "models", Revision("v1", "s3://b/1/"), Revision("v2", "s3://b/2/"), 10)

    def get(self, name):
        return self.service

    def backends(self, name):
        return {"v1": "late-v1-predictor", "v2": "late-v2-predictor"}


@pytest.fixture
def server(monkeypatch):
    """Prometheus: `matrix` answers range selectors by metric, `newest` is the newest sample of the gateway's metric."""
    monkeypatch.setattr(prometheus_api, "_PAUSE", 0.01)
    monkeypatch.setattr(prometheus_api, "_PATIENCE", 0.1)

    class Handler(http.server.BaseHTTPRequestHandler):
        gateway: list = []
        latency: list = []
        newest: float | None = None
        raw: list = []  # (status, headers, body) to answer with, whatever is asked; the last one stays
        seen: list = []

        def do_GET(self):
            asked = urllib.parse.urlsplit(self.path)
            parameters = dict(urllib.parse.parse_qsl(asked.query))
            self.seen.append((asked.path, parameters, dict(self.headers)))
            if self.raw:
                status, headers, body = self.raw.pop(0) if len(self.raw) > 1 else self.raw[0]
            else:
                status, headers, body = 200, {}, json.dumps(self.answer(parameters["query"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def answer(self, query):
            if query == "time()":
                kind, result = "scalar", [NOW, str(NOW)]
            elif query.startswith("max(timestamp("):
                kind, result = "vector", [] if self.newest is None else [{"metric": {}, "value": [NOW, str(self.newest)]}]
            else:
                kind, result = "matrix", self.latency if LATENCY in query else self.gateway
            return {"status": "success", "data": {"resultType": kind, "result": result}}

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.handle_error = lambda *_: None  # a client that gave up
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    Handler.raw, Handler.seen, Handler.latency, Handler.gateway = [], [], histogram("v1"), []
    Handler.newest = NOW - 1
    Handler.url = f"http://127.0.0.1:{running.server_address[1]}"
    yield Handler
    running.shutdown()
    running.server_close()


@pytest.fixture
def make_source(server):
    def make(gateway="istio", token=None, target=None):
        return PrometheusMetricsSource(Prometheus(url=server.url, gateway=gateway, token=token), target or FakeTarget())

    return make


def samples(*values, every=15.0, age=1.0):
    return [[NOW - age - every * (len(values) - 1 - index), str(value)] for index, value in enumerate(values)]


def istio(backend, code, *values, **labels):
    metric = {"destination_service_name": backend, "response_code": code, "instance": "gateway:15020", "job": "pods"} | labels
    return {"metric": metric, "values": samples(*values)}


def histogram(revision, *counts, pod="a"):
    cumulative = [sum(counts[: index + 1]) for index in range(len(LATENCY_BOUNDS) + 1)]
    bounds = [*(f"{bound:.10g}" for bound in LATENCY_BOUNDS), "+Inf"]
    return [
        {
            "metric": {"revision": revision, "le": le, "pod": pod, "instance": f"{pod}:8080", "job": "pods"},
            "values": samples(count),
        }
        for le, count in zip(bounds, cumulative, strict=True)
    ]


def seen(source):
    return {revision: (one.requests, one.errors) for revision, one in source.observe("late").items()}


def test_counts_by_revision_over_all_proxies(server, make_source):
    server.gateway = [
        istio("late-v1-predictor", "200", 90, 100),
        istio("late-v1-predictor", "200", 7, instance="other:15020"),
        istio("late-v1-predictor", "400", 3),
        istio("late-v2-predictor", "200", "1e+01"),
        istio("late-v2-predictor", "503", 2),
        istio("late-v2-predictor", "0", 1),
    ]
    server.latency = [*histogram("v1", 5, 7), *histogram("v1", 1, pod="b"), *histogram("v2", 0, 0, 4)]

    observed = make_source().observe("late")

    assert {name: (one.requests, one.errors) for name, one in observed.items()} == {"v1": (110, 0), "v2": (13, 3)}
    assert observed["v1"].latency.counts[:3] == (6, 7, 0)
    assert observed["v2"].latency.counts[:3] == (0, 0, 4)
    assert observed["v1"].latency.bounds == LATENCY_BOUNDS
    assert len(observed["v1"].latency.counts) == len(LATENCY_BOUNDS) + 1


def test_envoy_errors_never_exceed_requests(server, make_source):
    def envoy(metric, value, **labels):
        labels |= {"__name__": f"envoy_cluster_upstream_rq_{metric}", "envoy_cluster_name": "models/late-v2-predictor"}
        return {"metric": labels, "values": samples(value)}

    server.gateway = [
        envoy("xx", 10, envoy_response_code_class="2"),
        envoy("xx", 1, envoy_response_code_class="5"),
        envoy("retry_success", 12),
        envoy("total", 30),
    ]

    assert seen(make_source("envoy")) == {"v1": (0, 0), "v2": (11, 11)}


def test_first_look_takes_in_an_hour_and_the_next_what_is_new(server, make_source):
    source = make_source()
    source.observe("late")
    source.observe("late")

    asked = [
        (parameters["query"].rpartition("[")[2], parameters["time"]) for _, parameters, _ in server.seen if "time" in parameters
    ]
    ranges = [(seconds, at) for seconds, at in asked if seconds.endswith("ms]")]
    past, recent, new = ("3300000ms:60000ms]", repr(NOW - 300)), ("360000ms]", repr(NOW)), ("60000ms]", repr(NOW))
    assert ranges == [past, past, recent, recent, new, new]


@pytest.mark.parametrize(
    ("age", "newest", "message"),
    [
        pytest.param(44, None, None, id="within three scrapes"),
        pytest.param(50, None, "has scraped no istio_requests_total.* for 50 s: is the gateway up", id="proxy is gone"),
        pytest.param(50, NOW - 48, "has scraped no istio_requests_total.* for 48 s", id="all proxies are gone"),
        pytest.param(50, NOW - 2, None, id="another proxy is scraped"),
    ],
)
def test_silence_of_the_gateway(server, make_source, age, newest, message):
    metric = istio("late-v1-predictor", "200")["metric"]
    server.gateway = [{"metric": metric, "values": samples(1, 2, 3, age=age)}]
    server.newest = newest
    source = make_source()

    if message is None:
        assert seen(source)["v1"] == (3, 0)
    else:
        with pytest.raises(RolloutError, match=message):
            source.observe("late")


@pytest.mark.parametrize(
    ("gateway", "newest", "message"),
    [
        pytest.param("istio", NOW - 1, None, id="istio without traffic"),
        pytest.param("istio", None, "holds no istio_requests_total.*: is the gateway scraped", id="istio not scraped"),
        pytest.param("envoy", None, "holds no envoy_cluster_upstream_rq_total: is the gateway scraped", id="envoy not scraped"),
        pytest.param(
            "envoy",
            NOW - 1,
            "none of a cluster for models/late-v1-predictor or models/late-v2-predictor alone; Envoy Gateway needs",
            id="envoy that merges revisions",
        ),
    ],
)
def test_gateway_that_counts_nothing(server, make_source, gateway, newest, message):
    server.newest = newest

    if message is None:
        assert seen(make_source(gateway)) == {"v1": (0, 0), "v2": (0, 0)}
    else:
        with pytest.raises(RolloutError, match=message):
            make_source(gateway).observe("late")


def test_process_that_is_scraped_twice_is_refused(server, make_source):
    again = {"job": "annotated", "instance": "gateway:15090", "pod": "gateway"}
    server.gateway = [istio("late-v1-predictor", "200", 5, pod="gateway"), istio("late-v1-predictor", "200", 5, **again)]

    with pytest.raises(RolloutError, match="scrapes gateway more than once, as jobs annotated, pods"):
        make_source().observe("late")


def test_servers_that_are_not_scraped_are_named(server, make_source):
    server.gateway, server.latency = [istio("late-v1-predictor", "200", 5)], []

    with pytest.raises(RolloutError, match=rf'holds no {LATENCY}_bucket.*model="late",.*: are the model servers'):
        make_source().observe("late")


def test_dead_canary_has_no_latency_and_all_its_errors(server, make_source):
    server.gateway = [istio("late-v1-predictor", "200", 90), istio("late-v2-predictor", "503", 10)]

    observed = make_source().observe("late")

    assert (observed["v2"].requests, observed["v2"].errors, sum(observed["v2"].latency.counts)) == (10, 10, 0)


def test_other_buckets_are_refused(server, make_source):
    server.latency = histogram("v1", 1)[1:]

    with pytest.raises(RolloutError, match=rf"has other buckets of {LATENCY} from a than this version of Tidegate"):
        make_source().observe("late")


def answer(body, status=200, **headers):
    return [(status, headers, body if isinstance(body, str) else json.dumps(body))]


def success(kind="scalar", result=(NOW, "1"), **more):
    return {"status": "success", "data": {"resultType": kind, "result": result}} | more


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(answer("", 401), "refuses the query with 401: name the variable with a bearer token", id="401"),
        pytest.param(answer("", 403), "refuses the query with 403", id="403"),
        pytest.param(answer({"status": "error", "error": "parse error: x"}, 400), "answers 400: parse error: x", id="400"),
        pytest.param(answer("<h1>no</h1>", 404), "answers 404: <h1>no</h1>", id="404"),
        pytest.param(answer("busy", 503), "answers 503: busy", id="503 for good"),
        pytest.param(
            answer("", 302, location="https://login/"), "redirects to https://login/: give the address", id="redirect"
        ),
        pytest.param(answer("<html>"), "answers with something that is not JSON: <html>", id="not JSON"),
        pytest.param(answer("[]"), "answers with something else than query results", id="a list"),
        pytest.param(answer("{}"), "answers with something else than query results", id="empty"),
        pytest.param(answer({"status": "error", "error": "too many samples"}), "answers with an error: too many", id="error"),
        pytest.param(answer(success(warnings=["store x is down"])), "its answer is not whole: store x is down", id="warning"),
        pytest.param(answer(success(kind="string")), "answers with a string where a scalar is due", id="another type"),
        pytest.param(answer(success(result=[NOW, "x"])), "answers with x where a number is due", id="no number"),
    ],
)
def test_answer_that_is_no_evidence_is_one_clear_line(server, make_source, raw, message):
    server.raw = raw

    with pytest.raises(RolloutError, match=message) as raised:
        make_source().observe("late")

    assert str(raised.value).startswith(f"Prometheus at {server.url} ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "value", [pytest.param(text, id=text) for text in ("1.5", "NaN", "-1", "+Inf", "1e300", "9007199254740994")]
)
def test_counter_that_is_no_whole_number_is_refused(server, make_source, value):
    server.gateway = [istio("late-v1-predictor", "200", value)]

    with pytest.raises(RolloutError, match="which is no whole number"):
        make_source().observe("late")


@pytest.mark.parametrize(
    "series",
    [
        pytest.param({"metric": {}, "values": [[1]]}, id="half a sample"),
        pytest.param({"metric": {}, "values": [[NOW, "x"]]}, id="text"),
        pytest.param({"values": []}, id="no labels"),
        pytest.param(7, id="number"),
    ],
)
def test_malformed_series_is_one_clear_line(server, make_source, series):
    server.gateway = [series]

    with pytest.raises(RolloutError, match="answers with a malformed series"):
        make_source().observe("late")


def test_passing_failure_is_tried_again(server, make_source):
    server.raw = [*answer("", 503), *answer("", 502), *answer(success(result=[NOW, str(NOW)])), *answer(success("matrix", []))]
    server.newest = NOW - 1

    with pytest.raises(RolloutError, match="where a vector is due"):
        make_source().observe("late")
    assert [parameters["query"] for _, parameters, _ in server.seen[:4]].count("time()") == 3


def test_unreachable(make_source, server):
    source = PrometheusMetricsSource(Prometheus(url="http://127.0.0.1:1"), FakeTarget())

    with pytest.raises(RolloutError, match=r"Prometheus at http://127.0.0.1:1 cannot be reached: .*refused"):
        source.observe("late")


def test_silent_prometheus_does_not_hang(server, make_source, monkeypatch):
    monkeypatch.setattr(prometheus_api, "_TIMEOUT", 0.1)
    waiting = threading.Event()
    monkeypatch.setattr(server, "answer", lambda *_: waiting.wait(5))

    with pytest.raises(RolloutError, match="cannot be reached: timed out"):
        make_source().observe("late")
    waiting.set()


def test_token_comes_from_its_variable(server, make_source, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_TOKEN", "secret\n")
    make_source(token="PROMETHEUS_TOKEN").observe("late")
    assert {headers["Authorization"] for _, _, headers in server.seen} == {"Bearer secret"}

    monkeypatch.setenv("PROMETHEUS_TOKEN", "two\r\nlines: x")
    with pytest.raises(RolloutError, match="the variable PROMETHEUS_TOKEN holds no bearer token"):
        make_source(token="PROMETHEUS_TOKEN")

    monkeypatch.delenv("PROMETHEUS_TOKEN")
    with pytest.raises(RolloutError, match=r"cluster\.prometheus\.token: the variable PROMETHEUS_TOKEN is not set"):
        make_source(token="PROMETHEUS_TOKEN")


def test_service_that_is_not_there(make_source):
    target = FakeTarget()
    target.service = None

    with pytest.raises(RolloutError, match="service late cannot be observed: there is none"):
        make_source(target=target).observe("late")


def test_cluster_that_does_not_answer(make_source, monkeypatch):
    def silent(*_):
        raise DeploymentError("the API server does not answer")

    target = FakeTarget()
    target.backends = silent

    with pytest.raises(RolloutError, match="service late cannot be observed: the API server does not answer"):
        make_source(target=target).observe("late")


def test_canary_that_loses_its_traffic_keeps_its_errors(server, make_source):
    target = FakeTarget()
    source = make_source(target=target)
    server.gateway = [istio(f"late-{revision}-predictor", "200", 10) for revision in ("v1", "v2")]
    assert seen(source) == {"v1": (10, 0), "v2": (10, 0)}

    target.backends = lambda name: {"v1": "late-v1-predictor"}
    server.gateway = [istio("late-v2-predictor", "503", 7)]

    assert seen(source) == {"v1": (10, 0), "v2": (17, 7)}


def test_revision_of_several_backends_is_one(server, make_source):
    target = FakeTarget()
    source = make_source(target=target)
    target.backends = lambda name: {"v1": "late-predictor-00001"}
    server.gateway = [istio("late-predictor-00001", "200", 90)]
    assert seen(source) == {"v1": (90, 0)}

    target.backends = lambda name: {"v1": "late-predictor-00002"}
    server.gateway.append(istio("late-predictor-00002", "200", 5))

    assert seen(source) == {"v1": (95, 0)}


def test_service_without_traffic_is_one_clear_line(make_source):
    target = FakeTarget()
    target.backends = lambda name: {}

    with pytest.raises(RolloutError, match="service late cannot be observed: none of its revisions gets traffic"):
        make_source(target=target).observe("late")
