"""A gRPC connection with no socket: what the caller sends is handed to it, and what it answers is read frame by frame."""

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hpack import Decoder, Encoder

from tidegate.serving.grpc_v2 import frames
from tidegate.serving.grpc_v2.calls import Call, Method
from tidegate.serving.grpc_v2.connection import GrpcConnection
from tidegate.serving.grpc_v2.frames import ErrorCode
from tidegate.serving.grpc_v2.limits import ConnectionLimits

MESSAGE_LIMIT = 3_000_000
READ_NS = 10_000_000_000
IDLE_NS = 75_000_000_000
HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Echo/Say"),
    (":authority", "here"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class SilentTransport(asyncio.Transport):
    """Keeps what is written; `capacity` bytes of it fit before the writer is told to pause."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.protocol: asyncio.Protocol | None = None
        self.capacity: int | None = None
        self.reads = True
        self.is_closed = False
        self.was_aborted = False

    def write(self, data: Any) -> None:
        assert not self.is_closed, "written to after it was closed"
        self.written += data
        if self.capacity is not None and len(self.written) > self.capacity and self.reads:
            self.protocol.pause_writing()

    def drained(self) -> bytes:
        """Take all that was written, as a caller who reads does."""
        data = bytes(self.written)
        self.written.clear()
        if not self.reads and not self.is_closed:
            self.protocol.resume_writing()
        return data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write_eof(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def abort(self) -> None:
        self.is_closed = self.was_aborted = True


@dataclass
class OpenConnections:
    at_most: int = 100
    open: set[GrpcConnection] = field(default_factory=set)
    most_held: int = 100_000_000
    held: int = 0

    def opened(self, connection: GrpcConnection) -> bool:
        self.open.add(connection)
        return len(self.open) <= self.at_most

    def closed(self, connection: GrpcConnection) -> None:
        self.open.remove(connection)

    def hold(self, change: int) -> bool:
        self.held += change
        return self.held <= self.most_held


@dataclass
class Caller:
    """The other end of a connection."""

    connection: GrpcConnection
    transport: SilentTransport
    calls: list[Call]
    register: "OpenConnections"
    encoder: Encoder = field(default_factory=Encoder)
    decoder: Decoder = field(default_factory=Decoder)
    seen: list[Frame] = field(default_factory=list)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)

    def greet(self, **settings: int) -> None:
        stated = {frames.Setting[name]: value for name, value in settings.items()}
        self.send(frames.PREFACE + frames.settings(stated))

    def headers(self, stream: int, *changes: tuple[str, str], ends: bool = False) -> bytes:
        names = {name for name, _ in changes}
        fields = [pair for pair in HEADERS if pair[0] not in names] + [pair for pair in changes if pair[1] != "absent"]
        fields.sort(key=lambda pair: not pair[0].startswith(":"))
        flags = frames.END_HEADERS | (frames.END_STREAM if ends else 0)
        return frames.frame(frames.HEADERS, flags, stream, self.encoder.encode(fields))

    def call(self, stream: int, message: bytes, *changes: tuple[str, str]) -> None:
        """Make a whole call, with a small message."""
        self.send(self.headers(stream, *changes) + data(stream, prefixed(message)))

    def read(self) -> list[Frame]:
        """Return the frames that were sent since the last time."""
        found = frames_of(self.transport.drained())
        self.seen += found
        return found

    def fields(self, frame: Frame) -> dict[str, str]:
        return dict(self.decoder.decode(frame.payload))

    def answer(self, stream: int) -> tuple[dict[str, str], bytes]:
        """Return the header fields and the data of a stream, of what was sent since the last time."""
        fields: dict[str, str] = {}
        body = b""
        for frame in self.read():
            if frame.kind == frames.HEADERS:
                found = self.fields(frame)
                fields |= found if frame.stream == stream else {}
            elif frame.kind == frames.DATA and frame.stream == stream:
                body += frame.payload
        return fields, body

    def ended_with(self) -> tuple[str, ErrorCode] | None:
        """Return how the connection or a stream was ended: what was sent last of GOAWAY and RST_STREAM."""
        for frame in reversed(self.read()):
            if frame.kind == frames.GOAWAY:
                return "goaway", ErrorCode(int.from_bytes(frame.payload[4:8], "big"))
            if frame.kind == frames.RST_STREAM:
                return "reset", ErrorCode(int.from_bytes(frame.payload, "big"))
        return None


def frames_of(raw: bytes) -> list[Frame]:
    found = []
    while raw:
        upper, lower, kind, flags, stream = frames.frame_header.unpack_from(raw)
        end = frames.HEADER_BYTES + (upper << 8 | lower)
        assert len(raw) >= end, "half a frame"
        found.append(Frame(kind, flags, stream, raw[frames.HEADER_BYTES : end]))
        raw = raw[end:]
    return found


def data(stream: int, payload: bytes, *, ends: bool = True) -> bytes:
    return frames.frame(frames.DATA, frames.END_STREAM if ends else 0, stream, payload)


def prefixed(message: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    return struct.pack(">BI", compressed, len(message) if size is None else size) + message


@pytest.fixture
def new_caller() -> Callable[..., Caller]:
    """Connect to the given methods, or to `Say`, which echoes, `Wait`, which keeps the call, and `Fail`, which has a bug."""
    register = OpenConnections()

    def connect(methods: dict[str, Method] | None = None, *, at_most: int = 100) -> Caller:
        register.at_most = at_most
        calls: list[Call] = []
        methods = methods or {
            "/test.Echo/Say": lambda call, message: call.answer(bytes(message)),
            "/test.Echo/Wait": lambda call, _message: calls.append(call),
            "/test.Echo/Fail": lambda _call, _message: {}["a bug"],
        }
        transport = SilentTransport()
        connection = GrpcConnection(methods, ConnectionLimits(MESSAGE_LIMIT, READ_NS, IDLE_NS), register)
        transport.protocol = connection
        connection.connection_made(transport)
        return Caller(connection, transport, calls, register)

    return connect


@pytest.fixture
def caller(new_caller: Callable[..., Caller]) -> Caller:
    """A caller who has introduced itself, and has read the introduction."""
    caller = new_caller()
    caller.greet()
    caller.read()
    return caller
