"""What one caller may cost: streams, bytes in flight, time, and frames that do no work."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tidegate.serving.grpc_v2.frames import ConnectionViolation, ErrorCode

if TYPE_CHECKING:
    from tidegate.serving.grpc_v2.connection import GrpcConnection

MAX_STREAMS = 256
FRAME_BYTES = 65_536
STREAM_WINDOW = 256 * 1024
CONNECTION_WINDOW = 4 * 1024 * 1024
LONGEST_MESSAGES_AT_ONCE = 8

_IDLE_FRAMES = 1000
_IDLE_FRAMES_PER_ANSWER = 8  # window updates, and pings that measure the network


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a model server's settings allow.

    Attributes:
        message_bytes: The longest message, also after decompression.
        read_ns: How long one request may take to arrive, and how long an answer may find no room.
        idle_ns: How long a connection without calls is kept.
    """

    message_bytes: int
    read_ns: int
    idle_ns: int


class Register(Protocol):
    """Knows all connections, and what they hold together."""

    def opened(self, connection: "GrpcConnection") -> bool:
        """Take note of a new connection; False if there are too many."""

    def closed(self, connection: "GrpcConnection") -> None:
        """Take note that a connection is gone."""

    def hold(self, change: int) -> bool:
        """Take note of so many more (or fewer) bytes that wait; False if they are too many in all connections."""


class Patience:
    """Counts frames that do no work, floods of which are cheap to send: CVE-2019-9512 to 9518, CVE-2023-44487."""

    def __init__(self) -> None:
        """Start with all of it."""
        self.answers = 0
        self._idle_frames = 0

    def spend(self) -> None:
        """Count such a frame; raises ConnectionViolation if there were too many for the answers since `restore`."""
        self._idle_frames += 1
        if self._idle_frames > _IDLE_FRAMES + _IDLE_FRAMES_PER_ANSWER * self.answers:
            raise ConnectionViolation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that do no work")

    def restore(self) -> None:
        """Start anew; called about once a second."""
        self.answers = self._idle_frames = 0
