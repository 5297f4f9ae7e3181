"""The judge through a real Prometheus, over a real Envoy that names its clusters as gateways do, and real model servers."""

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest
import yaml

from tests.ports import free_port
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.envoy import envoy_binary
from tidegate.deployment.target import RevisionStatus, ServiceStatus
from tidegate.project import load_project
from tidegate.project.cluster import Prometheus
from tidegate.registry.registry import ModelRegistry
from tidegate.rollout import prometheus_api
from tidegate.rollout.prometheus import PrometheusMetricsSource
from tidegate.rollout.rollout import run_rollout, start_rollout
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS
from tidegate.storage.directory import DirectoryStore

NAME, NAMESPACE = "flights-late", "models"
REVISIONS = ("v1", "v2")
TYPES = "type.googleapis.com/envoy."
BODY = json.dumps(
    {
        "inputs": [
            {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
            {"name": "origin", "shape": [1], "datatype": "BYTES", "data": ["EWR"]},
            {"name": "dest", "shape": [1], "datatype": "BYTES", "data": ["SFO"]},
            {"name": "distance", "shape": [1], "datatype": "FP32", "data": [1400.0]},
            {"name": "hour", "shape": [1], "datatype": "FP32", "data": [17.0]},
        ]
    }
).encode()


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


class Ingress:
    """An Envoy with one cluster a revision, and the target that moves its weights. Two tries a request, as Istio's default."""

    def __init__(self, folder, ports, cluster_name):
        self.folder, self.ports, self.cluster_name = folder, ports, cluster_name
        self.port, self.admin = free_port(), free_port()
        revisions = [Revision(name, f"file:///{name}/") for name in REVISIONS]
        self.service = Service(NAME, NAMESPACE, revisions[0])
        self.process = None

    def start(self):
        (self.folder / "envoy.json").write_text(json.dumps(self._bootstrap()))
        self._write_routes()
        log = (self.folder / "envoy.log").open("wb")
        command = [
            str(envoy_binary()),
            "-c",
            str(self.folder / "envoy.json"),
            "--concurrency",
            "1",
            "--base-id",
            str(os.getpid()),
        ]
        self.process = subprocess.Popen(command, stderr=log)
        return self

    def stop(self):
        self.process.kill()
        self.process.wait()

    def backends(self, name):
        return {revision: f"{NAME}-{revision}-predictor" for revision in REVISIONS}

    def get(self, name):
        return self.service

    def apply(self, service):
        self.service = service
        self._write_routes()

    def status(self, name):
        stable, canary, percent = self.service.stable, self.service.canary, self.service.canary_percent
        revisions = [RevisionStatus(stable.name, "stable", ready=True, traffic_percent=100 - percent)]
        if canary is not None:
            revisions.append(RevisionStatus(canary.name, "canary", ready=True, traffic_percent=percent))
        return ServiceStatus(name, f"http://127.0.0.1:{self.port}", tuple(revisions), settled=True)

    def wait(self, name, *, revision=None, timeout):
        time.sleep(0.3)  # Envoy watches the file
        return self.status(name)

    def delete(self, name):
        raise AssertionError("nothing here deletes")

    def _write_routes(self):
        weights = {self.service.stable.name: 100 - self.service.canary_percent}
        if self.service.canary is not None:
            weights[self.service.canary.name] = self.service.canary_percent
        clusters = [{"name": self._cluster(revision), "weight": weight} for revision, weight in weights.items()]
        retries = {"num_retries": 2, "retry_on": "5xx,connect-failure,reset"}
        action = {"weighted_clusters": {"clusters": clusters}, "retry_policy": retries, "timeout": "5s"}
        routes = {
            "@type": TYPES + "config.route.v3.RouteConfiguration",
            "name": "routes",
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}],
        }
        temporary = self.folder / "routes.tmp"
        temporary.write_text(json.dumps({"resources": [routes]}))
        temporary.replace(self.folder / "routes.json")

    def _cluster(self, revision):
        return self.cluster_name.format(namespace=NAMESPACE, service=self.backends(NAME)[revision])

    def _bootstrap(self):
        manager = {
            "@type": TYPES + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "ingress_http",
            "rds": {
                "route_config_name": "routes",
                "config_source": {
                    "path_config_source": {"path": str(self.folder / "routes.json")},
                    "resource_api_version": "V3",
                },
            },
            "http_filters": [
                {"name": "router", "typed_config": {"@type": TYPES + "extensions.filters.http.router.v3.Router"}},
            ],
        }
        clusters = [
            {
                "name": self._cluster(revision),
                "type": "STATIC",
                "connect_timeout": "1s",
                "load_assignment": {
                    "cluster_name": self._cluster(revision),
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(self.ports[revision])}}]}],
                },
            }
            for revision in REVISIONS
        ]
        filters = [{"name": "http", "typed_config": manager}]
        listener = {"name": "in", "address": address(self.port), "filter_chains": [{"filters": filters}]}
        return {
            "node": {"id": "ingress", "cluster": "ingress"},
            "admin": {"address": address(self.admin)},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }

    @contextmanager
    def load(self, clients=2):
        """Closed-loop clients; yields the count of answers by status."""
        answers, stopping = Counter(), threading.Event()

        def client():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            while not stopping.is_set():
                connection.request("POST", f"/v2/models/{NAME}/infer", BODY, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                answers[response.status] += 1
                time.sleep(0.002)
            connection.close()

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            stopping.set()
            for thread in threads:
                thread.join()


@pytest.fixture
def ports():
    return {revision: free_port() for revision in REVISIONS}


@pytest.fixture
def ingress(request, tmp_path, ports, prometheus):
    """Envoy, with clusters that are called as in Kourier unless the test says otherwise."""
    ingress = Ingress(tmp_path, ports, getattr(request, "param", "{namespace}/{service}")).start()
    prometheus.scrape(f"127.0.0.1:{ingress.admin}", path="/stats/prometheus", pod="gateway")
    for revision, port in ports.items():
        prometheus.scrape(f"127.0.0.1:{port}", pod=revision)
    yield ingress
    ingress.stop()


@pytest.fixture
def source(prometheus, ingress):
    return PrometheusMetricsSource(Prometheus(url=prometheus.url, gateway="envoy"), ingress)


@pytest.fixture
def model_servers(tmp_path, ports, tiny_package, wait_until):
    """One `tidegate serve` a revision."""
    processes = {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    for revision, port in ports.items():
        command = [sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve", str(tiny_package), "--name", NAME]
        options = {
            "--revision": revision,
            "--http-port": port,
            "--grpc-port": 0,
            "--online-store": f"sqlite:///{tmp_path}/{revision}.db",
        }
        told = [str(part) for option in options.items() for part in option]
        log = (tmp_path / f"{revision}.log").open("wb")
        processes[revision] = subprocess.Popen([*command, *told], stderr=log, env=environment, start_new_session=True)
    for revision, port in ports.items():
        wait_until(lambda port=port: _answers(port), f"model server {revision}: {tmp_path}/{revision}.log")
    yield processes
    for process in processes.values():
        _kill(process)


def _answers(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _kill(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def seen(source):
    return {revision: (one.requests, one.errors) for revision, one in source.observe(NAME).items()}


@pytest.fixture
def rollout(tmp_path, make_package, ingress, source):
    """Roll version 2 out from version 1, which is deployed and the champion: `rollout(on_look)` returns the record."""
    document = {
        "schema_version": 1,
        "name": NAME,
        "task": "binary-classification",
        "features": {
            "repository": "features",
            "service": "tiny_v1",
            "entity_rows": "rows.parquet",
            "id_column": "flight_id",
            "request_inputs": ["distance"],
        },
        "label": {"column": "label", "known_at_column": "known_at"},
        "training": {"function": "train:train", "window_days": 30, "holdout_days": 7},
        "gates": {"accuracy": {"minimum": 0.6}},
        "rollout": {
            "steps": [20, 50, 100],
            "look_seconds": 0.5,
            "min_requests": 200,
            "max_step_seconds": 40,
            "max_error_increase": 0.05,
            "max_latency_ratio": 5,
        },
    }
    (tmp_path / "tidegate.yaml").write_text(yaml.safe_dump(document))
    project, store = load_project(tmp_path / "tidegate.yaml"), DirectoryStore(tmp_path / "store")
    registry = ModelRegistry(store)
    for content in ("first", "second"):
        registry.register(make_package(content), reason="test")
    registry.move_alias(NAME, "champion", 1, reason="test", expected=None)
    ingress.apply(Service(NAME, NAMESPACE, Revision("v1", registry.uri(NAME, 1))))
    places = {"project": project, "store": store, "registry": registry, "target": ingress}

    def run(on_look=None):
        start_rollout(**places, version=2, env={}, reason="test")
        return run_rollout(**places, metrics=source, on_look=on_look)

    return run


def test_good_canary_is_promoted_over_an_outage_of_prometheus(prometheus, ingress, model_servers, rollout, source, monkeypatch):
    monkeypatch.setattr(prometheus_api, "_PATIENCE", 1.0)
    prometheus.start()
    for scraped in prometheus.targets:
        prometheus.has_scraped(scraped)
    blind = []

    def interrupt(record):
        look = record.looks[-1]
        if look.number == 1:
            assert look.verdict == "continue", look
            prometheus.stop()
        elif "nothing observed" in look.reason and not blind:
            blind.append(look.reason)
            prometheus.start()

    with ingress.load() as answers:
        record = rollout(interrupt)

    assert (record.state, set(answers)) == ("promoted", {200}), record.outcome
    assert "cannot be reached" in blind[0]
    for scraped in prometheus.targets:
        prometheus.has_scraped(scraped)
    counted = source.observe(NAME)
    assert sum(one.requests for one in counted.values()) == answers.total()
    assert [one.errors for one in counted.values()] == [0, 0]
    assert [sum(one.latency.counts) for one in counted.values()] == [one.requests for one in counted.values()]


def test_dead_canary_is_rolled_back_by_what_the_gateway_saw(prometheus, ingress, model_servers, rollout, source):
    prometheus.start()
    for scraped in prometheus.targets:
        prometheus.has_scraped(scraped)

    with ingress.load() as answers:
        record = rollout(lambda record: _kill(model_servers["v2"]))

    assert (record.state, set(answers)) == ("rolled_back", {200, 503}), record.outcome
    assert record.outcome.startswith("error rate: the canary's is at least")
    prometheus.has_scraped(f"127.0.0.1:{ingress.admin}")
    assert seen(source)["v1"][1] == 0
    assert seen(source)["v2"][1] == answers[503]
    assert sum(requests for requests, _ in seen(source).values()) == answers.total()


@pytest.mark.parametrize(
    "ingress",
    [
        pytest.param("{namespace}/{service}", id="Kourier"),
        pytest.param("{namespace}_{service}_80", id="Contour"),
        pytest.param("service/{namespace}/{service}/80", id="Envoy-Gateway"),
    ],
    indirect=True,
)
def test_what_only_a_retry_mends_is_a_failed_first_attempt(prometheus, ingress, ports, source):
    """Every second answer of the canary is a 503: users see none of them, the judge sees them all."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answered = 0

        def do_POST(self):
            Handler.answered += 1
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(503 if Handler.answered % 2 else 200)

        def do_GET(self):
            labels = f'model="{NAME}",version="2",revision="v2"'
            lines = [f'{LATENCY}_bucket{{{labels},le="{bound}"}} {Handler.answered}' for bound in (*LATENCY_BOUNDS, "+Inf")]
            self.answer(200, "\n".join([*lines, ""]).encode())

        def answer(self, status, body=b""):
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", ports["v2"]), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    ingress.apply(ingress.service.with_canary(Revision("v2", "file:///v2/"), 100))
    ingress.wait(NAME, timeout=1)
    with ingress.load(clients=1) as answers:
        time.sleep(0.5)
    prometheus.start()
    for port in (ingress.admin, ports["v2"]):
        prometheus.has_scraped(f"127.0.0.1:{port}")

    assert set(answers) == {200}
    assert seen(source) == {"v1": (0, 0), "v2": (answers.total(), answers.total())}
    server.shutdown()
    server.server_close()
