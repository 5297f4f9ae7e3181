"""A body beyond the limit is refused, whatever way it comes, and never held in memory."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import ECHO, complaints, echo_document, resident_bytes
from tests.integration.serving.reliability.wire import Wire, request

MEGABYTE = 1024 * 1024
LIMIT = MEGABYTE
HEAD = f"POST {ECHO} HTTP/1.1\r\nhost: test\r\n".encode()
PIECE = b" " * MEGABYTE


@pytest.fixture(scope="module")
def server(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    package: Path = small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")
    server = launch_once(package, max_body_bytes=LIMIT)
    assert server.request(ECHO, padded(LIMIT))[0] == 200
    return server


@pytest.fixture
def unharmed(server: Any) -> Iterator[None]:
    """Assert that the server's memory stays as it is: a tenth of a hundred megabytes would be seen."""
    before = resident_bytes(server)
    yield
    assert resident_bytes(server) - before < 10 * MEGABYTE
    assert server.request(ECHO, echo_document())[0] == 200
    assert complaints(server) == []


def padded(size: int) -> bytes:
    return json.dumps(echo_document()).encode().ljust(size)


def refusal(wire: Wire) -> str:
    answer = wire.answer()
    assert answer is not None, "cut off without a word"
    assert answer.status == 413
    assert answer.headers.get("connection") == "close"
    return str(json.loads(answer.body)["error"])


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("expects", ["", "expect: 100-continue\r\n"])
def test_a_length_beyond_the_limit_is_refused_before_the_body(server: Any, expects: str) -> None:
    with Wire(server.http_port) as wire:
        wire.send(HEAD + f"{expects}content-length: {100 * MEGABYTE}\r\n\r\n".encode())
        assert str(LIMIT) in refusal(wire)


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(f"content-length: {100 * MEGABYTE}".encode(), PIECE, id="of a stated length"),
        pytest.param(b"transfer-encoding: chunked", b"100000\r\n" + PIECE + b"\r\n", id="in chunks"),
    ],
)
def test_who_sends_a_hundred_megabytes_all_the_same_can_read_the_refusal(server: Any, head: bytes, piece: bytes) -> None:
    with Wire(server.http_port) as wire:
        wire.send(HEAD + head + b"\r\n\r\n")
        sender = threading.Thread(target=lambda: [wire.send(piece) for _ in range(100)])
        sender.start()
        assert str(LIMIT) in refusal(wire)
        sender.join()


@pytest.mark.parametrize(
    ("size", "status"), [pytest.param(LIMIT, 200, id="at the limit"), pytest.param(LIMIT + 1, 413, id="one byte over")]
)
@pytest.mark.usefixtures("unharmed")
def test_the_limit_is_the_bodys_alone(server: Any, size: int, status: int) -> None:
    for body in (request(ECHO, padded(size)), HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(padded(size))):
        with Wire(server.http_port) as wire:
            answer = wire.send(body).answer()
        assert answer is not None
        assert answer.status == status


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.usefixtures("unharmed")
def test_a_body_of_many_small_chunks_costs_no_more_than_its_bytes(server: Any) -> None:
    with Wire(server.http_port) as wire:
        answer = wire.send(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 500_000 + b"0\r\n\r\n").answer()
    assert answer is not None
    assert answer.status in (400, 431)


def test_large_bodies_are_bounded_on_all_connections_together(
    launch_once: Callable[..., Any], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    server = launch_once(small_packages.every_type(tmp_path / "echo"), max_body_bytes=20 * MEGABYTE)
    head = request(ECHO, b"", f"content-length: {20 * MEGABYTE}").replace(b"content-length: 0\r\n", b"")
    before = resident_bytes(server)
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.http_port)) for _ in range(20)]
        senders = [threading.Thread(target=wire.send, args=(head + PIECE * 19,)) for wire in wires]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert resident_bytes(server) - before < 320 * MEGABYTE
        assert server.request(ECHO, echo_document())[0] == 200
    eventually(lambda: server.request(ECHO, padded(15 * MEGABYTE))[0] == 200, "room for a large body", 5)
