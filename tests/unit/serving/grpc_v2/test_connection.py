"""Calls over a connection: whole and in pieces, refused, given up, and in the time they may take."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.serving.grpc_v2.conftest import HEADERS, IDLE_NS, MESSAGE_LIMIT, READ_NS, Caller, data, frames_of, prefixed
from tidegate.serving.grpc_v2 import frames
from tidegate.serving.grpc_v2.frames import ErrorCode, frame
from tidegate.serving.grpc_v2.status import Code

WAIT = (":path", "/test.Echo/Wait")
MESSAGE = b"hello, world"


@dataclass
class Work:
    abandoned: bool = False


def of(found: dict[str, str]) -> tuple[int, str]:
    return int(found["grpc-status"]), found.get("grpc-message", "")


def test_an_answer_is_headers_message_and_trailers(caller: Caller) -> None:
    caller.call(1, MESSAGE)
    headers, message, trailers = caller.read()
    assert (headers.kind, headers.flags, headers.stream) == (frames.HEADERS, frames.END_HEADERS, 1)
    assert caller.fields(headers) == {":status": "200", "content-type": "application/grpc"}
    assert (message.kind, message.flags, message.payload) == (frames.DATA, 0, prefixed(MESSAGE))
    assert (trailers.kind, trailers.flags) == (frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)
    assert caller.fields(trailers) == {"grpc-status": "0"}
    assert not caller.connection.calls


def in_pieces(stream: int, *pieces: bytes) -> bytes:
    last = len(pieces) - 1
    return b"".join(data(stream, piece, ends=index == last) for index, piece in enumerate(pieces))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda: data(1, prefixed(MESSAGE)), id="one frame"),
        pytest.param(lambda: in_pieces(1, prefixed(MESSAGE), b""), id="the end on its own"),
        pytest.param(lambda: in_pieces(1, *[bytes((byte,)) for byte in prefixed(MESSAGE)]), id="a byte a frame"),
        pytest.param(lambda: frame(0, frames.PADDED | 1, 1, b"\7" + prefixed(MESSAGE) + bytes(7)), id="padded"),
        pytest.param(lambda: data(1, prefixed(MESSAGE), ends=False) + frame(1, 5, 1), id="trailers"),
        pytest.param(
            lambda: data(1, prefixed(MESSAGE), ends=False) + frame(99, 255, 1, b"x") + data(1, b""), id="unknown frame"
        ),
    ],
)
def test_a_message_may_come_in_many_ways(caller: Caller, body: Callable[[], bytes]) -> None:
    caller.send(caller.headers(1), body())
    assert caller.answer(1)[1] == prefixed(MESSAGE)


def test_headers_may_come_with_padding_priority_and_continuations(caller: Caller) -> None:
    block = caller.encoder.encode(list(HEADERS))
    flags = frames.PADDED | frames.WITH_PRIORITY
    caller.send(
        frame(frames.HEADERS, flags, 1, b"\2" + b"\0\0\0\0\x10" + block[:5] + b"\0\0"),
        frame(frames.CONTINUATION, 0, 1, block[5:9]),
        frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[9:]),
        data(1, prefixed(MESSAGE)),
    )
    assert caller.answer(1)[1] == prefixed(MESSAGE)


def test_bytes_may_come_one_by_one(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    sent = frames.PREFACE + frames.settings({}) + caller.headers(1) + data(1, prefixed(MESSAGE))
    caller.send(*[bytes((byte,)) for byte in sent])
    assert caller.answer(1)[1] == prefixed(MESSAGE)


def test_settings_and_pings_are_acknowledged(caller: Caller) -> None:
    caller.send(frames.settings({}), frame(frames.PING, 0, 0, b"12345678"), frame(frames.PING, frames.ACK, 0, b"87654321"))
    assert [(found.kind, found.flags, found.payload) for found in caller.read()] == [
        (frames.SETTINGS, frames.ACK, b""),
        (frames.PING, frames.ACK, b"12345678"),
    ]


GZIP = ("grpc-encoding", "gzip")
REFUSALS = [
    pytest.param(
        (":path", "/test.Echo/Other"), prefixed(b""), Code.UNIMPLEMENTED, "unknown method /test.Echo/Other", id="method"
    ),
    pytest.param(("grpc-encoding", "snappy"), prefixed(b""), Code.UNIMPLEMENTED, "grpc-encoding 'snappy'", id="encoding"),
    pytest.param(("grpc-timeout", "1 S"), prefixed(b""), Code.INVALID_ARGUMENT, "grpc-timeout must be", id="timeout"),
    pytest.param(("grpc-timeout", "123456789n"), prefixed(b""), Code.INVALID_ARGUMENT, "up to 8 digits", id="long timeout"),
    pytest.param(GZIP, prefixed(b"no gzip", compressed=1), Code.INVALID_ARGUMENT, "not compressed with gzip", id="no gzip"),
    pytest.param(
        GZIP, prefixed(gzip.compress(b"x")[:-4], compressed=1), Code.INVALID_ARGUMENT, "ends before", id="half a gzip"
    ),
    pytest.param(
        GZIP, prefixed(gzip.compress(bytes(MESSAGE_LIMIT + 1)), compressed=1), Code.RESOURCE_EXHAUSTED, "unpacked", id="bomb"
    ),
    pytest.param(("x", "y"), prefixed(b"x", compressed=1), Code.INTERNAL, "no grpc-encoding", id="marked as compressed"),
    pytest.param(("x", "y"), prefixed(b"x", compressed=2), Code.INVALID_ARGUMENT, "starts with 2", id="unknown mark"),
    pytest.param(("x", "y"), prefixed(b"x", size=9), Code.INVALID_ARGUMENT, "ends before its message", id="half a message"),
    pytest.param(("x", "y"), b"\0\0", Code.INVALID_ARGUMENT, "ends before its message", id="half a prefix"),
    pytest.param(("x", "y"), b"", Code.UNIMPLEMENTED, "none was sent", id="no message"),
    pytest.param(("x", "y"), prefixed(b"x") * 2, Code.UNIMPLEMENTED, "more than one", id="two messages"),
    pytest.param(
        ("x", "y"), prefixed(b"", size=MESSAGE_LIMIT + 1), Code.RESOURCE_EXHAUSTED, "at most 3000000 are", id="too long"
    ),
    pytest.param((":path", "/test.Echo/Fail"), prefixed(b""), Code.INTERNAL, "its log says how", id="a bug"),
]


@pytest.mark.parametrize(("header", "body", "code", "text"), REFUSALS)
def test_refusals(caller: Caller, header: tuple[str, str], body: bytes, code: Code, text: str) -> None:
    caller.send(caller.headers(1, header), data(1, body))
    found, message = caller.answer(1)
    assert of(found)[0] == code
    assert text in of(found)[1]
    assert found[":status"] == "200"
    assert message == b""
    caller.call(3, MESSAGE)
    assert caller.answer(3)[1] == prefixed(MESSAGE)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        pytest.param((":method", "GET"), "405", id="GET"),
        pytest.param(("content-type", "absent"), "415", id="no content-type"),
        pytest.param(("content-type", "application/json"), "415", id="JSON"),
        pytest.param(("content-type", "application/grpc+json"), "415", id="gRPC of JSON"),
        pytest.param(("content-type", "application/grpc-web"), "415", id="gRPC-Web"),
    ],
)
def test_what_is_no_grpc_is_told_in_http(caller: Caller, header: tuple[str, str], status: str) -> None:
    caller.send(caller.headers(1, header, ends=True))
    assert caller.answer(1)[0][":status"] == status


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"])
def test_content_types_of_grpc(caller: Caller, content_type: str) -> None:
    caller.call(1, MESSAGE, ("content-type", content_type))
    assert caller.answer(1)[1] == prefixed(MESSAGE)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        pytest.param("gzip", prefixed(gzip.compress(MESSAGE), compressed=1), id="gzip"),
        pytest.param("deflate", prefixed(zlib.compress(MESSAGE), compressed=1), id="deflate"),
        pytest.param("gzip", prefixed(MESSAGE), id="a plain message where others are compressed"),
        pytest.param("identity", prefixed(MESSAGE), id="identity"),
    ],
)
def test_compressed_messages(caller: Caller, encoding: str, body: bytes) -> None:
    caller.send(caller.headers(1, ("grpc-encoding", encoding)), data(1, body))
    assert caller.answer(1)[1] == prefixed(MESSAGE)


def test_a_refused_caller_need_not_send_the_rest(caller: Caller) -> None:
    caller.send(caller.headers(1), data(1, prefixed(b"", size=2**31), ends=False))
    assert [found.kind for found in caller.read()] == [frames.HEADERS, frames.RST_STREAM]
    caller.send(data(1, bytes(1000), ends=False), frame(frames.RST_STREAM, 0, 1, bytes(4)))
    assert caller.read() == []
    assert not caller.transport.is_closed


def test_a_content_length_that_is_right(caller: Caller) -> None:
    caller.call(1, MESSAGE, ("content-length", str(5 + len(MESSAGE))))
    assert caller.answer(1)[1] == prefixed(MESSAGE)


def test_who_resets_a_call_waits_for_it_no_more(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    call = caller.calls[0]
    call.work = work = Work()
    caller.send(frame(frames.RST_STREAM, 0, 1, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert work.abandoned
    call.answer(b"too late")
    assert caller.read() == []


def test_who_hangs_up_waits_no_more(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    caller.calls[0].work = work = Work()
    caller.transport.is_closed = True
    caller.connection.connection_lost(None)
    assert work.abandoned
    assert not caller.register.open
    caller.calls[0].answer(b"too late")


def test_an_answer_is_not_abandoned(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    caller.calls[0].work = work = Work()
    caller.calls[0].answer(b"in time")
    assert not work.abandoned


def test_calls_are_answered_in_any_order(caller: Caller) -> None:
    for stream in (1, 3, 5):
        caller.call(stream, MESSAGE, WAIT)
    for index in (1, 2, 0):
        caller.calls[index].answer(b"%d" % index)
    found = [(sent.stream, sent.payload[5:]) for sent in caller.read() if sent.kind == frames.DATA]
    assert found == [(3, b"1"), (5, b"2"), (1, b"0")]


def test_several_messages_can_be_sent(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    call = caller.calls[0]
    call.send(b"one")
    call.send(b"two")
    call.finish()
    fields, body = caller.answer(1)
    assert body == prefixed(b"one") + prefixed(b"two")
    assert fields["grpc-status"] == "0"


def test_a_smaller_header_table_is_respected(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.decoder.max_allowed_table_size = 100
    caller.greet(HEADER_TABLE_SIZE=100)
    for stream in (1, 3):
        caller.call(stream, MESSAGE)
        assert caller.answer(stream)[1] == prefixed(MESSAGE)


def test_an_answer_waits_for_the_callers_windows(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.greet(INITIAL_WINDOW_SIZE=10)
    caller.call(1, bytes(100))
    assert len(caller.answer(1)[1]) == 10
    caller.send(frames.window_update(1, 20))
    assert len(caller.answer(1)[1]) == 20
    caller.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 15}))
    assert len(caller.answer(1)[1]) == 5
    caller.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 5}))
    caller.send(frames.window_update(1, 10))
    assert len(caller.answer(1)[1]) == 0
    caller.send(frames.window_update(1, 1000))
    fields, body = caller.answer(1)
    assert len(body) == 105 - 35
    assert fields["grpc-status"] == "0"


def test_answers_share_the_connections_window(caller: Caller) -> None:
    caller.connection.outflow.window = 40_000
    caller.send(frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 100_000}))
    for stream in (1, 3):
        caller.send(caller.headers(stream), *[data(stream, part, ends=part == b"") for part in (prefixed(bytes(50_000)), b"")])
    sent = [found for found in caller.read() if found.kind == frames.DATA]
    assert sum(len(found.payload) for found in sent) == 40_000
    caller.send(frames.window_update(0, 60_000))
    sent = [found.stream for found in caller.read() if found.kind == frames.DATA]
    assert {1, 3} <= set(sent), "both move on"
    caller.send(frames.window_update(0, 60_000))
    assert of(caller.answer(3)[0]) == (0, "")
    assert not caller.connection.calls


def test_nothing_is_read_from_who_does_not_read(caller: Caller) -> None:
    caller.transport.capacity = 1000
    stream = 1
    while caller.transport.reads:
        caller.call(stream, MESSAGE)
        stream += 2
    assert len(caller.transport.written) < 1200
    caller.read()
    assert caller.transport.reads
    caller.connection.sweep(caller.connection.now + 2 * READ_NS)
    assert not caller.transport.was_aborted


def test_who_never_reads_is_cut_off(caller: Caller) -> None:
    caller.transport.capacity = 0
    caller.call(1, MESSAGE)
    caller.connection.sweep(caller.connection.now + READ_NS - 1)
    assert not caller.transport.was_aborted
    caller.connection.sweep(caller.connection.now + READ_NS + 1)
    assert caller.transport.was_aborted


def test_long_answers_stop_at_a_full_socket(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.greet(INITIAL_WINDOW_SIZE=2**31 - 1)
    caller.send(frames.window_update(0, 2**31 - 1 - 65_535))
    caller.call(1, b"", WAIT)
    caller.read()
    caller.transport.capacity = 50_000
    caller.calls[0].answer(bytes(1_000_000))
    assert len(caller.transport.written) < 100_000
    body = b""
    while caller.connection.calls:
        assert len(caller.transport.written) < 100_000
        body += caller.answer(1)[1]
    assert body + caller.answer(1)[1] == prefixed(bytes(1_000_000))


def test_messages_that_wait_are_bounded_over_all_connections(new_caller: Callable[..., Caller]) -> None:
    callers = [new_caller() for _ in range(3)]
    register = callers[0].register
    register.most_held = 110_000
    for caller in callers:
        caller.greet()
        caller.read()
        caller.send(caller.headers(1), data(1, prefixed(bytes(49_995), size=100_000), ends=False))
    refused = callers[2].answer(1)[0]
    assert of(refused) == (Code.UNAVAILABLE, "too many long messages wait on all connections; try again later")
    assert 100_000 <= register.held < 101_000
    callers[0].send(frame(frames.RST_STREAM, 0, 1, bytes(4)))
    callers[1].connection.connection_lost(None)
    assert register.held == 0


def test_answers_that_wait_are_bounded_too(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.register.most_held = 150_000
    caller.greet(INITIAL_WINDOW_SIZE=0)
    for stream in (1, 3):
        caller.call(stream, b"", WAIT)
        caller.calls[-1].answer(bytes(100_000))
    assert of(caller.answer(3)[0])[0] == Code.UNAVAILABLE
    caller.send(frames.window_update(0, 1_000_000), frames.window_update(1, 1_000_000))
    assert caller.answer(1)[1] == prefixed(bytes(100_000))
    assert caller.register.held == 0


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(lambda caller: caller.send(caller.headers(1)), id="no data"),
        pytest.param(
            lambda caller: caller.send(caller.headers(1), data(1, b"\0\0\0\0\x05ab", ends=False)), id="half a message"
        ),
    ],
)
def test_a_request_must_come_in_time(caller: Caller, begin: Callable[[Caller], None]) -> None:
    begin(caller)
    caller.connection.sweep(caller.connection.now + READ_NS // 2)
    assert caller.read() == []
    caller.connection.sweep(caller.connection.now + READ_NS + 1)
    assert of(caller.answer(1)[0]) == (Code.DEADLINE_EXCEEDED, "the request was not sent within 10 s")
    assert not caller.transport.is_closed


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frames.PREFACE[:10], id="half a preface"),
        pytest.param(frames.PREFACE, id="no settings"),
        pytest.param(frames.PREFACE + frames.settings({}) + b"\0\0", id="half a frame"),
        pytest.param(frames.PREFACE + frames.settings({}) + frame(1, 0, 1, b"\x82"), id="half a header block"),
    ],
)
def test_a_frame_must_come_in_time(new_caller: Callable[..., Caller], sent: bytes) -> None:
    caller = new_caller()
    caller.send(sent)
    caller.connection.sweep(caller.connection.now + READ_NS + 1)
    assert caller.ended_with() == ("goaway", ErrorCode.ENHANCE_YOUR_CALM)
    assert caller.transport.is_closed


def test_an_answer_that_is_not_taken_is_given_up(new_caller: Callable[..., Caller]) -> None:
    caller = new_caller()
    caller.greet(INITIAL_WINDOW_SIZE=0)
    caller.call(1, MESSAGE, WAIT)
    caller.calls[0].work = work = Work()
    caller.calls[0].answer(b"answer")
    caller.connection.sweep(caller.connection.now + READ_NS + 1)
    assert caller.ended_with() == ("reset", ErrorCode.CANCEL)
    assert work.abandoned
    assert not caller.transport.is_closed


def test_an_idle_connection_is_closed(caller: Caller) -> None:
    caller.call(1, MESSAGE)
    caller.connection.sweep(caller.connection.now + IDLE_NS - 1)
    assert not caller.transport.is_closed
    caller.connection.sweep(caller.connection.now + IDLE_NS + 1)
    assert caller.ended_with() == ("goaway", ErrorCode.NO_ERROR)
    assert caller.transport.is_closed


def test_a_connection_with_a_call_is_not_idle(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    caller.connection.sweep(caller.connection.now + 2 * IDLE_NS)
    assert not caller.transport.is_closed


@pytest.mark.parametrize(
    ("reads", "nanoseconds"), [pytest.param(True, 2 * 10**9, id="reads"), pytest.param(False, READ_NS, id="does not read")]
)
def test_who_does_not_hang_up_in_turn_is_cut_off(caller: Caller, reads: bool, nanoseconds: int) -> None:
    caller.send(frame(frames.PUSH_PROMISE, 0, 1))
    caller.send(b"more that nobody wants")
    if reads:
        caller.read()
    caller.connection.sweep(caller.connection.now + nanoseconds - 1)
    assert not caller.transport.was_aborted
    caller.connection.sweep(caller.connection.now + nanoseconds + 1)
    assert caller.transport.was_aborted


def test_a_connection_too_many_is_told_to_go(new_caller: Callable[..., Caller]) -> None:
    callers = [new_caller(at_most=2) for _ in range(3)]
    assert [caller.transport.is_closed for caller in callers] == [False, False, True]
    assert [found.kind for found in callers[2].read()] == [frames.GOAWAY]
    callers[2].connection.connection_lost(None)
    callers[0].connection.connection_lost(None)
    assert not new_caller(at_most=2).transport.is_closed


def test_a_drain_lets_calls_in_flight_finish(caller: Caller) -> None:
    caller.call(1, MESSAGE, WAIT)
    caller.connection.drain()
    goaway, ping = caller.read()
    assert (goaway.kind, goaway.payload[:8]) == (frames.GOAWAY, b"\x7f\xff\xff\xff\0\0\0\0")
    caller.call(3, MESSAGE, WAIT)  # sent before the caller heard of it
    caller.send(frame(frames.PING, frames.ACK, 0, ping.payload))
    last = caller.read()[-1]
    assert (last.kind, last.payload[:8]) == (frames.GOAWAY, b"\0\0\0\3\0\0\0\0")
    caller.call(5, MESSAGE, WAIT)  # the caller knows that it must be made elsewhere
    assert len(caller.calls) == 2
    caller.calls[1].answer(b"3")
    assert not caller.transport.is_closed
    caller.calls[0].answer(b"1")
    assert caller.transport.is_closed
    assert {found.stream for found in caller.read() if found.kind == frames.DATA} == {1, 3}


def test_who_does_not_answer_the_drain_is_left(caller: Caller) -> None:
    caller.connection.drain()
    assert not caller.transport.is_closed
    caller.connection.leave()
    assert caller.transport.is_closed


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(st.integers(0, 400_000), min_size=1, max_size=4),
    window=st.sampled_from([1000, 65_535, 2**20]),
    frame_bytes=st.sampled_from([16_384, 100_000]),
    chunk=st.sampled_from([777, 65_536, 10**7]),
)
def test_another_implementation_of_http2_gets_its_messages_back(
    new_caller: Callable[..., Caller], messages: list[int], window: int, frame_bytes: int, chunk: int
) -> None:
    caller = new_caller()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    codes = h2.settings.SettingCodes
    client.update_settings({codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: frame_bytes})
    waiting: dict[int, bytes] = {}
    sent: dict[int, bytes] = {}
    got: dict[int, bytes] = {}
    statuses: dict[int, str] = {}
    for index, size in enumerate(messages):
        stream = 2 * index + 1
        client.send_headers(stream, list(HEADERS))
        sent[stream] = waiting[stream] = prefixed(bytes((index,)) * size)
    for _ in range(20_000):
        for stream, rest in list(waiting.items()):
            room = min(client.local_flow_control_window(stream), client.max_outbound_frame_size, len(rest))
            if room > 0:
                client.send_data(stream, rest[:room], end_stream=room == len(rest))
                waiting[stream] = rest[room:]
                if room == len(rest):
                    del waiting[stream]
        out = client.data_to_send()
        for start in range(0, len(out), chunk):
            caller.send(out[start : start + chunk])
        for event in client.receive_data(caller.transport.drained()):
            if isinstance(event, h2.events.DataReceived):
                got[event.stream_id] = got.get(event.stream_id, b"") + event.data
                client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                statuses[event.stream_id] = dict(event.headers)[b"grpc-status"].decode()
        if len(statuses) == len(messages) and not client.data_to_send(0):
            break
    assert statuses == dict.fromkeys(sent, "0")
    assert got == sent


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                frame,
                st.integers(0, 10),
                st.integers(0, 255),
                st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1, 2**32 - 1]),
                st.binary(max_size=40),
            ),
        ),
        max_size=20,
    )
)
def test_whatever_is_sent_is_answered_or_refused_in_frames(
    new_caller: Callable[..., Caller], capsys: pytest.CaptureFixture[str], parts: list[bytes]
) -> None:
    caller = new_caller()
    caller.greet()
    caller.call(1, MESSAGE, WAIT)
    caller.send(*parts)
    frames_of(bytes(caller.transport.written))
    assert "failed" not in capsys.readouterr().err
    if not caller.transport.is_closed:
        caller.connection.sweep(caller.connection.now + 2 * READ_NS)
        caller.connection.connection_lost(None)
    assert not caller.connection.calls
