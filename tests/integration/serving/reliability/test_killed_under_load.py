"""Behind the Envoy of the local target, no request is lost when the processes that answer are killed under load."""

import http.client
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest

from tests import small_packages
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.metrics.names import WORKERS_READY

READY_SECONDS = 60
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")
RIGHT = {"right by REST", "right by gRPC"}


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
    """Callers by REST and by gRPC who each send one request after the other, and count what they get for it."""

    def __init__(self, url: str, callers: int = 4) -> None:
        self.answers: Counter[str] = Counter()
        self._address = urlsplit(url).netloc
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=call, args=(f"{call.__name__}{index}",))
            for index in range(callers)
            for call in (self._by_rest, self._by_grpc)
        ]

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

    def _by_rest(self, name: str) -> None:
        with closing(http.client.HTTPConnection(self._address, timeout=30)) as connection:
            self._call(name, lambda request_id: rest_outcome(connection, request_id))

    def _by_grpc(self, name: str) -> None:
        with grpc.insecure_channel(self._address) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            self._call(name, lambda request_id: grpc_outcome(infer, request_id))

    def _call(self, name: str, outcome_of: Callable[[str], str]) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            outcome = outcome_of(f"{name}-{number}")
            with self._lock:
                self.answers[outcome] += 1


def rest_outcome(connection: http.client.HTTPConnection, request_id: str) -> str:
    inputs = [{"name": name, "datatype": "FP32", "shape": [1], "data": [1.5]} for name in COLUMNS]
    try:
        connection.request("POST", "/v2/models/iris/infer", json.dumps({"id": request_id, "inputs": inputs}))
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return repr(error)
    if response.status != 200:
        return f"{response.status} {content.decode()}"
    return "right by REST" if json.loads(content)["id"] == request_id else f"wrong: {content.decode()}"


def grpc_outcome(infer: Callable[..., bytes], request_id: str) -> str:
    asked, answered = methods_of("inference.GRPCInferenceService")["ModelInfer"]
    message = asked(model_name="iris", id=request_id)
    for name in COLUMNS:
        message.inputs.add(name=name, datatype="FP32", shape=[1]).contents.fp32_contents.append(1.5)
    try:
        answer = answered.FromString(infer(message.SerializeToString(), timeout=30))
    except grpc.RpcError as error:
        return f"{error.code()} {error.details()}"
    return "right by gRPC" if answer.id == request_id else f"wrong: {answer}"


def workers(target: LocalTarget) -> set[int]:
    [server] = target.servers("iris")
    assert server.pid is not None
    return {process.pid for process in psutil.Process(server.pid).children(recursive=True)}


def ready_workers(url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as scraped:  # noqa: S310
        lines = scraped.read().decode().splitlines()
    return int(next(line for line in lines if line.startswith(f"{WORKERS_READY}{{")).split()[-1])


def test_workers_killed_one_after_the_other_lose_no_request(
    target: LocalTarget, package: Path, eventually: Callable[..., None]
) -> None:
    target.apply(Service("iris", "default", revision(package, 1, TIDEGATE_WORKERS="2")))
    url = target.wait("iris", timeout=READY_SECONDS).url
    load = Load(url)
    with load.going():
        for _ in range(4):
            eventually(lambda: ready_workers(url) == 2, "two ready workers")
            time.sleep(0.3)
            os.kill(min(workers(target)), signal.SIGKILL)
            eventually(lambda: ready_workers(url) == 1, "a worker less")
        eventually(lambda: ready_workers(url) == 2, "two ready workers")
    assert set(load.answers) == RIGHT, load.answers
    assert min(load.answers.values()) > 50


def test_a_killed_server_loses_no_request_while_another_stands_behind_it(target: LocalTarget, package: Path) -> None:
    service = Service("iris", "default", revision(package, 2)).with_canary(revision(package, 3), 50)
    target.apply(service)
    load = Load(target.wait("iris", timeout=READY_SECONDS).url)
    with load.going():
        time.sleep(0.5)
        os.killpg(next(server.pid for server in target.servers("iris") if server.revision == "v3"), signal.SIGKILL)
        time.sleep(1.5)
    assert set(load.answers) == RIGHT, load.answers
    assert min(load.answers.values()) > 50
