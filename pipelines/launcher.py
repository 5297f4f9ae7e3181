"""The Launcher seam: where a pipeline runs. `LocalLauncher` runs it on this machine, through kfp.local's subprocess runner.

result = LocalLauncher(workspace).run("release", {"project_file": "tidegate.yaml", ...}, on_event=print)
result.succeeded, result.cause, result.log
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipelines.failure import failure_cause
from tidegate.deployment.local import bound
from tidegate.errors import PipelineError

REPOSITORY = Path(__file__).resolve().parent.parent
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_STARTED = re.compile(r" - INFO - Executing task '(?P<task>[^']+)'")
_ENDED = re.compile(r" - (?:INFO|ERROR) - Task '(?P<task>[^']+)' finished with status (?P<status>\w+)")
_GRACE_SECONDS = 15.0  # longer than the run gives its tasks
# Every step is a process of its own, so imports count: Feast takes 6.5 s of CPU without bytecode, 3.7 s with, and 1.2 s without
# asserts, when typeguard leaves alone what Feast decorates with it.
_ENVIRONMENT = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONOPTIMIZE": "1",
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """A task started or ended; `seconds` is how long an ended one took."""

    task: str
    state: Literal["started", "succeeded", "failed"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. `cause` names the failed task and its error; `artifacts` holds one folder a task.

    On a cluster, `log` and `artifacts` are the address of the run's page.
    """

    succeeded: bool
    seconds: float
    log: Path | str
    artifacts: Path | str
    cause: str
    events: tuple[TaskEvent, ...]


class Launcher(Protocol):
    """Runs pipelines."""

    def run(
        self, pipeline: str, arguments: Mapping[str, str], *, on_event: Callable[[TaskEvent], None] | None = None
    ) -> RunResult:
        """Run a pipeline to its end, telling `on_event` of every task; raises PipelineError if it cannot be started."""


class LocalLauncher:
    """Runs a pipeline on this machine, in a process of its own, which is ended with everything it started.

    That holds however this process ends: the kernel tells the run when its launcher dies.
    """

    def __init__(self, workspace: Path) -> None:
        """Keep logs and artifacts below `workspace/runs`."""
        self._runs = workspace / "runs"
        self._running: subprocess.Popen[bytes] | None = None

    def run(
        self, pipeline: str, arguments: Mapping[str, str], *, on_event: Callable[[TaskEvent], None] | None = None
    ) -> RunResult:
        """Run a pipeline to its end; see `Launcher.run`."""
        root = self._fresh_folder(pipeline)
        log = root / "run.log"
        started = time.monotonic()
        run = (sys.executable, "-m", "pipelines.local_run", pipeline, json.dumps(dict(arguments)), str(root / "artifacts"))
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, bound.__file__, str(os.getpid()), str(int(signal.SIGTERM)), *run],
                cwd=REPOSITORY,
                env={**os.environ, **_ENVIRONMENT},
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._running = process
        try:
            events = _follow(log, process, on_event or (lambda _: None))
        finally:
            self.end_running()
        artifacts = next(iter(sorted((root / "artifacts").glob("*"))), root / "artifacts")
        succeeded = process.returncode == 0
        return RunResult(
            succeeded=succeeded,
            seconds=time.monotonic() - started,
            log=log,
            artifacts=artifacts,
            cause="" if succeeded else failure_cause(log.read_text(encoding="utf-8", errors="replace")),
            events=tuple(events),
        )

    def end_running(self) -> None:
        """End the run that is under way in another thread, with everything it started; without one, do nothing."""
        process, self._running = self._running, None
        if process is not None:
            _end(process)

    def _fresh_folder(self, pipeline: str) -> Path:
        root = (
            self._runs
            / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{pipeline}-{os.getpid()}-{time.monotonic_ns() % 10**6}"
        )
        try:
            (root / "artifacts").mkdir(parents=True)
        except OSError as error:
            raise PipelineError(f"runs folder {self._runs}: cannot be written: {error.strerror}") from error
        return root


def _follow(log: Path, process: subprocess.Popen[bytes], on_event: Callable[[TaskEvent], None]) -> list[TaskEvent]:
    events: list[TaskEvent] = []
    begun: dict[str, list[float]] = {}
    with log.open(encoding="utf-8", errors="replace") as lines:
        partial = ""
        while True:
            running = process.poll() is None
            partial += lines.read()
            *complete, partial = partial.split("\n")
            for line in complete:
                event = _event_in(_ANSI.sub("", line), begun)
                if event is not None:
                    events.append(event)
                    on_event(event)
            if not running:
                return events
            time.sleep(0.05)


def _event_in(line: str, begun: dict[str, list[float]]) -> TaskEvent | None:
    now = time.monotonic()
    if match := _STARTED.search(line):
        begun.setdefault(match["task"], []).append(now)
        return TaskEvent(task=match["task"], state="started")
    if match := _ENDED.search(line):
        starts = begun.get(match["task"]) or [now]
        state: Literal["succeeded", "failed"] = "succeeded" if match["status"] == "SUCCESS" else "failed"
        return TaskEvent(task=match["task"], state=state, seconds=now - starts.pop(0))
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the run to end, which ends its tasks first; kill what is left of it."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=_GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
