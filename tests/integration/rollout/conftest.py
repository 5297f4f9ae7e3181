"""A real Prometheus, and what it scrapes: exporters that play a gateway or a model server, with counters that the test sets."""

import http.server
import json
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port
from tidegate.deployment.inference_service import Revision, Service
from tidegate.project.cluster import Prometheus
from tidegate.rollout.prometheus import PrometheusMetricsSource
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS

SERVICE, NAMESPACE = "flights", "models"
SCRAPE_SECONDS = 0.5


def _wait_until(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.05)


class Exporter:
    """One process with counters; `counters[series]` is incremented by the test, and exposed under /metrics."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._server: http.server.ThreadingHTTPServer | None = None
        self.address = f"127.0.0.1:{free_port()}"

    def start(self) -> "Exporter":
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.end_headers()
                lines = sorted(f"{series} {value}\n" for series, value in exporter.counters.copy().items())
                self.wfile.write("".join(lines).encode())

            def log_message(self, *_: Any) -> None:
                pass

        host, _, port = self.address.partition(":")
        self._server = http.server.ThreadingHTTPServer((host, int(port)), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def restart(self) -> None:
        """As a process does: on the same address, with no count left."""
        self.stop()
        self.counters.clear()
        self.start()

    def count_istio(self, backend: str, requests: int, code: int = 200, **labels: str) -> None:
        told = {
            "reporter": "source",
            "destination_service_namespace": NAMESPACE,
            "destination_service_name": backend,
            "response_code": str(code),
        } | labels
        self.counters["istio_requests_total{" + ",".join(f'{name}="{value}"' for name, value in told.items()) + "}"] += requests

    def count_latency(self, revision: str, requests: int, bucket: int = 20) -> None:
        """Count requests in one bucket, as a model server renders it: all buckets, cumulative."""
        for index, bound in enumerate((*LATENCY_BOUNDS, float("inf"))):
            le = "+Inf" if bound == float("inf") else f"{bound:.10g}"
            series = f'{LATENCY}_bucket{{model="{SERVICE}",version="1",revision="{revision}",le="{le}"}}'
            self.counters[series] += requests if index >= bucket else 0


@dataclass
class RealPrometheus:
    """A Prometheus process. Its targets are named before it starts: it takes seconds to notice others."""

    binary: str
    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    targets: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "RealPrometheus":
        assert self.process is None, "it runs already"
        targets = [{"targets": [address], "labels": labels} for address, labels in self.targets.items()]
        every = f"{int(SCRAPE_SECONDS * 1000)}ms"
        configuration = {
            "global": {"scrape_interval": every, "scrape_timeout": every},
            "scrape_configs": [{"job_name": "pods", "static_configs": targets}],
        }
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        with (self.folder / "stderr").open("ab") as stderr:
            self.process = subprocess.Popen(
                [
                    self.binary,
                    f"--config.file={self.folder}/prometheus.yml",
                    f"--storage.tsdb.path={self.folder}/data",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stderr=stderr,
            )
        _wait_until(self._is_ready, f"ready Prometheus: {self.folder}/stderr")
        return self

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def scrape(self, address: str, *, path: str = "/metrics", **labels: str) -> None:
        """Make `address` a target; labels are those that a cluster's discovery puts on."""
        self.targets[address] = {"namespace": NAMESPACE, "__metrics_path__": path} | labels

    def query(self, query: str) -> list[Any]:
        parameters = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=5) as response:  # noqa: S310
            found: list[Any] = json.load(response)["data"]["result"]
        return found

    def has_scraped(self, address: str, times: int = 2) -> None:
        """Wait until `address` was scraped so many times more, so that what it counts now is seen."""
        begun = time.time()

        def scraped() -> bool:
            found = self.query(f'timestamp(up{{instance="{address}"}})')
            return bool(found) and float(found[0]["value"][1]) > begun + (times - 1) * SCRAPE_SECONDS

        _wait_until(scraped, f"scrape of {address}")

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "stderr").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as response:  # noqa: S310
                return bool(response.status == 200)
        except OSError:
            return False


class Cluster:
    """A target that only tells names: the stable v1 and its canary v2."""

    def __init__(self, percent: int = 10) -> None:
        revisions = [Revision(name, f"s3://b/{name}/") for name in ("v1", "v2")]
        self.service: Service | None = Service(SERVICE, NAMESPACE, revisions[0], revisions[1], percent)

    def get(self, name: str) -> Service | None:
        return self.service

    def backends(self, name: str) -> dict[str, str]:
        return {"v1": "flights-v1-predictor", "v2": "flights-v2-predictor"}


@pytest.fixture
def prometheus(program: Callable[[str], str], tmp_path: Path) -> Iterator[RealPrometheus]:
    """A Prometheus that the test starts once it has its targets."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    server = RealPrometheus(program("prometheus"), folder)
    yield server
    server.stop()


@pytest.fixture
def exporter(prometheus: RealPrometheus) -> Iterator[Callable[..., Exporter]]:
    """Start an exporter that Prometheus scrapes, `exporter(pod="a")`."""
    started: list[Exporter] = []

    def start(pod: str) -> Exporter:
        started.append(Exporter().start())
        prometheus.scrape(started[-1].address, pod=pod)
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def observe(prometheus: RealPrometheus) -> Callable[..., Any]:
    """Make a metrics source, `observe("istio")`."""

    def make(gateway: Any = "istio", cluster: Cluster | None = None) -> PrometheusMetricsSource:
        return PrometheusMetricsSource(Prometheus(url=prometheus.url, gateway=gateway), cluster or Cluster())

    return make


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return _wait_until
