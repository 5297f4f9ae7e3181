"""A cluster on this machine, as far as one can be had: everything is real but KServe's controllers and the kubelet.

Real: S3 over HTTP (moto), Redis, Prometheus, Envoy as the gateway, model servers, the pipelines' steps, the kubernetes client.
Simulated, from KServe's source: the API server, KServe's webhooks and its controllers (`tests/kubernetes_api`).
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipelines.launcher import LocalLauncher, RunResult
from tests.e2e.cluster.gateway import Gateway
from tests.e2e.cluster.pods import ProcessPods
from tests.e2e.parcels import TICK, TRAINED_UNTIL, WEEK, payload, post, write_data, write_project
from tests.kubernetes_api.cluster import Cluster
from tests.kubernetes_api.knative_mode import SERVICES, KnativeMode
from tests.kubernetes_api.standard_mode import StandardMode
from tests.ports import free_port
from tests.s3_server import running_s3
from tidegate.clock import ReplayClock
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.features.address import project_online_store
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.release.data import open_repository
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.storage import open_store

BUCKET, NAMESPACE = "parcels", "default"
PASSWORD = "tide-and-gate"
_AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
_SCRAPE = "300ms"


@dataclass
class ClusterWorld:
    """A project whose cluster this is."""

    root: Path
    file: Path
    rows: pa.Table
    clock: ReplayClock
    cluster: Cluster
    pods: ProcessPods
    gateway: Gateway

    @property
    def project(self) -> Project:
        return load_project(self.file, target="kserve")

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(open_store(self.project.store_uri))

    @property
    def champion(self) -> int | None:
        alias = self.registry.alias("parcels", "champion")
        return None if alias is None else alias.version

    def releases(self) -> list[ReleaseRecord]:
        return ReleaseLedger(open_store(self.project.store_uri), "parcels").records()

    def run(self, pipeline: str, **arguments: str) -> RunResult:
        clock = {} if pipeline == "batch" else {"clock": self.clock.spec}
        place = {"project_file": str(self.file), "project_digest": self.project.digest, "target": "kserve"}
        return LocalLauncher(self.root / "runs").run(pipeline, {**place, **clock, **arguments})

    def tidegate(self, *arguments: object, file: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command for the project on its cluster."""
        command = [sys.executable, "-m", "tidegate", *map(str, arguments), "--project", str(file or self.file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def roll_out(self, version: int, *, file: Path) -> "subprocess.CompletedProcess[str]":
        """Roll a version out by hand."""
        options = ("--target", "kserve", "--clock", self.clock.spec, "--reason", "by hand", "--json")
        return self.tidegate("rollout", "start", version, *options, file=file)

    def in_knative_mode(self) -> Path:
        """Delete the InferenceService, whose mode cannot change, and write the project file anew."""
        KServeTarget(self.project.on_cluster).delete("parcels")
        document = yaml.safe_load(self.file.read_text())
        document["cluster"]["mode"] = "Knative"
        file = self.root / "knative.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def live_through_a_week(self) -> None:
        """Materialize the features of each tick, and ask for its parcels through the gateway."""
        repository = open_repository(self.project, project_online_store(self.project))
        end = self.clock.now() + WEEK
        while self.clock.now() < end:
            repository.materialize(self.clock.now())
            self.ask(self.asked_now())
            self.clock.advance(self.clock.now() + TICK)
        repository.materialize(end)
        time.sleep(2 * self.project.serving.log.rotate_seconds)

    def asked_now(self) -> list[dict[str, Any]]:
        """Return the parcels of the clock's tick."""
        asked, start = self.rows["asked_at"], self.clock.now()
        now = pc.and_(pc.greater_equal(asked, start), pc.less(asked, start + TICK))
        found: list[dict[str, Any]] = self.rows.filter(now).to_pylist()
        return found

    def ask(self, rows: list[dict[str, Any]]) -> list[float]:
        """Ask for predictions through the gateway, one by one; each must be answered."""
        connection = http.client.HTTPConnection(urlsplit(self.gateway.url).netloc, timeout=30)
        probabilities = []
        for row in rows:
            status, answer = post(connection, payload(row, row["parcel"]))
            assert status == 200, answer
            probabilities += [value["data"][0] for value in answer["outputs"] if value["name"] == "probability"]
        connection.close()
        return probabilities

    @contextmanager
    def traffic(self, rows: list[dict[str, Any]]) -> Iterator[list[int]]:
        """Two clients that ask for `rows`, over and over; yields the statuses that they saw."""
        bodies = [payload(row, f"again-{row['parcel']}") for row in rows]
        statuses: list[int] = []
        stopping = threading.Event()

        def client() -> None:
            connection = http.client.HTTPConnection(urlsplit(self.gateway.url).netloc, timeout=30)
            while not stopping.is_set():
                for body in bodies:
                    statuses.append(_status(connection, body))
                    time.sleep(0.004)

        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        try:
            yield statuses
        finally:
            stopping.set()
            for thread in clients:
                thread.join()


@contextmanager
def running_world(root: Path, program: Callable[[str], str]) -> Iterator[ClusterWorld]:
    """Start everything; what a pipeline's step would have from Secrets is in this process's environment meanwhile."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(running_s3())
        secrets = {
            "s3": dict(zip(_AWS, (endpoint, "key", "secret", "us-east-1"), strict=True)),
            "redis": {"password": PASSWORD},
        }
        kubeconfig = root / "kubeconfig"
        variables = {**secrets["s3"], "TIDEGATE_ONLINE_STORE_PASSWORD": PASSWORD, "KUBECONFIG": str(kubeconfig)}
        stack.enter_context(_environment(variables))
        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)
        redis_port = stack.enter_context(_redis(program("redis-server"), root))
        gateway = Gateway(root / "gateway", port=free_port(), admin_port=free_port())
        gateway.start()
        stack.callback(gateway.stop)
        targets = root / "targets.json"
        targets.write_text("[]")
        prometheus = stack.enter_context(_prometheus(program("prometheus"), root, gateway, targets))
        cluster = Cluster()
        pods = ProcessPods(cluster.store, root, secrets)
        cluster.pods, cluster.standard, cluster.knative = (
            pods,
            StandardMode(cluster.store, pods),
            KnativeMode(cluster.store, pods),
        )
        stack.callback(pods.stop)
        stack.enter_context(cluster.running())
        kubeconfig.write_text(yaml.safe_dump(_kubeconfig(cluster.api.url)))
        stack.enter_context(_following(cluster, pods, gateway, targets))
        file = write_project(root, cluster=_section(root, redis_port, prometheus))
        rows = write_data(root / "source")
        _upload(root / "source", f"s3://{BUCKET}/data")
        clock = ReplayClock.create(root / "clock", TRAINED_UNTIL)
        yield ClusterWorld(root, file, rows, clock, cluster, pods, gateway)


def _section(root: Path, redis_port: int, prometheus: str) -> dict[str, Any]:
    references = [{"variable": name, "secret": "s3", "key": name} for name in _AWS]
    references.append({"variable": "TIDEGATE_ONLINE_STORE_PASSWORD", "secret": "redis", "key": "password"})
    return {
        "namespace": NAMESPACE,
        "store": f"s3://{BUCKET}/tidegate",
        "data": f"s3://{BUCKET}/data",
        "workspace": str(root / "pod"),
        "online_store": f"redis://127.0.0.1:{redis_port}/0",
        "prometheus": {"url": prometheus, "gateway": "envoy"},
        "secrets": references,
    }


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {}}],
    }


def _upload(folder: Path, to: str) -> None:
    store = open_store(to)
    for file in folder.iterdir():
        store.upload(file.name, file)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _redis(program: str, root: Path) -> Iterator[int]:
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(root), "--save", "", "--requirepass", PASSWORD]
    with _process([program, *options], root / "redis.log"):
        yield port


@contextmanager
def _prometheus(program: str, root: Path, gateway: Gateway, targets: Path) -> Iterator[str]:
    port = free_port()
    jobs = [
        {
            "job_name": "gateway",
            "metrics_path": "/stats/prometheus",
            "static_configs": [{"targets": [f"127.0.0.1:{gateway.admin_port}"]}],
        },
        {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]},
    ]
    (root / "prometheus.yml").write_text(
        yaml.safe_dump({"global": {"scrape_interval": _SCRAPE, "scrape_timeout": _SCRAPE}, "scrape_configs": jobs})
    )
    options = [f"--config.file={root}/prometheus.yml", f"--storage.tsdb.path={root}/tsdb"]
    url = f"http://127.0.0.1:{port}"
    with _process([program, *options, f"--web.listen-address=127.0.0.1:{port}"], root / "prometheus.log"):
        _wait_until(lambda: _answers(f"{url}/-/ready"), "Prometheus")
        yield url


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _following(cluster: Cluster, pods: ProcessPods, gateway: Gateway, targets: Path) -> Iterator[None]:
    """Tell the gateway of the routes that are in force, and Prometheus of the pods, as a cluster's controllers do."""
    ending = threading.Event()

    def follow() -> None:
        while not ending.wait(0.1):
            running = dict(pods.running)
            scraped = [
                {"targets": [f"127.0.0.1:{pod.port}"], "labels": {"namespace": NAMESPACE, "pod": name}}
                for name, pod in running.items()
            ]
            if json.loads(targets.read_text()) != scraped:
                fresh = targets.with_suffix(".fresh.json")
                fresh.write_text(json.dumps(scraped))
                fresh.replace(targets)
            weights = _weights(cluster)
            ports = {service: _port(service, running) for service in weights}
            if weights and all(ports.values()):
                gateway.route({f"{NAMESPACE}/{service}": (ports[service] or 0, weight) for service, weight in weights.items()})

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(10)


def _weights(cluster: Cluster) -> dict[str, int]:
    """Return the share of each Service or Knative revision that is in force."""
    service = cluster.store.objects.get((SERVICES, NAMESPACE, "parcels-predictor"))
    if service is None:
        return cluster.standard.weights.get("parcels", {})
    weights: dict[str, int] = {}
    for target in (service.get("status") or {}).get("traffic") or ():
        weights[target["revisionName"]] = weights.get(target["revisionName"], 0) + target["percent"]
    return weights


def _port(service: str, running: dict[str, Any]) -> int | None:
    return next((pod.port for name, pod in running.items() if name.rpartition("-")[0] == service), None)


def _status(connection: http.client.HTTPConnection, body: bytes) -> int:
    try:
        return post(connection, body)[0]
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return True
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not start within 30 s"
        time.sleep(0.05)
