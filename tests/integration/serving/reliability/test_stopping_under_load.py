"""A server that is asked to stop fails no request of callers who keep to HTTP, and stays for nobody beyond its time."""

import http.client
import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import complaints
from tests.integration.serving.reliability.wire import Wire, request
from tidegate.serving.grpc_v2.messages import methods_of

INFER = "/v2/models/iris/infer"
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.multiclass(tmp_path_factory.mktemp("packages") / "iris")


def body(request_id: str) -> bytes:
    inputs = [{"name": name, "datatype": "FP32", "shape": [1], "data": [1.5]} for name in COLUMNS]
    return json.dumps({"id": request_id, "inputs": inputs}).encode()


class Caller(threading.Thread):
    """Sends requests to a server until that says it is about to stop; `failed` holds those that were not answered."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__(name=name)
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._port = port


class RestCaller(Caller):
    """Calls on one connection until an answer says `connection: close`; its next one would go to another server."""

    def run(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            for number in range(100_000):
                request_id = f"{self.name}-{number}"
                try:
                    connection.request("POST", INFER, body(request_id))
                    response = connection.getresponse()
                    response.read()
                except (OSError, http.client.HTTPException) as error:
                    self.failed.append(f"{request_id}: {error!r}")
                    return
                (self.answered if response.status == 200 else self.failed).append(request_id)
                if response.getheader("connection") == "close":
                    return


class GrpcCaller(Caller):
    """Calls on one channel, which after GOAWAY looks for the server anew, until that is gone."""

    def run(self) -> None:
        asked, answered = methods_of("inference.GRPCInferenceService")["ModelInfer"]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            for number in range(100_000):
                message = asked(model_name="iris", id=f"{self.name}-{number}")
                for name in COLUMNS:
                    tensor = message.inputs.add(name=name, datatype="FP32", shape=[1])
                    tensor.contents.fp32_contents.append(1.5)
                try:
                    infer(message, timeout=10)
                except grpc.RpcError as error:
                    if "refused" not in error.details():
                        self.failed.append(f"{message.id}: {error.code()} {error.details()}")
                    return
                self.answered.append(message.id)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_request_is_answered_and_every_answer_is_logged(
    launch_once: Callable[..., Any], package: Path, workers: int
) -> None:
    server = launch_once(package, workers=workers, drain_delay_seconds=0.5, log_rotate_seconds=30)
    callers: list[Caller] = [RestCaller(server.http_port, f"rest{index}") for index in range(3)]
    callers += [GrpcCaller(server.grpc_port, f"grpc{index}") for index in range(3)]
    for caller in callers:
        caller.start()
    time.sleep(0.5)
    assert server.stop() == 0
    for caller in callers:
        caller.join()
    assert [failure for caller in callers for failure in caller.failed] == []
    answered = [request_id for caller in callers for request_id in caller.answered]
    assert all(len(caller.answered) > 20 for caller in callers)
    files = server.store.rglob("*.parquet")
    logged = [value for file in files for value in pq.ParquetFile(file).read().column("request_id").to_pylist()]
    assert len(logged) == len(set(logged))
    assert set(answered) <= set(logged)
    assert complaints(server) == []


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="says nothing"),
        pytest.param(request(INFER, b" " * 500)[:-400], id="sends half a body"),
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\nx:", id="sends half a head"),
    ],
)
def test_a_stuck_caller_does_not_keep_the_server(launch_once: Callable[..., Any], package: Path, sent: bytes) -> None:
    server = launch_once(package, drain_seconds=0.5)
    with Wire(server.http_port) as wire, Wire(server.grpc_port) as other:
        wire.send(sent)
        other.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        time.sleep(0.1)
        begun = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - begun < 8


def test_who_never_reads_the_answer_does_not_keep_the_server(launch_once: Callable[..., Any], package: Path) -> None:
    server = launch_once(package, drain_seconds=0.5)
    with Wire(server.http_port, receive_buffer=4096) as wire:
        wire.socket.settimeout(0.5)
        sender = threading.Thread(target=lambda: [wire.send(request("/v2/models/iris") * 1000) for _ in range(100)])
        sender.start()
        time.sleep(0.5)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 8
        sender.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_ends_the_wait(launch_once: Callable[..., Any], package: Path, workers: int) -> None:
    server = launch_once(package, workers=workers, drain_seconds=60)
    with Wire(server.http_port) as wire:
        wire.send(request(INFER, b" " * 500)[:-400])
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.stop()
    assert "Traceback" not in server.stderr
