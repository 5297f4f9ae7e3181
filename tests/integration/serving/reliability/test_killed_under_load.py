"""Behind the Envoy of the local target, no request is lost when the processes that answer are killed under load."""

import http.client
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests import small_packages
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget

READY_SECONDS = 60


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTarget]:
    workspace = tmp_path_factory.mktemp("workspace")
    start_supervisor(workspace)
    yield LocalTarget(workspace)
    stop_supervisor(workspace)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.multiclass(tmp_path_factory.mktemp("packages") / "iris")


def revision(package: Path, number: int, **env: str) -> Revision:
    place = package.parent / str(number)
    if not place.exists():
        shutil.copytree(package, place)
    return Revision(f"v{number}", f"file://{place}/", env=env)


class Load:
    """Callers who each send one request after the other, and count what they get for it."""

    def __init__(self, url: str, callers: int = 8) -> None:
        self.answers: Counter[str] = Counter()
        self._url = url
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(f"caller{index}",)) for index in range(callers)]

    @contextmanager
    def going(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def _call(self, name: str) -> None:
        with closing(http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=30)) as connection:
            number = 0
            while not self._stopping.is_set():
                number += 1
                outcome = self._ask(connection, f"{name}-{number}")
                with self._lock:
                    self.answers[outcome] += 1

    @staticmethod
    def _ask(connection: http.client.HTTPConnection, request_id: str) -> str:
        names = ("sepal_length", "sepal_width", "petal_length", "petal_width")
        inputs = [{"name": name, "datatype": "FP32", "shape": [1], "data": [1.5]} for name in names]
        try:
            connection.request("POST", "/v2/models/iris/infer", json.dumps({"id": request_id, "inputs": inputs}))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return repr(error)
        if response.status != 200:
            return f"{response.status} {content.decode()}"
        answer = json.loads(content)
        return "right" if answer["id"] == request_id and len(answer["outputs"]) == 2 else f"wrong: {answer}"


def workers(target: LocalTarget) -> set[int]:
    [server] = target.servers("iris")
    assert server.pid is not None
    return {process.pid for process in psutil.Process(server.pid).children(recursive=True)}


def kill_and_await_another(target: LocalTarget, eventually: Callable[..., None]) -> None:
    victim = min(workers(target))
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(workers(target) - {victim}) == 2, "a new worker")


def test_workers_killed_one_after_the_other_lose_no_request(
    target: LocalTarget, package: Path, eventually: Callable[..., None]
) -> None:
    target.apply(Service("iris", "default", revision(package, 1, TIDEGATE_WORKERS="2")))
    load = Load(target.wait("iris", timeout=READY_SECONDS).url)
    with load.going():
        for _ in range(4):
            time.sleep(0.5)
            kill_and_await_another(target, eventually)
        time.sleep(0.5)
    assert set(load.answers) == {"right"}, load.answers
    assert load.answers["right"] > 200


def test_a_killed_server_loses_no_request_while_another_stands_behind_it(target: LocalTarget, package: Path) -> None:
    service = Service("iris", "default", revision(package, 2)).with_canary(revision(package, 3), 50)
    target.apply(service)
    load = Load(target.wait("iris", timeout=READY_SECONDS).url)
    with load.going():
        time.sleep(0.5)
        os.killpg(next(server.pid for server in target.servers("iris") if server.revision == "v3"), signal.SIGKILL)
        time.sleep(1.5)
    assert set(load.answers) == {"right"}, load.answers
    assert load.answers["right"] > 200
