"""Brings one worker to the plan: opens what comes next beside what serves, lets it answer, and closes what has served.

All of that happens in a thread of its own, one thing after another; only the moment at which another version answers belongs
to the loop, and is one assignment there. So requests are answered all the time, each by the version it was given to.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from tidegate.errors import PackageError, ServingError, in_one_line
from tidegate.serving.events import emit
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.served import ServedModel
from tidegate.serving.repository.plan import Failure, PlanFolder, Report, Stamp, Version

_LOOK_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_IDLE_SECONDS = 0.005

OpenModel = Callable[[Version], ServedModel]
"""Opens a version and proves it on its golden sample; raises TidegateError."""


class Follower:
    """Follows the plan of a server in one of its workers."""

    def __init__(
        self,
        endpoint: Endpoint,
        folder: PlanFolder,
        worker: int,
        open_model: OpenModel,
        *,
        serving: Version | None,
        patience: float,
    ) -> None:
        """Follow `folder`'s plan.

        Args:
            endpoint: Where versions answer.
            folder: Where the plan is read, and reported on.
            worker: Which of the workers this is.
            open_model: Opens a version.
            serving: What `endpoint` answers with already.
            patience: Seconds that requests which a replaced version has begun may take before its log is closed.
        """
        self._endpoint = endpoint
        self._folder = folder
        self._worker = worker
        self._open_model = open_model
        self._serving = serving
        self._patience = patience
        self._opened: tuple[Version, ServedModel] | None = None
        self._seen: Stamp = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def start(self) -> None:
        """Begin, on the loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Let go of what was opened and does not answer; what does is left alone.

        An opening under way is waited for, but requests that a replaced version has begun only for so many seconds.
        """
        self._patience = min(self._patience, seconds)
        self._stopping.set()
        while self._thread.is_alive():
            await asyncio.sleep(0.01)

    def _follow(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            try:
                if self._look():
                    gc.collect()  # what was closed holds itself by its callbacks
            except Exception as error:  # whatever a store or a package brings about, the next plan is followed
                emit("plan not followed", level="error", worker=self._worker, error=in_one_line(error))
                self._stopping.wait(_RETRY_SECONDS)
        self._close_opened()

    def _look(self) -> bool:
        """Come to the plan; return whether there was a new one."""
        stamp = self._folder.stamp()
        if stamp is None or stamp == self._seen:
            return False
        plan = self._folder.plan()
        failure = None
        replaced: ServedModel | None = None
        try:
            replaced = self._serve(plan.serving)
            self._open(plan.next)
        except Exception as error:  # the thread must outlive whatever a package makes a library raise
            failure = _failure(error)
            emit("version not opened", level="error", worker=self._worker, generation=plan.generation, error=failure.message)
        self._folder.report(self._worker, Report(plan.generation, failure))
        self._seen = stamp
        if replaced is not None:
            self._retire(replaced)
        return True

    def _serve(self, version: Version | None) -> ServedModel | None:
        """Let a version answer, or none, and return what answered until then; None if nothing changes."""
        if version == self._serving:
            return None
        self._open(version)
        model = None if self._opened is None else self._opened[1]
        replaced = self._swap(model)
        self._serving, self._opened = version, None
        emit("version served", worker=self._worker, version=None if version is None else version.name)
        return replaced

    def _open(self, version: Version | None) -> None:
        """Have that version open, and no other, beside the one that answers."""
        if self._opened is not None and self._opened[0] != version:
            self._close_opened()
        if version is None or self._opened is not None:
            return
        begun = time.perf_counter()
        self._opened = version, self._open_model(version)
        emit("version opened", worker=self._worker, version=version.name, seconds=round(time.perf_counter() - begun, 3))

    def _close_opened(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened[1], None
            opened.close()

    def _swap(self, model: ServedModel | None) -> ServedModel | None:
        done: Future[ServedModel | None] = Future()
        self._loop.call_soon_threadsafe(lambda: done.set_result(self._endpoint.swap(model)))
        return done.result()

    def _retire(self, model: ServedModel) -> None:
        """Close what has served as soon as the requests that it was given are answered."""
        begun = time.monotonic()
        while not model.idle and time.monotonic() - begun < self._patience:
            time.sleep(_IDLE_SECONDS)
        model.close()
        emit("version closed", worker=self._worker, version=model.identity.version)


def _failure(error: Exception) -> Failure:
    """Return a conflict if the package is at fault, or does not fit this server; else that something is not available."""
    return Failure(409 if isinstance(error, PackageError | ServingError) else 503, in_one_line(error, most=2000))
