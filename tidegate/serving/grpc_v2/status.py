"""How a call ends: gRPC's status codes, and the header blocks that say them.

The blocks use HPACK's literals without indexing (RFC 7541, section 6.2.2), so that they depend on no state of a connection:
what every successful answer needs is made once.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import quote, unquote

from tidegate.serving.protocol.errors import RequestError

_LONGEST_MESSAGE = 2000  # bytes as sent; gRPC's clients read 8 KiB of trailers
_HALF_ESCAPE = re.compile("%.?$")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class Code(IntEnum):
    """gRPC's status codes that this server sends."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


_CODES = {
    400: Code.INVALID_ARGUMENT,
    404: Code.NOT_FOUND,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    415: Code.UNIMPLEMENTED,
    429: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call is not answered.

    Attributes:
        code: What its caller's gRPC library raises.
        message: What went wrong, in one line.
        http_status: Differs from 200 only for what is no gRPC call at all.
        fields: Further header fields, such as which encodings would be accepted.
    """

    code: Code
    message: str
    http_status: int = 200
    fields: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, error: RequestError) -> "Refusal":
        """Return what a request's error is in gRPC."""
        return cls(_CODES.get(error.status, Code.INTERNAL), str(error), fields=_pushback(error.headers))

    def block(self, *, after_headers: bool = False) -> bytes:
        """Return the header block that says so: the only one of its response ("Trailers-Only"), or its trailers."""
        fields = (("grpc-status", f"{self.code:d}"), ("grpc-message", _percent_encoded(self.message)), *self.fields)
        start = b"" if after_headers else _literal_status(self.http_status) + _CONTENT_TYPE
        return start + b"".join(literal(*field) for field in fields)


def literal(name: str, value: str) -> bytes:
    """Return a header field as a literal without indexing, without Huffman coding."""
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    raw = text.encode("ascii")
    return _integer(len(raw)) + raw


def _integer(value: int) -> bytes:
    """Return `value` with a prefix of 7 bits (RFC 7541, section 5.1)."""
    if value < 0x7F:
        return bytes((value,))
    encoded = bytearray((0x7F,))
    value -= 0x7F
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _literal_status(status: int) -> bytes:
    return b"\x88" if status == 200 else b"\x08" + _text(str(status))  # 8 is ":status: 200" of the static table


def _pushback(headers: bytes) -> tuple[tuple[str, str], ...]:
    """Return what HTTP's `retry-after` is in gRPC: server pushback (gRFC A6), which clients that retry respect."""
    name, _, seconds = headers.strip().partition(b": ")
    return (("grpc-retry-pushback-ms", f"{int(seconds)}000"),) if name == b"retry-after" else ()


def _percent_encoded(message: str) -> str:
    """Return `grpc-message`: printable ASCII as it is, the rest of its UTF-8 percent-encoded, cut where it gets long."""
    encoded = _quoted(" ".join(message.split()))
    if len(encoded) <= _LONGEST_MESSAGE:
        return encoded
    cut = _HALF_ESCAPE.sub("", encoded[:_LONGEST_MESSAGE])
    return _quoted(unquote(cut, errors="ignore"))


def _quoted(message: str) -> str:
    return quote(message, safe=_PRINTABLE, errors="replace")


_CONTENT_TYPE = b"\x0f\x10" + _text("application/grpc")  # 31 is "content-type" of the static table

ANSWER_HEADERS = _literal_status(200) + _CONTENT_TYPE
"""The header block before an answer."""

ANSWER_TRAILERS = literal("grpc-status", "0")
"""The header block after an answer."""
