"""Counters from Envoy and the model servers, with answers that the test gives."""

import http.server
import threading

import pytest

from tidegate.deployment.local.target import ServerProcess
from tidegate.errors import DeploymentError, RolloutError
from tidegate.rollout import scrape
from tidegate.rollout.scrape import ScrapeMetricsSource
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS


class FakeTarget:
    def __init__(self, *servers):
        self.processes = list(servers)

    def admin_port(self):
        return 1

    def servers(self, name):
        return self.processes


class FakeAdmin:
    counts: dict[str, int] = {}

    def __init__(self, port):
        pass

    def counters(self, pattern):
        return {name: count for name, count in self.counts.items() if ("fallback" in name) == ("fallback" in pattern)}


@pytest.fixture
def envoy(monkeypatch):
    monkeypatch.setattr(scrape, "EnvoyAdmin", FakeAdmin)
    monkeypatch.setattr(FakeAdmin, "counts", {})

    def says(*, fallback=0, **canary):
        FakeAdmin.counts = {f"vhost.flights.route.v2.canary.upstream_rq_{name}": count for name, count in canary.items()}
        FakeAdmin.counts["cluster.flights.v2.fallback.http.upstream_rq_total"] = fallback

    return says


@pytest.fixture
def source():
    return ScrapeMetricsSource(FakeTarget(ServerProcess("v2", None, 1)))


def counted(source):
    counters = source.observe("flights")["v2"]
    return counters.requests, counters.errors


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({}, (0, 0), id="none yet"),
        pytest.param({"completed": 100}, (100, 0), id="healthy"),
        pytest.param({"completed": 100, "retry": 100, "retry_success": 100, "fallback": 100}, (100, 100), id="answers 503"),
        pytest.param({"completed": 100, "fallback": 100}, (100, 100), id="known to be down"),
        pytest.param({"completed": 100, "retry": 30, "retry_success": 30, "fallback": 80}, (100, 80), id="died meanwhile"),
        pytest.param({"completed": 100, "5xx": 100, "retry": 100, "fallback": 100}, (100, 100), id="fallback fails too"),
        pytest.param({"completed": 100, "5xx": 7}, (100, 7), id="not retried"),
        pytest.param({"completed": 100, "retry": 5}, (100, 0), id="retries under way"),
        pytest.param({"completed": 9, "fallback": 11}, (9, 9), id="requests under way"),
    ],
)
def test_first_attempts(envoy, source, counts, expected):
    envoy(**counts)

    assert counted(source) == expected


def test_counters_go_on_when_envoy_starts_again(envoy, source):
    envoy(completed=100, **{"5xx": 10})
    assert counted(source) == (100, 10)

    envoy(completed=20)
    assert counted(source) == (120, 10)

    envoy(completed=30, **{"5xx": 3})
    assert counted(source) == (130, 13)


def test_errors_never_shrink(envoy, source):
    envoy(completed=100, fallback=10)
    assert counted(source) == (100, 10)

    envoy(completed=100, retry=10, fallback=10)
    assert counted(source) == (100, 10)


@pytest.fixture
def metrics():
    """A model server whose `/metrics` is what the test puts into `text`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        text = ""

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.text.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.port = server.server_address[1]
    yield Handler
    server.shutdown()
    server.server_close()


def histogram(first, rest):
    cumulative = [first, *[first + rest] * len(LATENCY_BOUNDS)]
    lines = [
        f'{LATENCY}_bucket{{le="{bound}"}} {count}' for bound, count in zip((*LATENCY_BOUNDS, "+Inf"), cumulative, strict=True)
    ]
    return "\n".join([*lines, f"{LATENCY}_count {first + rest}", ""])


def test_latency_is_summed_over_the_processes_of_a_revision(envoy, metrics):
    target = FakeTarget(ServerProcess("v2", 100, metrics.port))
    source = ScrapeMetricsSource(target)

    def counts():
        return source.observe("flights")["v2"].latency.counts[:2]

    metrics.text = histogram(5, 7)
    assert counts() == (5, 7)
    metrics.text = histogram(1, 1)  # its successor, before its pid is known
    assert counts() == (5, 7)
    target.processes = [ServerProcess("v2", None, metrics.port)]
    assert counts() == (5, 7)
    target.processes = [ServerProcess("v2", 200, metrics.port)]
    assert counts() == (6, 8)


def test_latency_is_summed_over_the_versions_that_a_server_has_served(envoy, metrics):
    metrics.text = histogram(5, 7) + histogram(1, 2)

    latency = ScrapeMetricsSource(FakeTarget(ServerProcess("v2", 1, metrics.port))).observe("flights")["v2"].latency

    assert latency.counts[:2] == (6, 9)


def test_another_set_of_buckets_is_one_clear_error(envoy, metrics):
    metrics.text = f'{LATENCY}_bucket{{le="+Inf"}} 1\n'

    with pytest.raises(RolloutError, match=rf"port {metrics.port} has 1 buckets of {LATENCY}, not {len(LATENCY_BOUNDS) + 1}"):
        ScrapeMetricsSource(FakeTarget(ServerProcess("v2", 1, metrics.port))).observe("flights")


def test_a_silent_envoy_is_one_clear_error(monkeypatch, source):
    def silent(*_):
        raise DeploymentError("Envoy's admin interface on port 1 does not answer")

    monkeypatch.setattr(FakeAdmin, "counters", silent)
    monkeypatch.setattr(scrape, "EnvoyAdmin", FakeAdmin)

    with pytest.raises(RolloutError, match="service flights cannot be observed: Envoy's admin interface"):
        source.observe("flights")
