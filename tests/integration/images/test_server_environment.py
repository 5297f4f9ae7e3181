"""The server image's environment, installed as its Dockerfile installs it: a real server answers from it, and it is small."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.launcher import REPOSITORY
from tests.ports import free_port
from tidegate.features.online_file import open_writer

pytestmark = pytest.mark.timeout(300)
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "tidegate")
LARGEST_MEGABYTES = 450  # 390 on CPython 3.11, x86-64, with Tidegate itself; the steps' is 1,168
REQUEST = {
    "inputs": [
        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
        {"name": "origin", "shape": [1], "datatype": "BYTES", "data": ["EWR"]},
        {"name": "dest", "shape": [1], "datatype": "BYTES", "data": ["SFO"]},
        {"name": "distance", "shape": [1], "datatype": "FP32", "data": [1400.0]},
        {"name": "hour", "shape": [1], "datatype": "FP32", "data": [17.0]},
    ]
}
# Besides what `tidegate serve` itself imports: what it reads packages from, looks features up in, and logs to on a cluster.
ALSO = """
import importlib, pkgutil, sys
import tidegate.serving, tidegate.storage
for package in (tidegate.serving, tidegate.storage):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(".generate"):  # writes the message classes, when the protocol changes
            importlib.import_module(module.name)
import boto3
import tidegate.features.online, tidegate.features.online_file, tidegate.features.online_redis_reader
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds `requirements/server.txt` and Tidegate, and nothing else."""
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip("uv is not installed; `make test` installs it")
    root = tmp_path_factory.mktemp("server")
    for source in SOURCES:  # a build leaves files beside its sources
        path = REPOSITORY / source
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, root / source)
    python = root / "environment" / "bin" / "python"
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--build-constraints",
        REPOSITORY / "requirements/build.txt",
    ]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, root / "environment"],
        [*install, "--require-hashes", "--requirement", REPOSITORY / "requirements/server.txt"],
        [*install, "--no-deps", root],
    ):
        subprocess.run(list(map(str, command)), check=True, timeout=200)
    return root / "environment"


@pytest.fixture
def server(environment: Path, tiny_package: Path, tmp_path: Path) -> Iterator[int]:
    """The port of a server that runs in the environment, without anything of this one."""
    port, grpc_port = free_port(), free_port()
    open_writer(tmp_path / "online.db").close()
    command = [environment / "bin" / "tidegate", "serve", tiny_package, "--host", "127.0.0.1", "--http-port", port]
    command += ["--grpc-port", grpc_port, "--log-store", f"file://{tmp_path}/log", "--log-rotate-rows", 1]
    command += ["--online-store", f"sqlite://{tmp_path}/online.db"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), cwd=tmp_path, env={"PATH": os.defpath}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, (tmp_path / "server.log").read_text()
    finally:
        process.kill()
        process.wait()


def test_server_answers_and_logs(server, tmp_path):
    status, answer = call(server, "POST", "/v2/models/tiny/infer", REQUEST)

    assert status == 200, answer
    [probability] = [output["data"][0] for output in answer["outputs"] if output["name"] == "probability"]
    assert 0 < probability < 1
    deadline = time.monotonic() + 30
    while not list((tmp_path / "log").rglob("*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_everything_that_serving_may_import_is_there(environment):
    done = subprocess.run([environment / "bin" / "python", "-c", ALSO], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


def test_environment_is_small(environment):
    seen = {}
    for path in environment.rglob("*"):
        if path.is_file() and not path.is_symlink():
            seen[path.stat().st_ino] = path.stat().st_blocks * 512

    assert sum(seen.values()) / 2**20 < LARGEST_MEGABYTES


def call(port: int, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"{}")
    finally:
        connection.close()


def answers(port: int) -> bool:
    try:
        return call(port, "GET", "/v2/health/ready")[0] == 200
    except OSError:
        return False
