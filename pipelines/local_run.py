"""Runs one pipeline through kfp.local in this process, for `LocalLauncher`: `python -m pipelines.local_run NAME ARGS ROOT`."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from kfp import local

from pipelines.catalog import PIPELINES

_GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.05


def main() -> None:
    """Run the pipeline that the command line names; SIGTERM ends its tasks, and then this process."""
    signal.signal(signal.SIGTERM, _end_group)
    name, arguments, root = sys.argv[1:]
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True)
    PIPELINES[name](**json.loads(arguments))


def _end_group(number: int, frame: FrameType | None) -> None:
    """End this process and its tasks, which are of its process group: with SIGTERM, and what does not heed that by force."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    while _others_in_group() and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _others_in_group() -> bool:
    group = str(os.getpgrp())
    return any(
        fields[2] == group and fields[0] not in "ZX"
        for path in Path("/proc").glob("[0-9]*")
        if path.name != str(os.getpid()) and (fields := _stat(path))
    )


def _stat(process: Path) -> list[str]:
    """Return the fields of /proc/PID/stat after the command: state, parent, process group and so on; none once it is gone."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


if __name__ == "__main__":
    main()
