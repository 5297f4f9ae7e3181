"""Structured log lines: one JSON document each, on stderr."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec


def emit(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: the wall-clock time, the level, the event and its fields."""
    line = msgspec.json.encode({"time": datetime.now(UTC).isoformat(), "level": level, "event": event, **fields})
    sys.stderr.write(line.decode() + "\n")
    sys.stderr.flush()


class EventHandler(logging.Handler):
    """Writes what a library logs as such lines too; its logger is the event's `source`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        emit(record.getMessage(), level=record.levelname.lower(), source=record.name)
