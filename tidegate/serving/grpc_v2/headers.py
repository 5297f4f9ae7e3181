"""Header blocks of callers: decoded (HPACK, RFC 7541), checked (RFC 9113, section 8) and read as gRPC's request headers.

A caller that makes the same call again sends the same fields, mostly as the same few bytes: indexes into the table that both
ends keep. A block that did not change the table means the same until the table changes, so it is decoded only once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from tidegate.serving.grpc_v2.frames import ConnectionViolation, ErrorCode
from tidegate.serving.grpc_v2.status import Code, Refusal

MAX_HEADER_BYTES = 16_384
ENCODINGS = ("identity", "deflate", "gzip")

_REMEMBERED_BLOCKS = 32
_MAX_FRAGMENTS = 16
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED = frozenset((b":method", b":scheme", b":path"))
_OF_CONNECTIONS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_UNIT_NS = {b"H": 3_600_000_000_000, b"M": 60_000_000_000, b"S": 1_000_000_000, b"m": 1_000_000, b"u": 1000, b"n": 1}
_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_value = re.compile(rb"(?:[^\x00\r\n \t](?:[^\x00\r\n]*[^\x00\r\n \t])?)?", re.DOTALL).fullmatch
_timeout = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_length = re.compile(rb"[0-9]{1,18}").fullmatch


@dataclass(frozen=True, slots=True)
class CallHead:
    """A call's request headers.

    Attributes:
        path: `/package.Service/Method`.
        timeout_ns: How long the caller waits, from the arrival of its headers; None means no bound.
        encoding: How a compressed message is compressed.
        content_length: Bytes that all DATA frames will hold together, if that was said.
        trace_parent: The `traceparent` field (W3C Trace Context), unread.
        trace_state: The `tracestate` field, likewise.
        refusal: Why this can be no call here, if that is known from its headers.
        malformed: Whether HTTP/2 itself forbids such a header block at the start of a request.
        has_pseudo_fields: Whether it starts a request, as trailers must not.
    """

    path: str = ""
    timeout_ns: int | None = None
    encoding: str = "identity"
    content_length: int | None = None
    trace_parent: str | None = None
    trace_state: str | None = None
    refusal: Refusal | None = None
    malformed: bool = False
    has_pseudo_fields: bool = True


class HeaderDecoder:
    """Decodes the header blocks of one connection, in the order in which they come."""

    def __init__(self) -> None:
        """Start with an empty table, of HPACK's default size."""
        self._table = _CountingTable()
        self._decoder = Decoder(MAX_HEADER_BYTES)
        self._decoder.header_table = self._table
        self._remembered: dict[bytes, CallHead] = {}

    def decode(self, block: bytes) -> CallHead:
        """Return what a block says; raises ConnectionViolation if it is no HPACK or too much of it."""
        head = self._remembered.get(block)
        if head is not None:
            return head
        changes = self._table.changes
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionViolation(
                ErrorCode.ENHANCE_YOUR_CALM, f"request headers of more than {MAX_HEADER_BYTES} bytes"
            ) from None
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionViolation(ErrorCode.COMPRESSION_ERROR, "a header block that is no HPACK") from error
        head = _head_of(fields)
        if changes != self._table.changes:
            self._remembered.clear()
        else:
            if len(self._remembered) == _REMEMBERED_BLOCKS:
                self._remembered.clear()
            self._remembered[block] = head
        return head


class HeaderFragments:
    """A header block of which more is to come, in CONTINUATION frames.

    Attributes:
        stream_id: The stream that it belongs to.
        ends_stream: Whether nothing follows it on its stream.
        block: What has arrived.
    """

    def __init__(self, stream_id: int, first: bytes, ends_stream: bool) -> None:
        """Start with what the HEADERS frame holds."""
        self.stream_id = stream_id
        self.ends_stream = ends_stream
        self.block = bytearray(first)
        self._count = 1

    def add(self, fragment: bytes) -> None:
        """Take the next one; raises ConnectionViolation if there are too many, or too much is in them (CVE-2024-27316)."""
        self.block += fragment
        self._count += 1
        if len(self.block) > MAX_HEADER_BYTES or self._count > _MAX_FRAGMENTS:
            raise ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, f"request headers of more than {MAX_HEADER_BYTES} bytes")


class _CountingTable(HeaderTable):
    """A table that counts whatever may have changed the meaning of an index."""

    changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changes += 1
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


def _head_of(fields: Iterable[tuple[bytes, bytes]]) -> CallHead:
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    malformed = False
    for name, value in fields:
        if name.startswith(b":"):
            malformed |= name not in _PSEUDO or name in pseudo or bool(regular) or not _value(value)
            pseudo[name] = value
        else:
            malformed |= not _token(name) or not _value(value) or name in _OF_CONNECTIONS
            malformed |= name == b"content-length" and regular.get(name, value) != value
            regular[name] = value
    length = regular.get(b"content-length")
    malformed |= length is not None and not _length(length)
    malformed |= regular.get(b"te", b"trailers").lower() != b"trailers"
    malformed |= not pseudo.keys() >= _REQUIRED or not pseudo[b":path"].startswith((b"/", b"*"))
    if malformed:
        return CallHead(malformed=True, has_pseudo_fields=bool(pseudo))
    timeout = _timeout(regular.get(b"grpc-timeout", b""))
    trace_parent, trace_state = regular.get(b"traceparent"), regular.get(b"tracestate")
    return CallHead(
        path=pseudo[b":path"].decode("latin-1"),
        timeout_ns=int(timeout[1]) * _UNIT_NS[timeout[2]] if timeout else None,
        encoding=regular.get(b"grpc-encoding", b"identity").decode("latin-1"),
        content_length=None if length is None else int(length),
        trace_parent=None if trace_parent is None else trace_parent.decode("latin-1"),
        trace_state=None if trace_state is None else trace_state.decode("latin-1"),
        refusal=_refusal(pseudo[b":method"], regular),
    )


def _refusal(method: bytes, regular: dict[bytes, bytes]) -> Refusal | None:
    content_type = regular.get(b"content-type", b"").lower().split(b";")[0].strip()
    if method != b"POST":
        return Refusal(Code.UNIMPLEMENTED, "gRPC calls are made with POST", 405, (("allow", "POST"),))
    if content_type not in (b"application/grpc", b"application/grpc+proto"):
        return Refusal(Code.UNIMPLEMENTED, "content-type must be application/grpc or application/grpc+proto", 415)
    encoding = regular.get(b"grpc-encoding", b"identity").decode("latin-1")
    if encoding not in ENCODINGS:
        accepted = (("grpc-accept-encoding", ",".join(ENCODINGS)),)
        return Refusal(Code.UNIMPLEMENTED, f"grpc-encoding {encoding!r} is none of {', '.join(ENCODINGS)}", fields=accepted)
    timeout = regular.get(b"grpc-timeout")
    if timeout is not None and not _timeout(timeout):
        return Refusal(Code.INVALID_ARGUMENT, "grpc-timeout must be up to 8 digits and one of the units H, M, S, m, u, n")
    return None
