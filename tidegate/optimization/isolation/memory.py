"""What memory processes take and what the machine has left, as Linux's /proc and cgroups say; None where there is no /proc."""

import re
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def resident_bytes(process: int | str = "self") -> int | None:
    """Return the memory that a process holds now."""
    return _status(process, "VmRSS")


def peak_bytes() -> int | None:
    """Return the most memory that this process has held since `forget_peak`."""
    return _status("self", "VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew at what is held now; without the right to do so it stays what it was."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int | None:
    """Return what can still be taken without swapping: the machine's, or less if this container is allowed less."""
    machine = _field(Path("/proc/meminfo"), "MemAvailable")
    container = _container_bytes()
    return min((amount for amount in (machine, container) if amount is not None), default=None)


def _container_bytes() -> int | None:
    try:
        allowed = (_CGROUP / "memory.max").read_text().strip()
        held = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, int(allowed) - held) if allowed.isdigit() else None


def _status(process: int | str, field: str) -> int | None:
    return _field(Path(f"/proc/{process}/status"), field)


def _field(file: Path, field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
