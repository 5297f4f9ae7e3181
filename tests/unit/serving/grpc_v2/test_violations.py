"""What a caller may not do, and how RFC 9113 says it is told: each by the name of the rule that it breaks."""

from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder

from tests.unit.serving.grpc_v2.conftest import MESSAGE_LIMIT, Caller, data, prefixed
from tidegate.serving.grpc_v2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    ErrorCode,
    frame,
)
from tidegate.serving.grpc_v2.limits import FRAME_BYTES, MAX_STREAMS, STREAM_WINDOW

WAIT = (":path", "/test.Echo/Wait")
Send = Callable[[Caller], Any]


def raw(*parts: bytes) -> Send:
    return lambda caller: caller.send(*parts)


def opened(*parts: bytes) -> Send:
    """Open stream 1, whose call is never answered, and then send."""

    def send(caller: Caller) -> None:
        caller.call(1, b"hello", WAIT)
        caller.send(*parts)

    return send


def half_sent(*parts: bytes) -> Send:
    """Open stream 1, send no message yet, and then send."""

    def send(caller: Caller) -> None:
        caller.send(caller.headers(1))
        caller.send(*parts)

    return send


def answered(*parts: bytes) -> Send:
    """Have a call answered on stream 1, and then send."""

    def send(caller: Caller) -> None:
        caller.call(1, b"hello")
        caller.send(*parts)

    return send


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


def block(*fields: tuple[str, str]) -> bytes:
    """Return a header block that leaves the table of the connection as it is."""
    return Encoder().encode([(*field, True) for field in fields])


def flood(part: bytes, count: int = 1500) -> Send:
    def send(caller: Caller) -> None:
        caller.call(1, b"hello", WAIT)
        for _ in range(count):
            caller.send(part)

    return send


def resets(caller: Caller) -> None:
    for stream in range(1, 3001, 2):
        caller.call(stream, b"hello", WAIT)
        caller.send(frame(RST_STREAM, 0, stream, bytes(4)))


