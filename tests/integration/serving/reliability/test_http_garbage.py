"""What is no HTTP/1.1 is refused or cut off, never guessed at: no smuggled request, no 5xx, no answer out of order."""

import json
import random
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.serving.reliability.conftest import ECHO, echo_document
from tests.integration.serving.reliability.wire import Wire, request

LIVE = "/v2/health/live"
BODY = json.dumps(echo_document()).encode()
GOOD = request(ECHO, BODY)
GET = request(LIVE)
SMUGGLED = request("/v2")
HEAD = b"POST %s HTTP/1.1\r\nhost: test\r\n" % ECHO.encode()


@pytest.fixture
def wire(echo: Any, unharmed: None) -> Any:
    with Wire(echo.http_port) as wire:
        yield wire


# RFC 9112: 2.2 and 3 (request line), 5 (fields), 6.1 and 6.3 (length), 7.1 (chunks); RFC 9110: 5.5, 7.2, 8.6.
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="both lengths"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", id="both lengths, turned round"
        ),
        pytest.param(HEAD + b"content-length: 0\r\ncontent-length: 5\r\n\r\nhello", id="two lengths"),
        pytest.param(HEAD + b"content-length: 0, 5\r\n\r\nhello", id="a list of lengths"),
        pytest.param(HEAD + b"content-length: +5\r\n\r\nhello", id="a length with a sign"),
        pytest.param(HEAD + b"content-length: -5\r\n\r\nhello", id="a negative length"),
        pytest.param(HEAD + b"content-length: 0x5\r\n\r\nhello", id="a hexadecimal length"),
        pytest.param(HEAD + b"content-length: 5 5\r\n\r\nhello", id="a length of two words"),
        pytest.param(HEAD + b"content-length: 5.0\r\n\r\nhello", id="a fractional length"),
        pytest.param(HEAD + b"content-length: 1_0\r\n\r\nhello", id="a length with an underscore"),
        pytest.param(HEAD + b"content-length: \xc2\xb2\r\n\r\nhello", id="a length in other digits"),
        pytest.param(HEAD + b"content-length: 18446744073709551617\r\n\r\nh", id="a length beyond 64 bits"),
        pytest.param(HEAD + b"content-length : 5\r\n\r\nhello", id="a blank before the colon"),
        pytest.param(HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", id="a blank before the other colon"),
        pytest.param(HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", id="an unknown coding"),
        pytest.param(HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked is not the last coding"),
        pytest.param(HEAD + b"transfer-encoding: identity\r\n\r\nhello", id="no coding that ends"),
        pytest.param(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="a coding that is not understood"),
        pytest.param(
            HEAD.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", id="chunks before there were chunks"
        ),
        pytest.param(HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", id="a coding behind a control character"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", id="a chunk size of letters"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", id="a negative chunk size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", id="a prefixed chunk size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n", id="a chunk beyond 64 bits"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloXX\r\n0\r\n\r\n", id="a chunk longer than it says"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n5\nhello\n0\n\n", id="chunks ended by LF alone"),
        pytest.param(HEAD + b"x: 1\r\n folded: 2\r\n\r\n", id="a folded header"),
        pytest.param(HEAD + b"x: a\0b\r\n\r\n", id="NUL in a header"),
        pytest.param(HEAD + b"x: a\rb\r\n\r\n", id="CR in a header"),
        pytest.param(HEAD + b"x\0y: a\r\n\r\n", id="NUL in a header's name"),
        pytest.param(HEAD + b"x y: a\r\n\r\n", id="a blank in a header's name"),
        pytest.param(HEAD + b": a\r\n\r\n", id="a header without a name"),
        pytest.param(HEAD + b"no colon\r\n\r\n", id="a header without a colon"),
        pytest.param(b"POST %s HTTP/1.1\r\n\r\n" % ECHO.encode(), id="no host"),
        pytest.param(HEAD + b"host: other\r\ncontent-length: 0\r\n\r\n", id="two hosts"),
        pytest.param(b"GET %s HTTP/1.1 HTTP/1.1\r\nhost: x\r\n\r\n" % LIVE.encode(), id="two versions"),
        pytest.param(b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n", id="a blank in the target"),
        pytest.param(b"GET  HTTP/1.1\r\nhost: x\r\n\r\n", id="no target"),
        pytest.param(b"GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n", id="NUL in the target"),
        pytest.param(b"G\0T %s HTTP/1.1\r\nhost: x\r\n\r\n" % LIVE.encode(), id="NUL in the method"),
        pytest.param(b"BREW %s HTTP/1.1\r\nhost: x\r\ncontent-length: 0, 1\r\n\r\n" % LIVE.encode(), id="an unknown method"),
        pytest.param(b"GET %s HTTP/2.0\r\nhost: x\r\n\r\n" % LIVE.encode(), id="a version that is no text"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", id="the preface of HTTP/2"),
        pytest.param(b"GET %s HTTP/9.9\r\nhost: x\r\n\r\n" % LIVE.encode(), id="a version to come"),
        pytest.param(b"GET %s http/1.1\r\nhost: x\r\n\r\n" % LIVE.encode(), id="a version in small letters"),
        pytest.param(b"GET %s\r\n\r\n" % LIVE.encode(), id="HTTP/0.9"),
        pytest.param(b"GET %s FTP/1.1\r\nhost: x\r\n\r\n" % LIVE.encode(), id="another protocol"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), id="a TLS hello"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="SSH"),
        pytest.param(b"\0" * 4096, id="NUL"),
        pytest.param(b"\xff" * 4096, id="no text"),
        pytest.param(b"{}" * 4096, id="JSON without HTTP"),
    ],
)
def test_a_malformed_request_is_refused_and_what_follows_it_is_not_read(wire: Wire, sent: bytes) -> None:
    answers = wire.send(sent + SMUGGLED).answers()
    assert len(answers) <= 1
    for answer in answers:
        assert answer.status in (400, 414, 431, 501, 505), answer
        assert list(json.loads(answer.body)) == ["error"]
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"x" * 1_000_000), id="a target of a megabyte"),
        pytest.param(b"GET /" + b"x" * 1_000_000, id="a target without an end"),
        pytest.param(b"G" * 1_000_000, id="a method without an end"),
        pytest.param(HEAD + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n", id="a header of a megabyte"),
        pytest.param(HEAD + b"x" * 1_000_000 + b": y\r\n\r\n", id="a header's name of a megabyte"),
        pytest.param(HEAD + b"x: y\r\n" * 100_000 + b"\r\n", id="a hundred thousand headers"),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n1;" + b"x" * 1_000_000, id="a chunk's extension without an end"
        ),
        pytest.param(
            HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
            id="a hundred thousand trailers",
        ),
        pytest.param(b"\r\n" * 500_000, id="line ends"),
    ],
)
def test_a_head_without_measure_is_refused(wire: Wire, sent: bytes) -> None:
    answers = wire.send(sent).answers()
    assert len(answers) <= 1
    assert all(answer.status in (400, 414, 431) for answer in answers), answers


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(b"\r\n" + GET, {200}, id="an empty line first"),
        pytest.param(GET.replace(b"host: test", b"HOST:\ttest \t"), {200}, id="blanks around a value"),
        pytest.param(b"GET http://test%s HTTP/1.1\r\nhost: test\r\n\r\n" % LIVE.encode(), {200}, id="an absolute target"),
        pytest.param(request(LIVE, None, "connection: upgrade", "upgrade: h2c", "http2-settings: AAMAAABk"), {200}, id="h2c"),
        pytest.param(request(LIVE, None, "connection: upgrade", "upgrade: websocket"), {200}, id="a websocket"),
        pytest.param(request(ECHO, BODY, "connection: upgrade", "upgrade: h2c"), {200}, id="h2c with a body, as Java sends it"),
        pytest.param(request("*", method="OPTIONS"), {204, 404, 405}, id="the server's options"),
        pytest.param(request("test:80", method="CONNECT"), {400, 404, 405, 501}, id="a tunnel"),
        pytest.param(request(LIVE, method="TRACE"), {405}, id="a trace"),
        pytest.param(request("/v2/../v2/health/live"), {404}, id="a path with dots"),
        pytest.param(request("//v2/health/live"), {404}, id="a path with an empty part"),
        pytest.param(request("/%00"), {400, 404}, id="an escaped NUL"),
        pytest.param(request("/%zz"), {400, 404}, id="a broken escape"),
        pytest.param(request("/v2/models/%0d%0aset-cookie:x"), {404}, id="an escaped line end"),
    ],
)
def test_a_request_that_is_unusual_but_lawful_is_answered(wire: Wire, sent: bytes, statuses: set[int]) -> None:
    answer = wire.send(sent).answer()
    assert answer is not None
    assert answer.status in statuses
    assert "set-cookie" not in answer.headers
    if answer.headers.get("connection") == "close":
        assert wire.answer() is None
        return
    again = wire.send(GET).answer()
    assert again is not None
    assert again.status == 200


