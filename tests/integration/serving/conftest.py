"""Real model server processes on free ports, on the tiny package with a real online store."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.own_process import other_process
from tests.ports import free_port

COMMAND = [sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve"]


@dataclass
class RunningServer:
    """A server process, and how to talk to it."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    stderr_path: Path
    store: Path
    ready_after: float = field(default=0.0)

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    def request(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a GET, or a POST with a JSON body, and return status and JSON answer."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data, sent)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                status, raw = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        return status, json.loads(raw)

    def metric(self, name: str, label: str = "") -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}{{") and label in line).split()[-1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=20)


@pytest.fixture
def launch(tiny_package: Path, tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start a server; by default it must get ready. `package` and options are those of `tidegate serve`."""
    with launcher(tmp_path) as start:
        yield lambda package=tiny_package, **options: start(package, **options)


@pytest.fixture(scope="module")
def launch_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of given packages for all tests of a module."""
    with launcher(tmp_path_factory.mktemp("servers")) as start:
        yield start


@contextmanager
def launcher(place: Path) -> Iterator[Callable[..., RunningServer]]:
    """Give a function that starts servers, whose files lie in `place`; none of them outlives the context.

    Its `process` holds arguments for `subprocess.Popen`, of which `env` is added to the environment.
    """
    running: list[RunningServer] = []

    def start(
        package: Path | str, *, wait: bool = True, process: Mapping[str, Any] | None = None, **options: Any
    ) -> RunningServer:
        folder = place / f"server-{len(running)}"
        folder.mkdir()
        chosen: dict[str, Any] = {
            "http_port": free_port(),
            "grpc_port": free_port(),
            "online_store": f"sqlite:///{folder}/online.db",
            "log_store": folder / "store",
            "log_rotate_seconds": 0.2,
        } | options
        arguments = [
            part for name, value in chosen.items() if value is not None for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        began = time.monotonic()
        with (folder / "stderr").open("wb") as stderr:
            own = {"stderr": stderr} | dict(process or {})
            own["env"] = environment | own.get("env", {})
            started = subprocess.Popen([*COMMAND, str(package), *arguments], **own)
        server = RunningServer(
            started, int(chosen["http_port"]), int(chosen["grpc_port"]), folder / "stderr", Path(str(chosen["log_store"]))
        )
        running.append(server)
        if wait:
            wait_until(lambda: is_ready(server) or started.poll() is not None, f"ready server: {folder}/stderr")
            assert started.poll() is None, server.stderr
            server.ready_after = time.monotonic() - began
        return server

    try:
        yield start
    finally:
        for server in running:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def is_ready(server: RunningServer) -> bool:
    try:
        return server.request("/v2/health/ready")[0] == 200
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def a_free_port() -> int:
    return free_port()


@pytest.fixture
def v2_body() -> Callable[..., dict[str, Any]]:
    """Make a v2 request of `rows` rows with the given id."""

    def make(request_id: str | None = None, rows: int = 1) -> dict[str, Any]:
        row = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5}
        inputs = [
            {
                "name": name,
                "datatype": "BYTES" if isinstance(value, str) else "FP32",
                "shape": [rows],
                "data": [value] * rows,
            }
            for name, value in row.items()
        ]
        return {"inputs": inputs} if request_id is None else {"id": request_id, "inputs": inputs}

    return make


@pytest.fixture(scope="module")
def in_own_process() -> Iterator[Callable[..., Any]]:
    """Call functions in one other process, and return what they return: some clients cannot share a process with others."""
    with other_process() as call:
        yield call
