"""Processes that must not outlive the supervisor: how they are started, recognised, and ended.

A child is started through `bound.py`, so that the kernel signals it when the supervisor dies, however that happens. All it
starts in turn inherits an environment variable that names the state directory: whatever still runs with it is ours to end.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MARK = "TIDEGATE_SUPERVISED_BY"
_BOUND = Path(__file__).with_name("bound.py")


async def start_bound(
    command: Sequence[str], *, env: dict[str, str], state: Path, log: Path, parent_death: signal.Signals
) -> asyncio.subprocess.Process:
    """Start `command` in a session of its own, its output appended to `log`; `parent_death` is sent when this process dies.

    Must be called from the main thread: the kernel ties the child to the thread that forked it.
    """
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_BOUND), str(os.getpid()), str(int(parent_death)), *command),
            env={**env, MARK: str(state)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


async def end(process: asyncio.subprocess.Process, *, grace: float) -> None:
    """Ask `process` to end, wait `grace` seconds, then kill it and everything left of its process group."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
    kill_group(process.pid)
    await process.wait()


def kill_group(group: int) -> None:
    """Kill every process of the group, if any is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def started_at(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot, or None if it does not run; tells a reused pid from the first."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def supervised(state: Path) -> list[int]:
    """Return the processes that a supervisor of the state directory `state` started and that still run."""
    mark = f"{MARK}={state}".encode()
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if mark in _environment(path)]


def kill_supervised(state: Path, *, timeout: float = 10.0) -> int:
    """Kill what an earlier supervisor of `state` left behind, wait until it is gone, and return how many that were."""
    left = found = supervised(state)
    deadline = time.monotonic() + timeout
    while left and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
        left = supervised(state)
    return len(found)


def _environment(process: Path) -> list[bytes]:
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []
