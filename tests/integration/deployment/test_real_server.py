"""The local target with Tidegate's own model server, from the command line down."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import grpc
import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.processes import supervised
from tidegate.deployment.local.target import LocalTarget
from tidegate.errors import DeploymentError
from tidegate.rollout.scrape import ScrapeMetricsSource

TIMEOUT = 60
ROW = {"carrier": "UA", "origin": "EWR", "distance": 500.0, "hour": 17.0, "weather__temp": 12.0, "route__delay": 9.0}
INPUTS = [
    {"name": name, "shape": [1], "datatype": "BYTES" if isinstance(value, str) else "FP32", "data": [value]}
    for name, value in ROW.items()
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    path = tmp_path_factory.mktemp("workspace")
    start_supervisor(path)
    yield path
    stop_supervisor(path)
    assert supervised(LocalTarget(path).state.root) == []


def revision(workspace, package, number, **env):
    place = workspace / "models" / "tiny" / str(number)
    if not place.exists():
        shutil.copytree(package, place)
    return Revision(f"v{number}", f"file://{place}/", env={"TIDEGATE_ONLINE_STORE": f"sqlite:///{workspace}/online.db", **env})


def infer(url):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("POST", "/v2/models/tiny/infer", json.dumps({"inputs": INPUTS}))
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 200, body
    return json.loads(body), response.getheader("x-tidegate-revision")


def test_a_canary_is_split_promoted_and_observed(workspace, tiny_package):
    target = LocalTarget(workspace)
    service = Service("tiny", "default", revision(workspace, tiny_package, 1)).with_canary(
        revision(workspace, tiny_package, 2), 50
    )
    target.apply(service)
    url = target.wait("tiny", timeout=TIMEOUT).url
    source = ScrapeMetricsSource(target)
    before = source.observe("tiny")

    revisions = [infer(url)[1] for _ in range(100)]

    after = source.observe("tiny")
    for name in ("v1", "v2"):
        assert after[name].requests - before[name].requests == revisions.count(name) > 10
        assert after[name].errors == 0
        assert sum(after[name].latency.counts) == revisions.count(name)

    target.apply(service.promoted())
    target.wait("tiny", timeout=TIMEOUT)
    answer, name = infer(url)
    assert (name, answer["model_version"]) == ("v2", "2")
    assert 0 < answer["outputs"][0]["data"][0] < 1


def test_a_killed_canary_loses_no_request(workspace, tiny_package):
    target = LocalTarget(workspace)
    service = Service("tiny", "default", revision(workspace, tiny_package, 2)).with_canary(
        revision(workspace, tiny_package, 3), 50
    )
    target.apply(service)
    url = target.wait("tiny", timeout=TIMEOUT).url
    source = ScrapeMetricsSource(target)
    infer(url)
    pid = next(server.pid for server in target.servers("tiny") if server.revision == "v3")

    os.killpg(pid, signal.SIGKILL)
    for _ in range(100):
        infer(url)  # fails on any error

    observed = source.observe("tiny")
    assert observed["v3"].errors > 0
    assert observed["v2"].errors == 0


def test_grpc_goes_through_the_same_port(workspace, tiny_package):
    target = LocalTarget(workspace)
    target.apply(Service("tiny", "default", revision(workspace, tiny_package, 2)))
    url = target.wait("tiny", timeout=TIMEOUT).url

    with grpc.insecure_channel(url.removeprefix("http://")) as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert ready(b"", timeout=10) == b"\x08\x01"


def test_a_corrupt_package_is_reported_with_its_cause(workspace, tiny_package):
    target = LocalTarget(workspace)
    broken = revision(workspace, tiny_package, 9)
    with (workspace / "models/tiny/9/model.onnx").open("ab") as model:
        model.write(b"x")
    target.apply(Service("tiny", "default", revision(workspace, tiny_package, 2)).with_canary(broken, 50))

    with pytest.raises(DeploymentError, match=r"revision v9: ended with status 1: .*model\.onnx"):
        target.wait("tiny", timeout=TIMEOUT)


def test_sigkill_of_the_supervisor_leaves_no_server(tmp_path, tiny_package):
    pid, _ = start_supervisor(tmp_path)
    target = LocalTarget(tmp_path)
    target.apply(Service("tiny", "default", revision(tmp_path, tiny_package, 1, TIDEGATE_WORKERS="2")))
    target.wait("tiny", timeout=TIMEOUT)
    assert len(supervised(target.state.root)) > 2

    os.kill(pid, signal.SIGKILL)

    deadline = time.monotonic() + TIMEOUT
    while supervised(target.state.root):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_status_command_shows_the_service(workspace, tiny_package):
    target = LocalTarget(workspace)
    target.apply(Service("tiny", "default", revision(workspace, tiny_package, 2)))
    target.wait("tiny", timeout=TIMEOUT)

    command = [sys.executable, "-m", "tidegate", "local", "status", "--workspace", str(workspace), "--json"]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    (service,) = shown["services"]
    assert (shown["running"], service["name"], service["settled"]) == (True, "tiny", True)
    assert service["revisions"] == [{"name": "v2", "role": "stable", "ready": True, "traffic_percent": 100, "reason": ""}]
