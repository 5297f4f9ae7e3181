"""A server that has answered many requests of every kind holds no more memory and no more files than before.

TIDEGATE_SOAK_REQUESTS asks for more requests of each kind than the few thousand of an ordinary run.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import ECHO, echo_data, echo_document, open_descriptors, resident_bytes
from tests.integration.serving.reliability.test_grpc_garbage import GOOD as GRPC_GOOD
from tests.integration.serving.reliability.test_grpc_garbage import INFER
from tests.integration.serving.reliability.wire import Wire, request

MEGABYTE = 1024 * 1024
REQUESTS = int(os.environ.get("TIDEGATE_SOAK_REQUESTS", "4000"))
AT_ONCE = 16
Exchange = Callable[[], None]


def over_rest(wire: Wire, sent: bytes, status: int) -> Exchange:
    """Return what sends several requests ahead and reads their answers."""

    def exchange() -> None:
        wire.send(sent * AT_ONCE)
        for _ in range(AT_ONCE):
            answer = wire.answer()
            assert answer is not None
            assert answer.status == status

    return exchange


def over_grpc(channel: grpc.Channel) -> Exchange:
    infer = channel.unary_unary(INFER)

    def exchange() -> None:
        for future in [infer.future(GRPC_GOOD, timeout=10) for _ in range(AT_ONCE)]:
            assert future.result()

    return exchange


def binary() -> bytes:
    document = echo_document() | {"parameters": {"binary_data_output": True}}
    for tensor, data in zip(document["inputs"], echo_data(), strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(data)}
    header = json.dumps(document).encode()
    return request(ECHO, header + b"".join(echo_data()), f"inference-header-content-length: {len(header)}")


def v1() -> bytes:
    row = {tensor["name"]: tensor["data"] for tensor in echo_document()["inputs"]}
    return request("/v1/models/echo:predict", json.dumps({"instances": [row]}).encode())


def chunked() -> bytes:
    body = json.dumps(echo_document()).encode()
    head = f"POST {ECHO} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


KINDS = {
    "JSON": (request(ECHO, json.dumps(echo_document()).encode()), 200),
    "binary": (binary(), 200),
    "v1": (v1(), 200),
    "in chunks": (chunked(), 200),
    "refused": (request(ECHO, b'{"inputs": [{"name": "x"}]}'), 400),
    "unknown": (request("/v2/models/other/infer", b"{}"), 404),
    "metadata": (request("/v2/models/echo"), 200),
}


@pytest.fixture(scope="module")
def server(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    package: Path = small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")
    return launch_once(package)


@pytest.fixture(params=[*KINDS, "gRPC", "connections"])
def exchange(server: Any, request: pytest.FixtureRequest) -> Iterator[Exchange]:
    """Sends requests of one kind."""
    kind = request.param
    if kind == "gRPC":
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            yield over_grpc(channel)
    elif kind == "connections":
        yield lambda: Wire(server.http_port).send(KINDS["JSON"][0] * AT_ONCE).reset()
    else:
        with Wire(server.http_port) as wire:
            yield over_rest(wire, *KINDS[kind])


def test_memory_and_descriptors_stay_flat(server: Any, exchange: Exchange, eventually: Callable[..., None]) -> None:
    for _ in range(REQUESTS // AT_ONCE):
        exchange()
    memory, files = resident_bytes(server), open_descriptors(server)
    for _ in range(REQUESTS // AT_ONCE):
        exchange()
    assert resident_bytes(server) - memory < 6 * MEGABYTE + REQUESTS * 4
    eventually(lambda: open_descriptors(server) <= files, "closed connections", 5)
