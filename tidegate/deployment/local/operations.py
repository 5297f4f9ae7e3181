"""Starting the supervisor in the background, and stopping it with everything it started."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tidegate.deployment.local.log_files import last_words
from tidegate.deployment.local.processes import kill_supervised, supervised
from tidegate.deployment.local.state import LocalState, SupervisorRuns
from tidegate.errors import DeploymentError

_START_SECONDS = 30.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.05


def start_supervisor(workspace: Path) -> tuple[int, Path]:
    """Start a supervisor that outlives this process, wait until it accepts services, and return its pid and log file.

    Raises:
        DeploymentError: It did not start; says what it said.
    """
    state = LocalState(workspace)
    state.create()
    log = state.logs / "supervisor.log"
    command = [sys.executable, "-m", "tidegate", "local", "up", "--workspace", str(workspace.resolve())]
    with log.open("ab") as output:
        begin = output.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=dict(os.environ)
        )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None:
        record = state.read_supervisor()
        if record is not None and record["pid"] == process.pid:
            return process.pid, log
        if time.monotonic() > deadline:
            process.terminate()
            raise DeploymentError(f"the supervisor was not up after {_START_SECONDS:g} s; see {log}")
        time.sleep(_POLL_SECONDS)
    raise DeploymentError(last_words(log, begin) or f"the supervisor ended with status {process.returncode}; see {log}")


def stop_supervisor(workspace: Path) -> bool:
    """Stop the supervisor and everything it started, wait until all is gone, and tell whether anything had run.

    Raises:
        DeploymentError: Something is still running after a minute.
    """
    state = LocalState(workspace)
    if not state.root.is_dir():
        return False
    asked: int | None = None
    deadline = time.monotonic() + _STOP_SECONDS
    while True:
        try:
            with state.supervisor_lock():
                return _end_the_rest(state) or asked is not None
        except SupervisorRuns as running:
            late = time.monotonic() > deadline
            if running.pid is not None and (late or running.pid != asked):
                asked = running.pid
                with suppress(ProcessLookupError):
                    os.kill(asked, signal.SIGKILL if late else signal.SIGTERM)
        time.sleep(_POLL_SECONDS)


def _end_the_rest(state: LocalState) -> bool:
    """End what a killed supervisor left, and tell whether there was anything."""
    count = kill_supervised(state.root)
    left = supervised(state.root)
    if left:
        raise DeploymentError(f"processes {left} of {state.root} do not end")
    state.delete_supervisor()
    return count > 0
