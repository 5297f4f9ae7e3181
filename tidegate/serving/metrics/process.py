"""What the kernel knows about a worker's process, under the names that Prometheus' own clients use (Linux; see proc(5))."""

import os
from functools import cache
from pathlib import Path

from tidegate.serving.metrics.names import PROCESS_CPU, PROCESS_FILES, PROCESS_MEMORY, PROCESS_START

# Fields of /proc/PID/stat, counted from the third, which follows the command's closing parenthesis.
_USER, _SYSTEM, _START, _RESIDENT = 11, 12, 19, 21


def look_at(process: int) -> dict[str, float]:
    """Return the metrics of a process by name; none of one that is gone, or where there is no /proc."""
    folder = Path(f"/proc/{process}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        files = sum(1 for _ in (folder / "fd").iterdir())
        booted = _boot_seconds()
    except OSError:
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        PROCESS_MEMORY: int(fields[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE"),
        PROCESS_CPU: (int(fields[_USER]) + int(fields[_SYSTEM])) / ticks,
        PROCESS_FILES: files,
        PROCESS_START: booted + int(fields[_START]) / ticks,
    }


@cache
def _boot_seconds() -> int:
    lines = Path("/proc/stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("btime"))
