"""Reading a process's log file for the reason why it ended."""

import json
from pathlib import Path

_TAIL_BYTES = 16_384


def size(log: Path) -> int:
    """Return where the next line of `log` will begin."""
    return log.stat().st_size if log.exists() else 0


def last_words(log: Path, start: int) -> str:
    """Return what was said last from `start` on: the last error line if there is one, else the last line; empty if nothing."""
    with log.open("rb") as file:
        file.seek(max(start, size(log) - _TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1].removeprefix("error: ") if errors else _plain(lines[-1] if lines else "")


def _plain(line: str) -> str:
    """Return a structured log line as its event and what it says of the error."""
    try:
        record = json.loads(line)
        return ": ".join(str(record[key]) for key in ("event", "error") if key in record) or line
    except (ValueError, TypeError):
        return line