def more_than_granted(caller: Caller) -> None:
    """Announce more long messages than may be on their way at once, and send the last one all the same."""
    for stream in range(1, 19, 2):
        caller.send(caller.headers(stream), data(stream, prefixed(b"", size=MESSAGE_LIMIT), ends=False))
    for _ in range(STREAM_WINDOW // FRAME_BYTES):
        caller.send(data(17, bytes(FRAME_BYTES), ends=False))


def many_headers(caller: Caller) -> None:
    caller.send(frame(HEADERS, 0, 1, block((":method", "POST"))))
    for _ in range(100):
        caller.send(frame(CONTINUATION, 0, 1, b"\x82" * 1000))


def empty_continuations(caller: Caller) -> None:
    caller.send(frame(HEADERS, 0, 1, block((":method", "POST"))))
    for _ in range(100):
        caller.send(frame(CONTINUATION, 0, 1))


def bomb(caller: Caller) -> None:
    """One entry of 4,000 bytes in the table, and a reference to it in each byte of the next block."""
    caller.send(caller.headers(1, ("x-bomb", "b" * 3900)))
    index = 0x80 | 62
    caller.send(frame(HEADERS, END_HEADERS, 3, bytes((index,)) * 16_000))


CONNECTION_RULES = [
    pytest.param(raw(setting(2, 2)), ErrorCode.PROTOCOL_ERROR, id="ENABLE_PUSH of 2"),
    pytest.param(raw(setting(4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR, id="INITIAL_WINDOW_SIZE of 2^31"),
    pytest.param(raw(setting(5, 2**14 - 1)), ErrorCode.PROTOCOL_ERROR, id="MAX_FRAME_SIZE below 2^14"),
    pytest.param(raw(setting(5, 2**24)), ErrorCode.PROTOCOL_ERROR, id="MAX_FRAME_SIZE of 2^24"),
    pytest.param(raw(frame(SETTINGS, 0, 0, b"12345")), ErrorCode.FRAME_SIZE_ERROR, id="half a setting"),
    pytest.param(raw(frame(SETTINGS, ACK, 0, b"123456")), ErrorCode.FRAME_SIZE_ERROR, id="an ACK of settings with settings"),
    pytest.param(raw(frame(SETTINGS, 0, 1)), ErrorCode.PROTOCOL_ERROR, id="settings of a stream"),
    pytest.param(
        opened(frame(WINDOW_UPDATE, 0, 1, (2**31 - 1 - 65_535).to_bytes(4, "big")), setting(4, 65_536)),
        ErrorCode.FLOW_CONTROL_ERROR,
        id="settings that make an open window too large",
    ),
    pytest.param(raw(frame(PING, 0, 0, b"1234567")), ErrorCode.FRAME_SIZE_ERROR, id="a ping of 7 bytes"),
    pytest.param(raw(frame(PING, 0, 1, b"12345678")), ErrorCode.PROTOCOL_ERROR, id="a ping of a stream"),
    pytest.param(raw(frame(GOAWAY, 0, 1, bytes(8))), ErrorCode.PROTOCOL_ERROR, id="GOAWAY of a stream"),
    pytest.param(raw(frame(GOAWAY, 0, 0, bytes(7))), ErrorCode.FRAME_SIZE_ERROR, id="a GOAWAY of 7 bytes"),
    pytest.param(raw(frame(WINDOW_UPDATE, 0, 0, bytes(4))), ErrorCode.PROTOCOL_ERROR, id="the connection's window by 0"),
    pytest.param(
        raw(frame(WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big"))),
        ErrorCode.FLOW_CONTROL_ERROR,
        id="the connection's window too large",
    ),
    pytest.param(raw(frame(WINDOW_UPDATE, 0, 0, bytes(3))), ErrorCode.FRAME_SIZE_ERROR, id="a window update of 3 bytes"),
    pytest.param(raw(frame(WINDOW_UPDATE, 0, 7, b"\0\0\0\1")), ErrorCode.PROTOCOL_ERROR, id="a window of no stream"),
    pytest.param(raw(frame(RST_STREAM, 0, 0, bytes(4))), ErrorCode.PROTOCOL_ERROR, id="a reset of stream 0"),
    pytest.param(raw(frame(RST_STREAM, 0, 7, bytes(4))), ErrorCode.PROTOCOL_ERROR, id="a reset of no stream"),
    pytest.param(opened(frame(RST_STREAM, 0, 1, bytes(5))), ErrorCode.FRAME_SIZE_ERROR, id="a reset of 5 bytes"),
    pytest.param(raw(frame(PRIORITY, 0, 0, bytes(5))), ErrorCode.PROTOCOL_ERROR, id="a priority of stream 0"),
    pytest.param(raw(frame(PRIORITY, 0, 1, bytes(4))), ErrorCode.FRAME_SIZE_ERROR, id="a priority of 4 bytes"),
    pytest.param(raw(frame(PUSH_PROMISE, 0, 1, bytes(4))), ErrorCode.PROTOCOL_ERROR, id="a push by the caller"),
    pytest.param(raw(data(0, b"")), ErrorCode.PROTOCOL_ERROR, id="data of stream 0"),
    pytest.param(raw(data(1, b"")), ErrorCode.PROTOCOL_ERROR, id="data of no stream"),
    pytest.param(answered(data(1, b"")), ErrorCode.STREAM_CLOSED, id="data after the answer"),
    pytest.param(
        answered(frame(HEADERS, END_HEADERS, 1, block((":method", "POST")))), ErrorCode.STREAM_CLOSED, id="a stream twice"
    ),
    pytest.param(half_sent(frame(0, PADDED, 1, b"\5abcd")), ErrorCode.PROTOCOL_ERROR, id="data that is all padding and more"),
    pytest.param(half_sent(frame(0, PADDED, 1)), ErrorCode.PROTOCOL_ERROR, id="padded data without the padding's length"),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 2, b"")), ErrorCode.PROTOCOL_ERROR, id="an even stream"),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 0, b"")), ErrorCode.PROTOCOL_ERROR, id="headers of stream 0"),
    pytest.param(
        raw(frame(HEADERS, END_HEADERS | PADDED, 1, b"\5abcd")), ErrorCode.PROTOCOL_ERROR, id="headers that are all padding"
    ),
    pytest.param(
        raw(frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"1234")),
        ErrorCode.FRAME_SIZE_ERROR,
        id="headers of half a priority",
    ),
    pytest.param(raw(frame(CONTINUATION, END_HEADERS, 1)), ErrorCode.PROTOCOL_ERROR, id="a continuation of nothing"),
    pytest.param(
        raw(frame(HEADERS, 0, 1), frame(CONTINUATION, END_HEADERS, 3)),
        ErrorCode.PROTOCOL_ERROR,
        id="a continuation of another stream",
    ),
    pytest.param(
        raw(frame(HEADERS, 0, 1), frame(PING, 0, 0, bytes(8))), ErrorCode.PROTOCOL_ERROR, id="an interrupted header block"
    ),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 1, b"\x80")), ErrorCode.COMPRESSION_ERROR, id="index 0"),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 1, b"\xff\xff\x7f")), ErrorCode.COMPRESSION_ERROR, id="index of no entry"),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 1, b"\x00\x05ab")), ErrorCode.COMPRESSION_ERROR, id="half a header name"),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 1, b"\x7f" * 4000)), ErrorCode.COMPRESSION_ERROR, id="a huge HPACK integer"),
    pytest.param(
        raw(frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f")), ErrorCode.COMPRESSION_ERROR, id="a larger table than allowed"
    ),
    pytest.param(raw(frame(HEADERS, END_HEADERS, 1, b"\x82\x20")), ErrorCode.COMPRESSION_ERROR, id="a table size at the end"),
    pytest.param(raw(b"\1\0\1\0\0\0\0\0\1"), ErrorCode.FRAME_SIZE_ERROR, id="a frame of 65537 bytes"),
    pytest.param(bomb, ErrorCode.ENHANCE_YOUR_CALM, id="a header bomb"),
    pytest.param(many_headers, ErrorCode.ENHANCE_YOUR_CALM, id="a flood of CONTINUATION"),
    pytest.param(empty_continuations, ErrorCode.ENHANCE_YOUR_CALM, id="a flood of empty CONTINUATION"),
    pytest.param(flood(frame(PING, 0, 0, bytes(8))), ErrorCode.ENHANCE_YOUR_CALM, id="a flood of PING"),
    pytest.param(flood(frame(SETTINGS, 0, 0)), ErrorCode.ENHANCE_YOUR_CALM, id="a flood of SETTINGS"),
    pytest.param(flood(frame(PRIORITY, 0, 1, bytes(5))), ErrorCode.ENHANCE_YOUR_CALM, id="a flood of PRIORITY"),
    pytest.param(flood(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")), ErrorCode.ENHANCE_YOUR_CALM, id="a flood of WINDOW_UPDATE"),
    pytest.param(flood(frame(99, 0, 1)), ErrorCode.ENHANCE_YOUR_CALM, id="a flood of unknown frames"),
    pytest.param(resets, ErrorCode.ENHANCE_YOUR_CALM, id="rapid reset"),
]


@pytest.mark.parametrize(("send", "code"), CONNECTION_RULES)
def test_the_connection_ends(caller: Caller, send: Send, code: ErrorCode) -> None:
    send(caller)
    assert caller.ended_with() == ("goaway", code)
    assert caller.transport.is_closed
    assert not caller.connection.calls


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), ErrorCode.PROTOCOL_ERROR, id="TLS"),
        pytest.param(PREFACE + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR, id="a ping before the settings"),
        pytest.param(PREFACE + data(1, b""), ErrorCode.PROTOCOL_ERROR, id="data before the settings"),
        pytest.param(b"P" * 50, ErrorCode.PROTOCOL_ERROR, id="the preface's first letter"),
    ],
)
def test_a_wrong_beginning(new_caller: Callable[..., Caller], sent: bytes, code: ErrorCode) -> None:
    caller = new_caller()
    caller.send(sent)
    assert caller.ended_with() == ("goaway", code)
    assert caller.transport.is_closed


