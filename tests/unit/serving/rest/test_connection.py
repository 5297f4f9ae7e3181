"""What a connection makes of bytes, whole or in pieces, and what it sends back, in which order."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.protocol.request import InferRequest
from tidegate.serving.rest.connection import Connection
from tidegate.serving.rest.exchange import Exchange

HEAD = b"POST /infer HTTP/1.1\r\nhost: a\r\n"
GET = b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(b"%b\r\n" % line for line in headers) + b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Transport(asyncio.Transport):
    """Keeps what is written, and what becomes of the connection."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread = 1000
        self.closed = self.aborted = self.at_eof = self.reading_paused = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.at_eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.reading_paused = True

    def resume_reading(self) -> None:
        self.reading_paused = False


class Listener:
    """Answers every exchange with its body, at once or when it is told to."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.max_body_bytes = 1000
        self.now = 100.0
        self.date = b"date: today\r\n"
        self.is_draining = False
        self.room = True
        self.held = 0
        self.exchanges: list[Exchange] = []
        self.handle: Callable[[Exchange], None] = self.echo if at_once else self.exchanges.append

    def echo(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)
        exchange.respond(200, exchange.body or exchange.target)

    def opened(self, _connection: Connection) -> bool:
        return self.room

    def hold(self, change: int) -> bool:
        self.held += change
        return self.held <= 300_000

    def closed(self, _connection: Connection) -> None:
        """Nothing is counted here."""


class Line:
    """A caller's end of a connection."""

    def __init__(self, *, at_once: bool = True, room: bool = True) -> None:
        self.listener = Listener(at_once=at_once)
        self.listener.room = room
        self.transport = Transport()
        self.connection = Connection(self.listener)
        self.connection.connection_made(self.transport)

    def send(self, *parts: bytes) -> "Line":
        for part in parts:
            self.connection.data_received(part)
        return self

    @property
    def responses(self) -> list[tuple[int, dict[str, str], bytes]]:
        found = []
        rest = self.transport.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            length = int(headers.get("content-length", "0"))
            found.append((int(first.split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found

    @property
    def statuses(self) -> list[int]:
        return [status for status, _, _ in self.responses]

    @property
    def error(self) -> str:
        message: str = json.loads(self.responses[-1][2])["error"]
        return message


REQUESTS = {
    "a body": (post(b"hello"), [b"hello"]),
    "no body": (GET, [b"/x"]),
    "chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;a=b\r\nllo\r\n0\r\nhost: b\r\n\r\n", [b"hello"]),
    "several at once": (post(b"one") + GET + post(b"two"), [b"one", b"/x", b"two"]),
    "an offer to upgrade": (
        post(b"hello", b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk") + post(b"next"),
        [b"hello", b"next"],
    ),
    "an offer to upgrade, no body": (
        b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" + post(b"next"),
        [b"/x", b"next"],
    ),
}


@pytest.mark.parametrize(
    "size", [pytest.param(1, id="byte by byte"), pytest.param(7, id="sevens"), pytest.param(10**6, id="whole")]
)
@pytest.mark.parametrize(("raw", "bodies"), REQUESTS.values(), ids=REQUESTS)
def test_requests_are_answered_in_their_order(raw: bytes, bodies: list[bytes], size: int) -> None:
    line = Line().send(*(raw[start : start + size] for start in range(0, len(raw), size)))
    assert [(status, body) for status, _, body in line.responses] == [(200, body) for body in bodies]
    assert not line.transport.closed


def test_a_body_in_many_small_chunks_is_read() -> None:
    line = Line()
    line.listener.max_body_bytes = 200_000
    chunks = b"".join(b"64\r\n%b\r\n" % (b"x" * 100) for _ in range(1500))
    line.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(chunks), 5000):
        line.send(chunks[start : start + 5000])
    line.send(b"0\r\n\r\n")
    assert [(status, len(body)) for status, _, body in line.responses] == [(200, 150_000)]


def test_trailers_do_not_change_the_headers() -> None:
    raw, _ = REQUESTS["chunks"]
    assert Line().send(raw).listener.exchanges[0].headers[b"host"] == b"a"


def test_requests_sent_ahead_wait_for_the_answer_to_the_first() -> None:
    line = Line(at_once=False).send(post(b"1") + post(b"2") + post(b"3"))
    assert len(line.listener.exchanges) == 1
    for number in range(3):
        line.listener.exchanges[number].respond(200, line.listener.exchanges[number].body)
    assert [body for _, _, body in line.responses] == [b"1", b"2", b"3"]


def test_too_many_requests_sent_ahead_are_not_read_until_some_are_answered() -> None:
    line = Line(at_once=False).send(post(b"x") * 20)
    assert line.transport.reading_paused
    for number in range(20):
        line.listener.exchanges[number].respond(200, b"")
    assert not line.transport.reading_paused
    assert line.statuses == [200] * 20


@pytest.mark.parametrize("raw", [GET, REQUESTS["an offer to upgrade, no body"][0]], ids=["plain", "with offers to upgrade"])
def test_thousands_sent_ahead_in_one_piece_are_answered_without_recursion(raw: bytes) -> None:
    line = Line().send(raw * 5000)
    assert set(line.statuses) == {200}
    assert len(line.listener.exchanges) == 5000 * (raw.count(b"HTTP/1.1"))


@pytest.mark.parametrize(
    ("raw", "status", "message"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "no HTTP/1.1 request", id="TLS hello"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None, "", id="HTTP/2 preface"),
        pytest.param(b"GET /x HTTP/1.1\r\n\r\n", 400, "no Host header", id="no Host"),
        pytest.param(b"GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "more than one Host", id="two Hosts"),
        pytest.param(b"GET /x\r\n\r\n", None, "", id="HTTP/0.9"),
        pytest.param(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400, "", id="two lengths"),
        pytest.param(
            HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "", id="length and chunks"
        ),
        pytest.param(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n", 501, "'gzip, chunked' is not read here", id="coding"),
        pytest.param(
            HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n",
            501,
            "is not read here",
            id="chunks in HTTP/1.0",
        ),
        pytest.param(HEAD + b"content-length: -1\r\n\r\n", 400, "", id="negative length"),
        pytest.param(HEAD + b"content-length: 1001\r\n\r\n", 413, "1001 bytes, but at most 1000", id="too large"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"ff\r\n" + b"x" * 255 + b"\r\n" + b"3ff\r\n" + b"x" * 1023,
            413,
            "more than 1000 bytes",
            id="too large in chunks",
        ),
        pytest.param(HEAD + b"a: b\r\n" * 200, 431, "more than 128 headers", id="many headers"),
        pytest.param(HEAD + b"a: " + b"b" * 200_000, 431, "", id="a header without end"),
        pytest.param(b"GET /" + b"x" * 200_000, 431, "", id="a target without end"),
        pytest.param(b"\r\n" * 200_000, 431, "", id="empty lines without end"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1;" + b"a" * 200_000, 431, "", id="a chunk's extension"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", 501, "no proxy", id="CONNECT"),
        pytest.param(HEAD + b"bad header\r\n\r\n", 400, "", id="no colon"),
        pytest.param(HEAD + b"a: b\0c\r\n\r\n", 400, "", id="NUL in a header"),
        pytest.param(HEAD + b"a: b\r\n folded\r\n\r\n", 400, "", id="a folded header"),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(raw: bytes, status: int | None, message: str) -> None:
    line = Line().send(*(raw[start : start + 16_000] for start in range(0, len(raw), 16_000)))
    assert line.statuses[0] == status if status else 400 <= line.statuses[0] < 600
    assert line.responses[0][1]["connection"] == "close"
    assert message in line.error
    assert line.transport.at_eof
    line.send(GET)
    assert len(line.responses) == 1
    assert line.listener.exchanges == []


def test_what_comes_before_a_bad_request_is_answered_first() -> None:
    line = Line(at_once=False).send(post(b"1") + post(b"2") + b"garbage\r\n\r\n")
    assert line.responses == []
    line.listener.exchanges[0].respond(200, b"1")
    line.listener.exchanges[1].respond(200, b"2")
    assert line.statuses == [200, 200, 400]
    assert line.transport.at_eof


@pytest.mark.parametrize(
    ("raw", "connection"),
    [
        pytest.param(GET, None, id="HTTP/1.1 stays open"),
        pytest.param(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), "close", id="unless it is asked to close"),
        pytest.param(b"GET /x HTTP/1.0\r\n\r\n", "close", id="HTTP/1.0 is closed"),
        pytest.param(b"GET /x HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", "keep-alive", id="unless it is asked to stay open"),
    ],
)
def test_a_connection_stays_open_as_its_caller_asks(raw: bytes, connection: str | None) -> None:
    line = Line().send(raw)
    assert line.responses[0][1].get("connection") == connection
    assert line.transport.closed == (connection == "close")


def test_what_follows_a_request_to_close_is_not_answered() -> None:
    line = Line(at_once=False).send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + GET)
    line.listener.exchanges[0].respond(200, b"last")
    assert line.statuses == [200]
    assert line.transport.closed


def test_a_draining_listener_closes_connections_with_their_answers() -> None:
    line = Line(at_once=False).send(GET)
    line.listener.is_draining = True
    line.listener.exchanges[0].respond(200, b"")
    assert line.responses[0][1]["connection"] == "close"
    assert line.transport.closed


def test_a_head_request_gets_no_body() -> None:
    line = Line().send(GET.replace(b"GET", b"HEAD"))
    assert line.transport.written.endswith(b"\r\n\r\n")
    assert b"content-length: 2\r\n" in line.transport.written


def test_a_caller_who_waits_for_leave_gets_it() -> None:
    line = Line().send(HEAD + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n")
    assert line.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    line.send(b"hello")
    assert line.transport.written.endswith(b"hello")


def test_a_caller_who_closes_its_side_still_gets_its_answer() -> None:
    line = Line(at_once=False).send(GET)
    assert line.connection.eof_received() is True
    line.listener.exchanges[0].respond(200, b"")
    assert line.statuses == [200]
    assert line.transport.closed


def test_a_caller_who_hangs_up_abandons_its_request() -> None:
    line = Line(at_once=False).send(GET)
    line.listener.exchanges[0].request = request = InferRequest("f1", [])
    line.connection.connection_lost(None)
    assert request.abandoned
    line.listener.exchanges[0].respond(200, b"")
    assert line.transport.written == b""


def test_no_answer_is_given_to_who_reads_none() -> None:
    line = Line(at_once=False).send(post(b"1") + post(b"2"))
    line.connection.pause_writing()
    line.listener.exchanges[0].respond(200, b"")
    assert len(line.listener.exchanges) == 1
    assert line.transport.reading_paused
    line.connection.resume_writing()
    assert len(line.listener.exchanges) == 2


@pytest.mark.parametrize(
    ("prepare", "seconds", "cut"),
    [
        pytest.param(lambda line: None, 9, "", id="idle, briefly"),
        pytest.param(lambda line: None, 61, "closed", id="idle too long"),
        pytest.param(lambda line: line.send(HEAD), 4, "", id="sending, briefly"),
        pytest.param(lambda line: line.send(HEAD), 6, "408", id="sending too long"),
        pytest.param(lambda line: line.send(post(b"x" * 9)[:-1]), 6, "408", id="sending a body too long"),
        pytest.param(lambda line: line.connection.pause_writing(), 6, "aborted", id="not reading"),
        pytest.param(lambda line: line.send(b"garbage\r\n\r\n"), 3, "aborted", id="not hanging up after a refusal"),
    ],
)
def test_who_is_too_slow_is_cut_off(prepare: Callable[[Line], Any], seconds: float, cut: str) -> None:
    line = Line()
    prepare(line)
    line.connection.sweep(line.listener.now + seconds, 5, 60)
    assert line.transport.closed == (cut == "closed")
    assert line.transport.aborted == (cut == "aborted")
    assert (408 in line.statuses) == (cut == "408")


def test_a_caller_who_reads_slowly_but_steadily_is_not_cut_off() -> None:
    line = Line()
    line.connection.pause_writing()
    for second in range(4, 40, 4):
        line.transport.unread -= 1
        line.connection.sweep(line.listener.now + second, 5, 60)
    assert not line.transport.aborted
    line.connection.sweep(line.listener.now + 46, 5, 60)
    assert line.transport.aborted


def test_a_long_computation_is_not_a_slow_caller() -> None:
    line = Line(at_once=False).send(GET)
    line.connection.sweep(line.listener.now + 1000, 5, 60)
    assert not line.transport.closed
    assert not line.transport.aborted


def test_large_bodies_are_counted_until_they_are_answered() -> None:
    line = Line(at_once=False)
    line.listener.max_body_bytes = 200_000
    request = post(b"x" * 100_000)
    line.send(request[:50_000])
    assert line.listener.held == 0
    line.send(request[50_000:90_000], request[90_000:])
    assert line.listener.held == 100_000
    line.send(request, request)
    assert line.listener.held == 300_000
    line.send(request)
    for exchange in list(line.listener.exchanges):
        exchange.respond(200, b"")
    line.listener.exchanges[1].respond(200, b"")
    line.listener.exchanges[2].respond(200, b"")
    assert line.statuses == [200, 200, 200, 503]
    line.connection.connection_lost(None)
    assert line.listener.held == 0


@pytest.mark.parametrize(
    ("used", "seconds", "closed"),
    [
        pytest.param(True, 0, True, id="one that was used, at once"),
        pytest.param(False, 0.1, False, id="a new one may be about to send its first request"),
        pytest.param(False, 0.5, True, id="a new one that sends nothing"),
    ],
)
def test_idle_connections_are_closed_when_the_server_drains(used: bool, seconds: float, closed: bool) -> None:
    line = Line().send(*[GET] * used)
    line.listener.is_draining = True
    line.connection.close_if_idle()
    line.connection.sweep(line.listener.now + seconds, 5, 60)
    assert line.transport.closed == closed


def test_one_connection_too_many_is_told_so() -> None:
    line = Line(room=False)
    assert line.statuses == [503]
    assert "too many connections" in line.error


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.sampled_from([post(b"hello"), GET, HEAD, b"\r\n", b"content-length: 3\r\n", b"0\r\n\r\n", b"upgrade: h2c\r\n"])
        | st.binary(max_size=12),
        max_size=6,
    )
)
def test_any_bytes_are_answered_or_refused(parts: list[bytes]) -> None:
    line = Line().send(*parts)
    assert set(line.statuses) <= {200, 400, 408, 413, 431, 501, 505}
