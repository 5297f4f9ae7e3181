"""Event time: where Tidegate reads "now" when it means the time of the world a record belongs to.

In production event time is the wall clock. In a replay it is a clock that the replay moves forward, shared by every
process of the replay through a small memory-mapped file, so that a year can be lived through in minutes without a
leak from the future. To try past data out on a cluster, where no such file is shared, event time may also stand still
(`at:2013-04-01T00:00:00Z`):

    >>> import tempfile, pathlib, datetime as dt
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "clock"
    >>> driver = ReplayClock.create(path, dt.datetime(2013, 4, 1, tzinfo=dt.UTC))
    >>> server = open_clock(f"replay:{path}")
    >>> driver.advance(dt.datetime(2013, 4, 2, tzinfo=dt.UTC))
    >>> server.now().isoformat()
    '2013-04-02T00:00:00+00:00'
"""

import mmap
import os
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from tidegate.errors import TidegateError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FORMAT = struct.Struct("q")


class Clock(Protocol):
    """Tells event time."""

    @property
    def spec(self) -> str:
        """The text from which `open_clock` opens this clock again, in another process."""

    def now(self) -> datetime:
        """Return the current event time, in UTC."""


class WallClock:
    """Event time is the time on the wall."""

    spec = "wall"

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)


class StillClock:
    """Event time stands still at one moment."""

    def __init__(self, moment: datetime) -> None:
        """Stand still at `moment`; raises TidegateError if it has no time zone."""
        _microseconds(moment)
        self._moment = moment.astimezone(UTC)
        self.spec = f"at:{self._moment.isoformat()}"

    def now(self) -> datetime:
        """Return that moment, in UTC."""
        return self._moment


class ReplayClock:
    """Event time is what the driver of a replay last set; it never runs backwards.

    The time is one aligned 64-bit count of microseconds since the epoch in a mapped file: a reader costs no system call.
    """

    def __init__(self, path: Path) -> None:
        """Open the clock at `path`; raises TidegateError if no replay clock is there."""
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise TidegateError(f"clock: cannot open the replay clock {path}: {error.strerror}") from error
        try:
            if os.fstat(descriptor).st_size != _FORMAT.size:
                raise TidegateError(f"clock: {path} is not a replay clock (expected {_FORMAT.size} bytes)")
            # Through a view, setting the time is one store. Struct.pack_into zeroes the bytes first: to a reader, 1970.
            self._microseconds = memoryview(mmap.mmap(descriptor, _FORMAT.size)).cast("q")
        finally:
            os.close(descriptor)
        self.spec = f"replay:{path.absolute()}"

    @classmethod
    def create(cls, path: Path, start: datetime) -> "ReplayClock":
        """Create the clock file at `path`, showing `start`; whoever opened an earlier one keeps that. Raises TidegateError."""
        shown = _FORMAT.pack(_microseconds(start))
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(shown)
            fresh.replace(path)
        except OSError as error:
            raise TidegateError(f"clock: cannot create the replay clock {path}: {error.strerror}") from error
        return cls(path)

    def now(self) -> datetime:
        """Return the replayed time, in UTC."""
        return _EPOCH + timedelta(microseconds=self._microseconds[0])

    def advance(self, to: datetime) -> None:
        """Move the clock forward to `to`; raises TidegateError if that lies in its past."""
        microseconds = _microseconds(to)
        if to < self.now():
            raise TidegateError(f"clock: cannot move back from {self.now().isoformat()} to {to.isoformat()}")
        self._microseconds[0] = microseconds


def open_clock(spec: str) -> Clock:
    """Open the clock that `spec` describes: `wall`, `at:MOMENT` (ISO 8601 with a time zone), or `replay:PATH`."""
    kind, _, rest = spec.partition(":")
    if kind == "wall" and not rest:
        return WallClock()
    if kind == "replay" and rest:
        return ReplayClock(Path(rest))
    if kind == "at":
        return StillClock(_moment(rest))
    raise TidegateError(f"clock: {spec!r} is not a clock; use 'wall', 'at:MOMENT' or 'replay:PATH'")


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise TidegateError(f"clock: {text!r} is not a moment; use ISO 8601, such as 2013-04-01T00:00:00Z") from None


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise TidegateError(f"clock: {moment.isoformat()} has no time zone; event time is UTC")
    return (moment - _EPOCH) // _MICROSECOND
