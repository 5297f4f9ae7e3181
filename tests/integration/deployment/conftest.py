import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tidegate.deployment.inference_service import Revision
from tidegate.deployment.local.operations import stop_supervisor
from tidegate.deployment.local.processes import supervised
from tidegate.deployment.local.target import LocalTarget

SUPERVISE = Path(__file__).with_name("supervise.py")


class Local:
    """A supervisor over stand-in model servers, its target, and clients."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.target = LocalTarget(workspace)
        self.process: subprocess.Popen[str] | None = None

    def up(self) -> "Local":
        ports = self.target.state.root / "ports.json"
        if not ports.exists():
            # Above what other tests' supervisors choose, so that none takes the port while this one's Envoy is down.
            ports.parent.mkdir(parents=True, exist_ok=True)
            ports.write_text(json.dumps({"listener/flights": random.SystemRandom().randrange(19_000, 20_000)}))
        self.process = self.supervise()
        self.eventually(self.target.running, timeout=20)
        return self

    def supervise(self) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, SUPERVISE, self.workspace], stderr=subprocess.PIPE, text=True)

    def down(self) -> None:
        stop_supervisor(self.workspace)
        if self.process is not None:
            self.process.wait(30)

    def revision(self, name: str, mode: str = "ok") -> Revision:
        package = self.workspace / "packages" / name
        package.mkdir(parents=True, exist_ok=True)
        self.set_mode(name, mode)
        return Revision(name=name, storage_uri=f"file://{package}/")

    def set_mode(self, name: str, mode: str) -> None:
        (self.workspace / "packages" / name / "mode").write_text(mode)

    def pid(self, service: str, revision: str) -> int:
        pid = next(server.pid for server in self.target.servers(service) if server.revision == revision)
        assert pid is not None
        return pid

    def processes(self) -> list[int]:
        return supervised(self.target.state.root)

    @staticmethod
    def load(url: str) -> "Load":
        return Load(url)

    @staticmethod
    def send(url: str, requests: int, body: bytes = b"{}") -> Counter[object]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        answers = Counter(ask(connection, body) for _ in range(requests))
        connection.close()
        return answers

    @staticmethod
    def eventually(condition: Callable[[], bool], *, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s"
            time.sleep(0.05)


class Load:
    """Closed-loop clients; `answers` counts (status, answering revision), or the client's exception."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.answers: Counter[object] = Counter()
        self._address = urlsplit(url).netloc
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        self._lock = threading.Lock()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        while not self._stopping.is_set():
            answer = ask(connection)
            with self._lock:
                self.answers[answer] += 1
        connection.close()


def ask(connection: http.client.HTTPConnection, body: bytes = b"{}") -> object:
    try:
        connection.request("POST", "/v2/models/flights/infer", body)
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("x-tidegate-revision")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """One supervisor for tests that each use a service of their own name."""
    local = Local(tmp_path_factory.mktemp("workspace")).up()
    yield local
    local.down()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    """A supervisor for one test, which may kill it."""
    own = Local(tmp_path / "workspace")
    own.workspace.mkdir()
    yield own.up()
    own.down()
