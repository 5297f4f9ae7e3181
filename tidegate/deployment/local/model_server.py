"""One model server process of a revision: started, watched, restarted with growing pauses when it dies, and ended."""

import asyncio
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.deployment.local.envoy_config import READY_PATH, Backend
from tidegate.deployment.local.log_files import last_words, size
from tidegate.deployment.local.processes import end, kill_group, start_bound
from tidegate.deployment.stopping import stopping_seconds

_POLL_SECONDS = 0.1
_CHECK_SECONDS = 1.0
_CHECK_TIMEOUT = 2.0
_MISSES_UNTIL_UNREADY = 3
_HUNG_SECONDS = 30.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What a model server serves and where: the revision's package and settings, and its ports."""

    backend: Backend
    storage_uri: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables that the model server reads."""
        return {
            **self.env,
            "TIDEGATE_NAME": self.backend.service,
            "TIDEGATE_REVISION": self.backend.revision,
            "TIDEGATE_VERSION": self.storage_uri.rstrip("/").rpartition("/")[2],
            "TIDEGATE_HTTP_PORT": str(self.backend.http_port),
            "TIDEGATE_GRPC_PORT": str(self.backend.grpc_port),
        }


ServerCommand = Callable[[ServerSpec], Sequence[str]]


def tidegate_serve(spec: ServerSpec) -> list[str]:
    """Return the command of Tidegate's own model server; its settings come from the environment."""
    return [sys.executable, "-m", "tidegate", "serve", spec.storage_uri]


class ModelServer:
    """Keeps one model server running until `stop`.

    Attributes:
        spec: What it serves.
        ready: Whether it answers the readiness probe now.
        admitted: Whether it was ever ready.
        reason: Why it is not ready; empty if it is.
        failures: Times in a row that the process ended by itself soon after its start; the pauses grow with them.
        failed_starts: Times in a row that it ended by itself without having been ready.
        pid: The process, None while there is none.
    """

    def __init__(self, spec: ServerSpec, *, state: Path, log: Path, command: ServerCommand) -> None:
        """Describe the server; `start` starts it."""
        self.spec = spec
        self.ready = False
        self.admitted = False
        self.reason = "starting"
        self.failures = 0
        self.failed_starts = 0
        self.pid: int | None = None
        self._was_ready = False
        self._state = state
        self._log = log
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the process, and keep it running."""
        self._task = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """End the process: asked first, killed after a grace."""
        self.ready, self.reason = False, "stopping"
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._process is not None:
            await end(self._process, grace=stopping_seconds(self.spec.env))
        self.pid = None

    async def _keep_running(self) -> None:
        while True:
            started = time.monotonic()
            log_start = size(self._log)
            self._was_ready = False
            try:
                self._process = await start_bound(
                    self._command(self.spec),
                    env={**os.environ, **self.spec.settings},
                    state=self._state,
                    log=self._log,
                    parent_death=signal.SIGTERM,
                )
            except OSError as error:
                self.reason = f"cannot be started: {error.strerror}"
            else:
                self.pid = self._process.pid
                status = await self._watch(self._process)
                kill_group(self._process.pid)
                self.reason = f"{_describe(status)}: {last_words(self._log, log_start) or 'it said nothing'}"
            self.pid, self.ready = None, False
            self.failed_starts += not self._was_ready
            self.failures = 1 if time.monotonic() - started > _STEADY_SECONDS and self._was_ready else self.failures + 1
            await asyncio.sleep(min(_FIRST_PAUSE * 2 ** (self.failures - 1), _LONGEST_PAUSE))

    def _become_ready(self) -> None:
        self.ready = self.admitted = self._was_ready = True
        self.reason, self.failed_starts = "", 0

    async def _watch(self, process: asyncio.subprocess.Process) -> int:
        probing = asyncio.create_task(self._probe(process))
        try:
            return await process.wait()
        finally:
            probing.cancel()

    async def _probe(self, process: asyncio.subprocess.Process) -> None:
        """Follow the process's readiness; kill it if it answered before and now has not for a long time."""
        misses = 0
        answered: float | None = None
        while True:
            problem, silent = await asyncio.to_thread(_probe_ready, self.spec.backend.http_port)
            misses = misses + 1 if problem else 0
            answered = answered if silent else time.monotonic()
            if not problem:
                self._become_ready()
            elif not self.ready or misses >= _MISSES_UNTIL_UNREADY:
                self.ready = False
                # While the next process starts, why the last ones did not says more than silence.
                self.reason = self.reason if silent and self.failed_starts else problem
            if answered is not None and time.monotonic() - answered > _HUNG_SECONDS:
                kill_group(process.pid)
            await asyncio.sleep(_CHECK_SECONDS if self.ready else _POLL_SECONDS)


def _probe_ready(port: int) -> tuple[str, bool]:
    """Return why the server is not ready, empty if it is, and whether it gave no answer at all."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{READY_PATH}", timeout=_CHECK_TIMEOUT):
            return "", False
    except urllib.error.HTTPError as error:
        return f"not ready yet (HTTP status {error.code})", False
    except OSError:
        return "does not answer the readiness probe", True


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
