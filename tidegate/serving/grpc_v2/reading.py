"""Frames out of the bytes of a connection, in whatever pieces they arrive, and header blocks out of their fragments."""

from typing import Protocol

from tidegate.serving.grpc_v2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_BYTES,
    HEADERS,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    SETTINGS,
    WITH_PRIORITY,
    ConnectionViolation,
    ErrorCode,
    StreamViolation,
    frame_header,
    header_fragment,
)
from tidegate.serving.grpc_v2.headers import HeaderFragments
from tidegate.serving.grpc_v2.limits import FRAME_BYTES, Patience


class FrameTaker(Protocol):
    """What is done with what was read; each may raise ConnectionViolation, all but the last StreamViolation."""

    def take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Take a DATA frame."""

    def take_headers(self, stream_id: int, block: bytes, ends_stream: bool) -> None:
        """Take a whole header block."""

    def take_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Take a frame of any other kind."""

    def end_stream(self, violation: StreamViolation) -> None:
        """End a stream on which a rule was broken."""


class FrameReader:
    """Reads one caller's frames.

    Attributes:
        read_at: When the last whole frame had arrived.
        is_stopped: Set once nothing more is to be read.
        has_preface: Whether the caller has said that it speaks HTTP/2.
    """

    def __init__(self, patience: Patience, now: int) -> None:
        """Begin with the connection's preface."""
        self.read_at = now
        self.is_stopped = False
        self.has_preface = False
        self._patience = patience
        self._unread = b""
        self._has_settings = False
        self._fragments: HeaderFragments | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something has begun that is not whole yet: a frame, a header block, or the connection itself."""
        return bool(self._unread) or self._fragments is not None or not self._has_settings

    def read(self, data: bytes, taker: FrameTaker, now: int) -> None:
        """Hand over to `taker` what is whole with the next bytes; raises ConnectionViolation."""
        if self._unread:
            data = self._unread + data
        position, end = 0, len(data)
        if not self.has_preface:
            if end < len(PREFACE) and PREFACE.startswith(data):
                self._unread = data
                return
            if not data.startswith(PREFACE):
                raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2's connection preface")
            self.has_preface = True
            position = len(PREFACE)
        while end - position >= HEADER_BYTES and not self.is_stopped:
            upper, lower, kind, flags, stream_id = frame_header.unpack_from(data, position)
            size = upper << 8 | lower
            if size > FRAME_BYTES:
                raise ConnectionViolation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of more than {FRAME_BYTES} bytes")
            start = position + HEADER_BYTES
            if start + size > end:
                break
            position = start + size
            try:
                self._take(taker, kind, flags, stream_id & MAX_STREAM_ID, data[start:position])
            except StreamViolation as violation:
                taker.end_stream(violation)
        if position:
            self.read_at = now
        self._unread = data[position:]

    def _take(self, taker: FrameTaker, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._fragments is not None and kind != CONTINUATION:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        if kind == DATA:
            taker.take_data(flags, stream_id, payload)
        elif kind == HEADERS and self._has_settings:
            if flags & (PADDED | WITH_PRIORITY):
                payload = header_fragment(flags, payload)
            if flags & END_HEADERS:
                taker.take_headers(stream_id, payload, bool(flags & END_STREAM))
            else:
                self._fragments = HeaderFragments(stream_id, payload, bool(flags & END_STREAM))
        else:
            self._patience.spend()
            self._take_other(taker, kind, flags, stream_id, payload)

    def _take_other(self, taker: FrameTaker, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._has_settings:
            if kind != SETTINGS:
                raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            self._has_settings = True
        if kind == CONTINUATION:
            self._take_continuation(taker, flags, stream_id, payload)
        else:
            taker.take_other(kind, flags, stream_id, payload)

    def _take_continuation(self, taker: FrameTaker, flags: int, stream_id: int, payload: bytes) -> None:
        fragments = self._fragments
        if fragments is None or fragments.stream_id != stream_id:
            raise ConnectionViolation(ErrorCode.PROTOCOL_ERROR, "a CONTINUATION frame continues nothing")
        fragments.add(payload)
        if flags & END_HEADERS:
            self._fragments = None
            taker.take_headers(stream_id, bytes(fragments.block), fragments.ends_stream)
