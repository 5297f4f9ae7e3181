"""Callers who send, read or leave as slowly or rudely as they can are cut off, and keep nobody else waiting."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import ECHO, complaints, echo_document, open_descriptors, resident_bytes
from tests.integration.serving.reliability.wire import Wire, request

MEGABYTE = 1024 * 1024
CALLERS = 300
BODY = json.dumps(echo_document()).encode()
GOOD = request(ECHO, BODY)
HEAD_END = GOOD.index(b"\r\n\r\n")


@pytest.fixture(scope="module")
def impatient(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that gives a request a second to arrive, and a connection two seconds without any."""
    package: Path = small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")
    server = launch_once(package, read_seconds=1, idle_seconds=2)
    assert server.request(ECHO, echo_document())[0] == 200
    return server


class Steady(threading.Thread):
    """A good caller who sends requests all the while, on a connection of its own."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.answered = 0
        self.longest = 0.0
        self._port = port
        self._stopping = threading.Event()

    def run(self) -> None:
        with Wire(self._port, seconds=5) as wire:
            while not self._stopping.is_set():
                begun = time.monotonic()
                answer = wire.send(GOOD).answer()
                assert answer is not None
                assert answer.status == 200
                self.longest = max(self.longest, time.monotonic() - begun)
                self.answered += 1
                time.sleep(0.005)

    @contextmanager
    def calling(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self._stopping.set()
            self.join()


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(0, id="from the first byte"),
        pytest.param(HEAD_END - 20, id="within the headers"),
        pytest.param(HEAD_END + 4, id="within the body"),
    ],
)
def test_a_byte_at_a_time_is_cut_off_and_keeps_nobody_waiting(
    impatient: Any, start: int, eventually: Callable[..., None]
) -> None:
    memory, files = resident_bytes(impatient), open_descriptors(impatient)
    steady = Steady(impatient.http_port)
    with steady.calling(), ExitStack() as stack:
        wires = [stack.enter_context(Wire(impatient.http_port)).send(GOOD[:start]) for _ in range(CALLERS)]
        for position in range(start, start + 8):
            for wire in wires:
                wire.send(GOOD[position : position + 1])
            time.sleep(0.2)
        for wire in wires:
            assert all(answer.status == 408 for answer in wire.answers())
        assert resident_bytes(impatient) - memory < 30 * MEGABYTE
    assert steady.answered > 50
    assert complaints(impatient) == []
    eventually(lambda: open_descriptors(impatient) <= files, "closed connections", 5)


def test_the_time_to_send_a_request_begins_with_its_first_byte(impatient: Any) -> None:
    with Wire(impatient.http_port) as wire:
        for _ in range(3):
            time.sleep(0.8)  # idle for longer than a request may take to arrive, in all
            answer = wire.send(GOOD).answer()
            assert answer is not None
            assert answer.status == 200


@pytest.mark.parametrize("before", [pytest.param(b"", id="never used"), pytest.param(GOOD, id="used once")])
def test_an_idle_connection_is_closed_without_a_word(impatient: Any, before: bytes) -> None:
    with Wire(impatient.http_port) as wire:
        if before:
            assert wire.send(before).answer() is not None
        assert wire.answer() is None


def taken(wire: Wire, data: bytes) -> int:
    """Send `data` again and again until the server takes no more, and return how many bytes it took."""
    wire.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError, ConnectionResetError):
        while sent < 1024 * MEGABYTE:
            sent += wire.socket.send(data)
    return sent


def test_a_caller_who_does_not_read_is_not_read_either(impatient: Any) -> None:
    asked = request("/v2/models/echo")
    memory = resident_bytes(impatient)
    steady = Steady(impatient.http_port)
    with steady.calling(), Wire(impatient.http_port, receive_buffer=4096) as wire:
        assert taken(wire, asked * 100) < 20 * MEGABYTE
        assert resident_bytes(impatient) - memory < 30 * MEGABYTE
    assert steady.answered > 10


def test_a_slow_reader_gets_every_answer_in_order(launch_once: Callable[..., Any], tmp_path: Path) -> None:
    server = launch_once(small_packages.every_type(tmp_path / "echo"))
    numbered = [request(ECHO, json.dumps(echo_document() | {"id": str(number)}).encode()) for number in range(3000)]
    with Wire(server.http_port, receive_buffer=4096) as wire:
        sender = threading.Thread(target=wire.send, args=(b"".join(numbered),))
        sender.start()
        time.sleep(0.5)
        for number in range(len(numbered)):
            answer = wire.answer()
            assert answer is not None
            assert json.loads(answer.body)["id"] == str(number)
        sender.join()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before a request"),
        pytest.param(GOOD[: HEAD_END - 20], id="within the headers"),
        pytest.param(GOOD[: HEAD_END + 50], id="within the body"),
        pytest.param(GOOD, id="before the answer"),
        pytest.param(GOOD * 20, id="before twenty answers"),
    ],
)
def test_callers_who_vanish_leave_nothing_behind(impatient: Any, sent: bytes, eventually: Callable[..., None]) -> None:
    memory, files = resident_bytes(impatient), open_descriptors(impatient)
    for _ in range(500):
        wire = Wire(impatient.http_port).send(sent)
        wire.reset()
    eventually(lambda: open_descriptors(impatient) <= files, "closed connections", 5)
    assert impatient.request(ECHO, echo_document())[0] == 200
    assert resident_bytes(impatient) - memory < 30 * MEGABYTE
    assert complaints(impatient) == []


def test_more_connections_than_allowed_do_not_shut_out_those_that_are_open(
    launch_once: Callable[..., Any], tmp_path: Path, eventually: Callable[..., None]
) -> None:
    server = launch_once(small_packages.every_type(tmp_path / "echo"), max_connections=20)
    with ExitStack() as stack:
        first = [stack.enter_context(Wire(server.http_port)) for _ in range(10)]
        assert all(wire.send(GOOD).answer() is not None for wire in first)
        others = [stack.enter_context(Wire(server.http_port)) for _ in range(100)]
        assert [answer.status for wire in others[10:] for answer in wire.answers()] == [503] * 90
        eventually(lambda: open_descriptors(server) < 80, "closed connections", 5)
        for wire in first:
            answer = wire.send(GOOD).answer()
            assert answer is not None
            assert answer.status == 200
    eventually(lambda: Wire(server.http_port).send(GOOD).answer() is not None, "an answer on a new connection", 5)
    assert complaints(server) == []
