"""Structured log lines: one JSON document each, on stderr. Whoever reads them too slowly does not stall the server.

emit("ready", worker=0)
with background_lines():      # in a worker: lines are written by a thread, and dropped while stderr takes none
    serve()
"""

import logging
import os
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

_MOST_LINES = 10_000
_GATHERING_SECONDS = 0.01  # so that many lines are one write
_LAST_SECONDS = 1.0
_MOST_BYTES_A_WRITE = 64 * 1024


def emit(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: the wall-clock time, the level, the event and its fields; from any thread, and never waiting."""
    write_line(msgspec.json.encode({"time": now(), "level": level, "event": event, **fields}))


def now() -> str:
    """Return the wall-clock time as it stands in lines, to the microsecond."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_to_the_second(seconds)}.{nanoseconds // 1000:06d}+00:00"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def write_line(line: bytes) -> None:
    """Write a JSON document as one line."""
    if _writer is None:
        _write_now(line)
    else:
        _writer.add(line)


@contextmanager
def background_lines() -> Iterator[None]:
    """Have lines written by a thread meanwhile, and turn what libraries log into lines, too; at the end all are written."""
    global _writer
    handler = EventHandler()
    logging.getLogger().addHandler(handler)
    if sys.stderr is not None:
        _writer = LineWriter(sys.stderr.fileno())
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        if _writer is not None:
            _writer.close(_LAST_SECONDS)
            _writer = None


class EventHandler(logging.Handler):
    """Writes what a library logs as such lines; its logger is the event's `source`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        fields = {"source": record.name}
        if record.exc_info is not None and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        emit(record.getMessage(), level=record.levelname.lower(), **fields)


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own; while it takes none, they wait, and then are dropped."""

    def __init__(self, descriptor: int, most_lines: int = _MOST_LINES) -> None:
        """Start the thread; at most `most_lines` wait."""
        self._descriptor = descriptor
        self._most = most_lines
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._write_until_closed, name="lines", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Queue a line, or drop and count it if too many wait."""
        if len(self._lines) >= self._most:
            self._dropped += 1
        else:
            self._lines.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self, seconds: float) -> None:
        """Write what waits and end the thread, unless that takes longer than `seconds`."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)

    def _write_until_closed(self) -> None:
        while not self._closing:
            self._wake.wait()
            time.sleep(0 if self._closing else _GATHERING_SECONDS)
            self._wake.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._lines or self._dropped:
            parts, size = [], 0
            while self._lines and size < _MOST_BYTES_A_WRITE:
                parts.append(self._lines.popleft())
                size += len(parts[-1])
            if not self._lines and self._dropped:
                dropped, self._dropped = self._dropped, 0
                parts.append(
                    msgspec.json.encode({"time": now(), "level": "warning", "event": "lines dropped", "lines": dropped})
                )
            if not self._write(b"\n".join((*parts, b""))):
                return

    def _write(self, whole: bytes) -> bool:
        rest = memoryview(whole)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody else made it so
                select.select([], [self._descriptor], [])
            except OSError:  # nobody reads any more
                return False
        return True


_writer: LineWriter | None = None


def _write_now(line: bytes) -> None:
    stream = sys.stderr
    try:
        if stream is not None and _takes_a_line(stream):
            stream.write(line.decode() + "\n")
            stream.flush()
    except (OSError, ValueError):
        return  # closed: there is nobody left to tell


def _takes_a_line(stream: Any) -> bool:
    """Return whether writing a line would not wait for a reader; a stream without a file never does."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
