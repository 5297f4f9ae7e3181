"""HTTP/2 frames (RFC 9113, sections 4 and 6): how they are written, and the checks that need no more than the frame itself."""

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
MAX_STREAM_ID = 2**31 - 1
MAX_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

frame_header = Struct(">HBBBI")
"""Length (its upper 16 and lower 8 bits), type, flags, and the stream id below a reserved bit."""

_setting = Struct(">HI")
_number = Struct(">I")
_two_numbers = Struct(">II")


class ErrorCode(IntEnum):
    """Why a stream or a connection ends (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Setting(IntEnum):
    """What a peer can be told about a connection (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ConnectionViolation(Exception):
    """The peer broke the protocol in a way that ends the connection; it is told the code and the reason."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamViolation(Exception):
    """The peer broke the protocol in a way that ends one stream."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return frame_header.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(*pair) for pair in values.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a frame that lets the peer send `increment` more bytes, on one stream or (0) on the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _number.pack(increment))


def reset(stream_id: int, code: ErrorCode) -> bytes:
    """Return a frame that ends a stream."""
    return frame(RST_STREAM, 0, stream_id, _number.pack(code))


def goaway(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a frame that ends the connection: streams above `last_stream_id` were not and will not be looked at."""
    return frame(GOAWAY, 0, 0, _two_numbers.pack(last_stream_id, code) + reason.encode())


def unpadded(payload: bytes) -> bytes:
    """Return the payload of a PADDED frame without its padding; raises ConnectionViolation."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def header_fragment(flags: int, payload: bytes) -> bytes:
    """Return the field block fragment of a HEADERS frame, without padding and priority; raises ConnectionViolation."""
    if flags & PADDED:
        payload = unpadded(payload)
    if flags & WITH_PRIORITY:
        if len(payload) < 5:
            raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame ends within its priority")
        payload = payload[5:]
    return payload


def read_number(payload: bytes, what: str) -> int:
    """Return the one 32-bit number that RST_STREAM and WINDOW_UPDATE hold, without its reserved bit."""
    if len(payload) != 4:
        raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, f"a {what} frame must be 4 bytes long")
    return int.from_bytes(payload, "big") & MAX_WINDOW


def read_settings(payload: bytes) -> dict[int, int]:
    """Return the settings that a frame states, the last one of each; raises ConnectionViolation if one is out of bounds."""
    if len(payload) % _setting.size:
        raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame must be a multiple of 6 bytes long")
    stated = dict(_setting.iter_unpack(payload))
    if stated.get(Setting.ENABLE_PUSH, 0) > 1:
        raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH must be 0 or 1")
    if stated.get(Setting.INITIAL_WINDOW_SIZE, 0) > MAX_WINDOW:
        raise ConnectionViolation(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE must be below 2**31")
    if not DEFAULT_FRAME_BYTES <= stated.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_BYTES) < 2**24:
        raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE must be between 2**14 and 2**24 - 1")
    return stated