def test_rest_on_the_port_of_grpc_is_told_so(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.read()
    caller.send(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: here\r\n\r\n")
    head, _, body = bytes(caller.transport.written).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 505 ")
    length = int(head.partition(b"content-length: ")[2])
    assert body[:length] == b"This port speaks gRPC; REST is at the server's other.\n"


STREAM_RULES = [
    pytest.param(opened(frame(WINDOW_UPDATE, 0, 1, bytes(4))), ErrorCode.PROTOCOL_ERROR, id="a stream's window by 0"),
    pytest.param(
        opened(frame(WINDOW_UPDATE, 0, 1, (2**31 - 1).to_bytes(4, "big"))),
        ErrorCode.FLOW_CONTROL_ERROR,
        id="a stream's window too large",
    ),
    pytest.param(opened(data(1, b"more")), ErrorCode.STREAM_CLOSED, id="data after the end"),
    pytest.param(
        opened(frame(HEADERS, END_HEADERS | 1, 1, block(("x", "y")))), ErrorCode.STREAM_CLOSED, id="headers after the end"
    ),
    pytest.param(
        half_sent(frame(HEADERS, END_HEADERS, 1, block(("x", "y")))), ErrorCode.PROTOCOL_ERROR, id="trailers without an end"
    ),
    pytest.param(
        half_sent(frame(HEADERS, END_HEADERS | 1, 1, block((":path", "/")))), ErrorCode.PROTOCOL_ERROR, id="a path in trailers"
    ),
    pytest.param(more_than_granted, ErrorCode.FLOW_CONTROL_ERROR, id="more than the window"),
]


@pytest.mark.parametrize(("send", "code"), STREAM_RULES)
def test_the_stream_ends(caller: Caller, send: Send, code: ErrorCode) -> None:
    send(caller)
    assert caller.ended_with() == ("reset", code)
    assert [frame.stream for frame in caller.seen if frame.kind == RST_STREAM][-1] not in caller.connection.calls
    caller.call(101, b"still here?")
    assert caller.answer(101)[1] == prefixed(b"still here?")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param((":method", "absent"), id="no method"),
        pytest.param((":path", "absent"), id="no path"),
        pytest.param((":scheme", "absent"), id="no scheme"),
        pytest.param((":path", ""), id="an empty path"),
        pytest.param((":status", "200"), id="a response's field"),
        pytest.param((":unknown", "x"), id="an unknown pseudo field"),
        pytest.param(("Upper", "x"), id="a name in upper case"),
        pytest.param(("", "x"), id="no name"),
        pytest.param(("two words", "x"), id="a space in a name"),
        pytest.param(("connection", "keep-alive"), id="connection"),
        pytest.param(("transfer-encoding", "chunked"), id="transfer-encoding"),
        pytest.param(("upgrade", "h2c"), id="upgrade"),
        pytest.param(("te", "gzip"), id="another te"),
        pytest.param(("x", "a\nb"), id="a line feed in a value"),
        pytest.param(("x", "a\0b"), id="a NUL in a value"),
        pytest.param(("x", " a"), id="a space before a value"),
        pytest.param(("content-length", "-1"), id="a negative length"),
        pytest.param(("content-length", "9" * 5000), id="a length of 5000 digits"),
        pytest.param(("content-length", "4"), id="another length"),
    ],
)
def test_malformed_headers(caller: Caller, change: tuple[str, str]) -> None:
    caller.call(1, b"hello", change)
    assert caller.ended_with() == ("reset", ErrorCode.PROTOCOL_ERROR)


def test_a_pseudo_field_after_others_is_malformed(caller: Caller) -> None:
    fields = block((":method", "POST"), (":scheme", "http"), ("te", "trailers"), (":path", "/test.Echo/Say"))
    caller.send(frame(HEADERS, END_HEADERS, 1, fields))
    assert caller.ended_with() == ("reset", ErrorCode.PROTOCOL_ERROR)


def test_a_stream_too_many_is_refused_and_may_be_tried_again(caller: Caller) -> None:
    for index in range(MAX_STREAMS):
        caller.call(2 * index + 1, b"hello", WAIT)
    caller.call(2 * MAX_STREAMS + 1, b"hello", WAIT)
    assert caller.ended_with() == ("reset", ErrorCode.REFUSED_STREAM)
    assert len(caller.calls) == MAX_STREAMS


def test_floods_are_forgiven_over_time(caller: Caller) -> None:
    for second in range(5):
        for _ in range(900):
            caller.send(frame(PING, 0, 0, bytes(8)))
        caller.connection.sweep(caller.connection.now + second)
    assert not caller.transport.is_closed
