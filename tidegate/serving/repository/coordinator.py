"""Loads and unloads versions in all workers of a server: whoever is asked leads, one at a time, and the others follow.

Before a version answers anywhere, every worker has it open and proved on its golden sample; if one cannot, none lets it
answer. Leading waits for a store and for other processes, so that each request for it has a thread of its own.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from tidegate.errors import in_one_line
from tidegate.serving.internal_errors import internal_error
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.repository.control import IndexReply, LoadReply, ModelState
from tidegate.serving.repository.packages import PackageSource
from tidegate.serving.repository.plan import Plan, PlanFolder, Version

MOST_WAITING = 8
_LOOK_SECONDS = 0.01
_OPEN_SECONDS = 300.0
_SWAP_SECONDS = 60.0

Answer = TypeVar("Answer")


class Coordinator:
    """A server's model repository, as one of its workers offers it."""

    def __init__(self, name: str, source: PackageSource, folder: PlanFolder, workers: int) -> None:
        """Lead the workers.

        Args:
            name: What the model is called in requests.
            source: Where its versions are.
            folder: Holds the plan that all workers follow.
            workers: How many there are.
        """
        self._name = name
        self._source = source
        self._folder = folder
        self._workers = range(workers)
        self._stopping = threading.Event()
        self._threads: set[threading.Thread] = set()

    def index(self, *, ready_only: bool, reply: IndexReply) -> None:
        """List the repository's versions, or only the one that answers; see `RepositoryControl`."""
        self._start(lambda: self._index(ready_only=ready_only), reply)

    def load(self, name: str, parameters: Mapping[str, Any], reply: LoadReply) -> None:
        """Let a version answer in every worker; see `RepositoryControl`."""
        self._start(lambda: self._load(name, parameters), reply)

    def unload(self, name: str, reply: LoadReply) -> None:
        """Let no version answer; see `RepositoryControl`."""
        self._start(lambda: self._unload(name), reply)

    async def stop(self, seconds: float) -> None:
        """Refuse what is not done yet, and wait at most so long for its threads: a store may never answer."""
        self._stopping.set()
        deadline = time.monotonic() + seconds
        while self._threads and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def _start(self, work: Callable[[], Answer], reply: Callable[[Answer | RequestError], None]) -> None:
        if len(self._threads) >= MOST_WAITING:
            reply(RequestError(429, f"{MOST_WAITING} requests to the model repository are under way; try again later"))
            return
        loop = asyncio.get_running_loop()

        def run() -> None:
            answer: Answer | RequestError
            try:
                answer = work()
            except RequestError as error:
                answer = error
            except OSError as error:
                answer = RequestError(503, f"the model repository cannot be used: {in_one_line(error)}")
            except Exception as error:  # whoever asked is told in any case
                answer = internal_error(error)
            with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
                loop.call_soon_threadsafe(finish, answer)

        def finish(answer: Answer | RequestError) -> None:
            self._threads.discard(thread)
            reply(answer)

        thread = threading.Thread(target=run, name="coordinator", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _index(self, *, ready_only: bool) -> list[ModelState]:
        plan = self._folder.plan()
        states = []
        serving = plan.serving
        if serving is not None:
            states.append(ModelState(self._name, serving.name, "READY"))
        if ready_only:
            return states
        for found in self._source.versions():
            if serving is not None and found.digest == serving.digest:
                continue
            name = str(found.version)
            if plan.next is not None and found.digest == plan.next.digest:
                states.append(ModelState(self._name, name, "LOADING", "is being opened"))
            else:
                states.append(ModelState(self._name, name, "UNAVAILABLE", "is not loaded"))
        return states

    def _load(self, name: str, parameters: Mapping[str, Any]) -> str:
        self._check_name(name)
        number = self._source.number(parameters)
        with self._turn():
            digest = self._source.digest(number)
            plan = self._folder.plan()
            if plan.serving is not None and plan.serving.name == str(number):
                if plan.serving.digest == digest:
                    return str(number)
                raise RequestError(
                    409,
                    f"version {number} is what this server calls the package that it was started with, which is another than "
                    f"the registry's version {number}; start it with --version as the registry numbers it, or load another one",
                )
            version = self._source.fetch(number, digest, plan.generation + 1)
            try:
                self._open_everywhere(plan, version)
                self._serve_everywhere(version)
            finally:
                self._source.remove_all_but(self._folder.plan().serving)
        return str(number)

    def _unload(self, name: str) -> str:
        self._check_name(name)
        with self._turn():
            serving = self._folder.plan().serving
            if serving is not None:
                self._serve_everywhere(None)
                self._source.remove_all_but(None)
        return "" if serving is None else serving.name

    def _check_name(self, name: str) -> None:
        if name != self._name:
            raise RequestError(404, f"unknown model {name[:80]!r}; this server serves {self._name!r}")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        while True:
            with self._folder.turn() as mine:
                if mine:
                    yield
                    return
            self._check_not_stopping()
            time.sleep(_LOOK_SECONDS)

    def _open_everywhere(self, plan: Plan, version: Version) -> None:
        """Have every worker open a version beside the one that answers, or leave all of them as they are."""
        opening = Plan(plan.generation + 1, plan.serving, next=version)
        self._folder.write(opening)
        try:
            self._wait_for(opening.generation, _OPEN_SECONDS)
        except RequestError:
            self._folder.write(Plan(plan.generation + 2, plan.serving))
            raise

    def _serve_everywhere(self, version: Version | None) -> None:
        """Let every worker answer with a version that it has open; from here on there is no way back but another load."""
        serving = Plan(self._folder.plan().generation + 1, version)
        self._folder.write(serving)
        self._wait_for(serving.generation, _SWAP_SECONDS)

    def _wait_for(self, generation: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        awaited = set(self._workers)
        while True:
            for worker in tuple(awaited):
                report = self._folder.reported(worker)
                if report is None or report.generation < generation:
                    continue
                if report.failure is not None:
                    raise RequestError(report.failure.status, report.failure.message)
                awaited.discard(worker)
            if not awaited:
                return
            self._check_not_stopping()
            if time.monotonic() > deadline:
                late = ", ".join(map(str, sorted(awaited)))
                raise RequestError(504, f"worker {late} has not followed within {seconds:g} s; ask the index what answers now")
            time.sleep(_LOOK_SECONDS)

    def _check_not_stopping(self) -> None:
        if self._stopping.is_set():
            raise RequestError(503, "the server is stopping; ask another one")
