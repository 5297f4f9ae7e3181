"""What is no HTTP/2, no gRPC or no protobuf is refused or cut off; never INTERNAL, and never to the harm of other callers."""

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.serving.reliability.conftest import echo_data, echo_document, resident_bytes
from tests.integration.serving.reliability.wire import Wire
from tidegate.serving.grpc_v2.messages import methods_of

MEGABYTE = 1024 * 1024
INFER = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
PSEUDO = {"path": ":path"}
ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def head(stream: int, flags: int = END_HEADERS, **changed: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": INFER, ":authority": "test", "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | {
        PSEUDO.get(name, name.replace("_", "-")): value for name, value in changed.items()
    }
    return frame(HEADERS, flags, stream, hpack.Encoder().encode(fields.items()))


def message(body: bytes, length: int | None = None, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


OPEN = PREFACE + frame(SETTINGS, 0, 0)


def good_request() -> bytes:
    asked, _ = methods_of("inference.GRPCInferenceService")["ModelInfer"]
    made = asked(model_name="echo", id="good", raw_input_contents=echo_data())
    for tensor in echo_document()["inputs"]:
        made.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return bytes(made.SerializeToString())


GOOD = good_request()


@pytest.fixture
def infer(echo: Any, unharmed: None) -> Iterator[Callable[..., bytes]]:
    """Sends bytes as the message of a ModelInfer, whatever they are."""
    with grpc.insecure_channel(f"127.0.0.1:{echo.grpc_port}") as channel:
        call = channel.unary_unary(INFER)
        assert call(GOOD, timeout=10)
        yield call


def outcome(infer: Callable[..., bytes], sent: bytes) -> grpc.StatusCode:
    try:
        infer(sent, timeout=10)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=st.lists(st.binary(max_size=200), min_size=1, max_size=10))
def test_bytes_that_are_no_message_are_the_callers_fault(infer: Callable[..., bytes], messages: list[bytes]) -> None:
    for sent in messages:
        assert outcome(infer, sent) in ALLOWED


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_damaged_message_is_the_callers_fault(infer: Callable[..., bytes], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        sent = bytearray(GOOD)
        for _ in range(chance.randrange(1, 5)):
            position = chance.randrange(len(sent))
            sent[position : position + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        assert outcome(infer, bytes(sent[: chance.choice((None, chance.randrange(len(sent))))])) in ALLOWED


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.lists(
        st.tuples(
            st.integers(0, 12), st.integers(0, 255), st.integers(0, 9) | st.integers(0, 2**32 - 1), st.binary(max_size=80)
        ),
        max_size=20,
    ),
    opening=st.sampled_from([b"", PREFACE, OPEN, OPEN + head(1)]),
)
@pytest.mark.usefixtures("unharmed")
def test_random_frames_harm_nobody(echo: Any, frames: list[Any], opening: bytes) -> None:
    with Wire(echo.grpc_port) as wire:
        wire.send(opening + b"".join(frame(*each) for each in frames))
    assert echo.request("/v2/health/live")[0] == 200


def is_closed(wire: Wire) -> bool:
    """Read to the end of the connection; fails with a TimeoutError if the server keeps it."""
    with suppress(ConnectionResetError):
        while wire.socket.recv(65536):
            pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), id="a TLS hello"),
        pytest.param(b"\0" * 100, id="NUL"),
        pytest.param(PREFACE[:-1] + b"x" * 100, id="almost the preface"),
        pytest.param(PREFACE + PREFACE, id="the preface twice"),
        pytest.param(PREFACE + frame(PING, 0, 0, b"12345678"), id="no settings first"),
        pytest.param(OPEN + b"\xff" * 9, id="a frame of sixteen megabytes"),
        pytest.param(OPEN + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50), id="headers that cannot be unpacked"),
        pytest.param(OPEN + frame(HEADERS, END_HEADERS, 2), id="an even stream"),
        pytest.param(OPEN + frame(DATA, 0, 1, b"x"), id="data before headers"),
        pytest.param(OPEN + frame(CONTINUATION, 0, 1, b"x"), id="a continuation of nothing"),
        pytest.param(OPEN + frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2"), id="a promise"),
        pytest.param(OPEN + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), id="a window of nothing"),
        pytest.param(OPEN + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2, id="a window beyond its bound"),
        pytest.param(OPEN + head(1, 0) + frame(CONTINUATION, 0, 1, b"\x40") * 20_000, id="continuations without an end"),
        pytest.param(OPEN + frame(SETTINGS, 0, 0, b"\0\4\0\1\0\0") * 20_000, id="settings without an end"),
        pytest.param(OPEN + b"".join(head(n) + frame(RST_STREAM, 0, n, b"\0" * 4) for n in range(1, 20_001, 2)), id="resets"),
        pytest.param(OPEN + head(1) + frame(DATA, 0, 1) * 50_000, id="empty data without an end"),
    ],
)
@pytest.mark.usefixtures("unharmed")
def test_a_connection_that_breaks_the_protocol_is_closed(echo: Any, sent: bytes) -> None:
    memory = resident_bytes(echo)
    with Wire(echo.grpc_port, seconds=5) as wire:
        wire.send(sent)
        assert is_closed(wire)
    assert resident_bytes(echo) - memory < 20 * MEGABYTE


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        pytest.param(head(1) + frame(DATA, END_STREAM, 1, message(b"\xff\xff")), 3, id="no protobuf"),
        pytest.param(head(1) + frame(DATA, END_STREAM, 1, message(b"", 2**32 - 1)), 8, id="four gigabytes, it says"),
        pytest.param(head(1) + frame(DATA, END_STREAM, 1, message(b"abc", 100)), 3, id="less than it says"),
        pytest.param(head(1) + frame(DATA, END_STREAM, 1, message(b"") + b"x"), 12, id="more than it says"),
        pytest.param(head(1, END_HEADERS | END_STREAM), 12, id="no message"),
        pytest.param(head(1, path="/nowhere/Nothing") + frame(DATA, END_STREAM, 1), 12, id="no method"),
        pytest.param(head(1, grpc_encoding="lzma") + frame(DATA, END_STREAM, 1, message(b"x", None, 1)), 12, id="no coding"),
        pytest.param(head(1, grpc_encoding="gzip") + frame(DATA, END_STREAM, 1, message(b"x", None, 1)), 3, id="no gzip"),
        pytest.param(head(1, grpc_timeout="soon") + frame(DATA, END_STREAM, 1, message(b"")), 3, id="no time"),
    ],
)
@pytest.mark.usefixtures("unharmed")
def test_a_call_that_cannot_be_understood_is_refused_by_its_code(echo: Any, sent: bytes, code: int) -> None:
    with Wire(echo.grpc_port, seconds=5) as wire:
        wire.send(OPEN + sent)
        assert grpc_status(wire) == code


def grpc_status(wire: Wire) -> int:
    """Read frames until the end of a call, and return its status."""
    decoder, received = hpack.Decoder(), b""
    while True:
        more = wire.socket.recv(65536)
        assert more, "closed without a word"
        received += more
        while len(received) >= 9 and len(received) >= 9 + (length := int.from_bytes(received[:3], "big")):
            kind, payload, received = received[3], received[9 : 9 + length], received[9 + length :]
            assert kind != GOAWAY, payload
            if kind == HEADERS:
                fields = dict(decoder.decode(payload))
                if "grpc-status" in fields:
                    return int(fields["grpc-status"])
