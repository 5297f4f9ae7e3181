"""A request's message out of the pieces in which it arrives: gRPC's length-prefixed message, of which a call has one."""

from struct import Struct

from tidegate.serving.protocol.errors import RequestError, bad_request

PREFIX_BYTES = 5
prefix = Struct(">BI")
"""Precedes each message: whether it is compressed, and its length."""

_BYTES_A_PIECE = 64  # that Python needs besides what is in it


class ArrivingMessage:
    """Pieces, and what their beginning says of the whole.

    Attributes:
        received: Bytes that have arrived, the prefix included.
        is_compressed: What the prefix says, once it has arrived.
        held: What the pieces take.
    """

    __slots__ = ("_beginning", "_limit", "_may_be_compressed", "_pieces", "_size", "held", "is_compressed", "received")

    def __init__(self, limit: int, *, may_be_compressed: bool) -> None:
        """Expect a message of at most `limit` bytes; it may be compressed if the call says how."""
        self._limit = limit
        self._may_be_compressed = may_be_compressed
        self._beginning = b""
        self._pieces: list[bytes] = []
        self._size = -1
        self.received = 0
        self.is_compressed = False
        self.held = 0

    @property
    def missing(self) -> int:
        """Bytes still to come, as far as that is known."""
        return PREFIX_BYTES + self._size - self.received if self._size >= 0 else 0

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            RequestError: The message is too long (413), more than one (501), or begins with what no message begins with (400;
                500 if it is compressed in a way that nobody said, which gRPC wants to be INTERNAL).
        """
        self.received += len(piece)
        if self._size < 0:
            self._beginning += piece
            if len(self._beginning) < PREFIX_BYTES:
                return
            self._read_prefix()
            piece = self._beginning[PREFIX_BYTES:]
        if self.missing < 0:
            raise RequestError(501, "a call takes one message, but more than one was sent")
        self._pieces.append(piece)
        self.held += len(piece) + _BYTES_A_PIECE

    def whole(self) -> bytes:
        """Return the message; raises RequestError (501 if nothing was sent, 400 if it is not whole)."""
        if not self.received:
            raise RequestError(501, "a call takes one message, but none was sent")
        if self._size < 0 or self.missing:
            raise bad_request("the call's data ends before its message does")
        return b"".join(self._pieces)

    def _read_prefix(self) -> None:
        compressed, size = prefix.unpack_from(self._beginning)
        if compressed > 1:
            raise bad_request(f"message starts with {compressed}, which says neither compressed (1) nor not (0)")
        if compressed and not self._may_be_compressed:
            raise RequestError(500, "message is marked as compressed, but the call has no grpc-encoding")
        if size > self._limit:
            raise RequestError(413, f"message is {size} bytes long; at most {self._limit} are allowed: send fewer rows")
        self.is_compressed = bool(compressed)
        self._size = size