def test_garbage_between_pipelined_requests_ends_them_in_order(wire: Wire) -> None:
    answers = wire.send(GOOD * 10 + b"\x00garbage\r\n\r\n" + GOOD * 10).answers()
    assert [answer.status for answer in answers[:10]] == [200] * 10
    assert len(answers) <= 11
    assert all(answer.status == 400 for answer in answers[10:])


def test_nothing_is_answered_after_the_callers_last_request(wire: Wire) -> None:
    answers = wire.send(GET + request(LIVE, None, "connection: close") + GET * 5).answers()
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[-1].headers["connection"] == "close"


@pytest.mark.parametrize("requests", [1, 40])
def test_who_asks_and_then_closes_its_side_is_answered(wire: Wire, requests: int) -> None:
    wire.send(GOOD * requests).socket.shutdown(socket.SHUT_WR)
    assert [answer.status for answer in wire.answers()] == [200] * requests


def test_a_request_may_come_byte_by_byte(wire: Wire) -> None:
    for position in range(len(GOOD)):
        wire.send(GOOD[position : position + 1])
    answer = wire.answer()
    assert answer is not None
    assert answer.status == 200


def test_chunks_of_one_byte_and_trailers_are_read(wire: Wire) -> None:
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in BODY)
    sent = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\nhost: other\r\n\r\n"
    for _ in range(2):
        answer = wire.send(sent).answer()
        assert answer is not None
        assert answer.status == 200


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=10))
@pytest.mark.usefixtures("unharmed")
def test_random_bytes_are_never_answered_with_success_or_5xx(echo: Any, noise: list[bytes]) -> None:
    for sent in noise:
        with Wire(echo.http_port) as wire:
            assert all(
                400 <= answer.status < 500 or answer.status == 505 for answer in wire.send(sent + b"\r\n\r\n\0").answers()
            )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 6))
@pytest.mark.usefixtures("unharmed")
def test_damaged_requests_are_never_answered_with_5xx(echo: Any, seed: int, flips: int) -> None:
    chance = random.Random(seed)
    sent = bytearray(GOOD * 2)
    for _ in range(flips):
        position = chance.randrange(len(sent))
        sent[position : position + chance.randrange(2)] = chance.randbytes(chance.randrange(3))
    with Wire(echo.http_port) as wire:
        wire.send(bytes(sent) + b"\r\n\r\n\0")
        answers = wire.answers()
    assert all(answer.status == 200 or 400 <= answer.status <= 431 or answer.status in (501, 505) for answer in answers), (
        answers
    )
