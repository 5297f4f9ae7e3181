"""Structured log lines: one JSON document each, on stderr."""

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec


def emit(event: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line: the wall-clock time, the level, the event and its fields."""
    line = msgspec.json.encode({"time": datetime.now(UTC).isoformat(), "level": level, "event": event, **fields})
    sys.stderr.write(line.decode() + "\n")
    sys.stderr.flush()
