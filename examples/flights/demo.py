"""The whole loop on real flights, on one machine: `python -m examples.flights.demo` (or `make demo`).

A model is trained on January to March 2013 and released; the following months are replayed as live traffic; a drift check
looks at every period; when the drift policy says so, the release pipeline runs again and its version goes out as a canary
under live traffic. Then a broken challenger shows what the judge is for. Nothing is synthetic and no outcome is scripted:
the dates on which things are looked at are fixed, what is found there is not.
"""

import argparse
import asyncio
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from examples.flights.collect import collect
from examples.flights.facts import Chapter, DemoRun, gather_story
from examples.flights.progress import DemoProgress
from examples.flights.replay import Replay, sample_flights
from pipelines.launcher import LocalLauncher, RunResult
from tidegate.clock import ReplayClock
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget
from tidegate.errors import TidegateError
from tidegate.features.repository import FeatureRepository
from tidegate.project import Project, load_project
from tidegate.release.record import ReleaseLedger
from tidegate.reporting.demo import print_story, render_demo
from tidegate.rollout.record import RolloutJournal
from tidegate.storage import open_store

PROJECT_FILE = Path("examples/flights/tidegate.yaml")
CHALLENGER_FILE = Path("examples/flights/challenger.yaml")

TRAINED_UNTIL = datetime(2013, 4, 1, 4, tzinfo=UTC)  # midnight in New York
REPLAYED_UNTIL = datetime(2013, 9, 1, 4, tzinfo=UTC)
GUARD_SHOWN_AT = datetime(2013, 8, 12, 4, tzinfo=UTC)
CHECKED_EVERY = timedelta(days=14)

GUARD_NOTE = (
    "It also reads how late the inbound aircraft landed last, which the offline store knows, so it is trained, packaged and "
    "passed by every offline gate. But the feature's view is not materialized online, so it can answer no live request."
)

_ROLLOUT_POLL_SECONDS = 0.2
_LOG_WRITE_SECONDS = 1.0  # the server writes what it logged this long after the rotation at the latest
_YEAR_END = datetime(2014, 1, 1, 5, tzinfo=UTC)


@dataclass(slots=True)
class Demo:
    """One run of the demo: its places, its clock, its traffic, and the chapters it has lived through."""

    project: Project
    share: float
    seed: int
    progress: DemoProgress
    chapters: list[Chapter] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def workspace(self) -> Path:
        """Where everything of the demo lies."""
        return self.project.paths.workspace

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one part of the demo and show it."""
        began = time.monotonic()
        with self.progress.phase(name):
            yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - began

    def prepare(self) -> tuple[pa.Table, FeatureRepository, ReplayClock]:
        """Collect the data, apply the feature repository, and set the clock to the end of the training window."""
        with self.phase("collect flights, weather, planes"):
            collect(self.workspace / "data")
            flights = pq.read_table(self.project.paths.entity_rows)
        with self.phase("apply the feature repository"):
            repository = FeatureRepository(self.project.paths.repository, self.workspace)
            repository.apply()
            repository.materialize(TRAINED_UNTIL)
        return flights, repository, ReplayClock.create(self.workspace / "clock", TRAINED_UNTIL)

    async def live(self, replay: Replay) -> None:
        """Release, replay, check, and renew, up to the end of the span."""
        await self.run_pipeline("release", replay, trigger="initial", reason="first release, on January to March")
        url = LocalTarget(self.workspace).status(self.project.name).url
        guard_pending = True
        next_check = TRAINED_UNTIL + CHECKED_EVERY
        while replay.now < REPLAYED_UNTIL:
            goal = min(next_check, REPLAYED_UNTIL, GUARD_SHOWN_AT if guard_pending else REPLAYED_UNTIL)
            with self.phase("replay"):
                await self.replay_to(replay, url, goal)
            if guard_pending and replay.now >= GUARD_SHOWN_AT:
                guard_pending = False
                await self.run_pipeline("release", replay, trigger="guard", reason="reads the inbound aircraft's last delay")
            if replay.now >= next_check:
                await asyncio.sleep(self.project.serving.log.rotate_seconds + _LOG_WRITE_SECONDS)
                await self.run_pipeline("drift", replay, trigger="drift")
                while next_check <= replay.now:
                    next_check += CHECKED_EVERY

    async def replay_to(self, replay: Replay, url: str, goal: datetime) -> None:
        """Replay up to `goal`, showing the date and what users see."""
        with self.progress.replaying(replay, goal):
            await replay.run(url, goal)

    async def run_pipeline(self, name: str, replay: Replay, *, trigger: str, reason: str = "") -> None:
        """Run a pipeline; time stands still while it prepares, and goes on with live traffic while a canary takes some."""
        launcher = LocalLauncher(self.workspace)
        project_file = CHALLENGER_FILE if trigger == "guard" else PROJECT_FILE
        arguments = {
            "project_file": str(project_file),
            "project_digest": load_project(project_file).digest,
            "clock": replay.clock_spec,
        }
        if reason:
            arguments["reason"] = reason
        known = {record.release_id for record in self.ledger().records()}
        before = replay.traffic.snapshot()
        title = f"{trigger}: {name} pipeline, {replay.now:%-d %B}"
        with self.phase(f"{name} pipeline"), self.progress.pipeline(title) as on_event:
            try:
                run = asyncio.ensure_future(asyncio.to_thread(launcher.run, name, arguments, on_event=on_event))
                while not run.done():
                    await self._serve_while_rolling_out(replay)
                    await asyncio.wait([run], timeout=_ROLLOUT_POLL_SECONDS)
                result: RunResult = run.result()
            finally:
                launcher.end_running()
        if not result.succeeded:
            raise TidegateError(f"the {name} pipeline failed: {result.cause}; the log is {result.log}")
        for record in self.ledger().records():
            if record.release_id not in known:
                after = replay.traffic.snapshot()
                chapter = Chapter(record.release_id, trigger, result.seconds, replay.now, before, after)
                self.chapters.append(chapter)
                self.progress.tell(record)

    async def _serve_while_rolling_out(self, replay: Replay) -> None:
        journal = RolloutJournal(open_store(self.project.store_uri), self.project.name)
        polled = 0.0

        def over() -> bool:
            nonlocal polled
            if time.monotonic() - polled < _ROLLOUT_POLL_SECONDS:
                return False
            polled = time.monotonic()
            current = journal.current()
            return current is None or current.finished or current.stable is None or current.in_force is None

        if not over():
            await replay.run(LocalTarget(self.workspace).status(self.project.name).url, _YEAR_END, stop=over)

    def finished(self, flights: pa.Table, replay: Replay, started_at: datetime, page: Path) -> DemoRun:
        """Return what the page is made from."""
        return DemoRun(
            project=self.project,
            flights=flights,
            replay=replay,
            replayed_from=TRAINED_UNTIL,
            eligible_rows=sample_flights(flights, share=1, seed=0, start=TRAINED_UNTIL, end=replay.now).num_rows,
            seed=self.seed,
            chapters=tuple(self.chapters),
            phases=self.phases,
            started_at=started_at,
            guard_note=GUARD_NOTE,
            page=page,
        )

    def ledger(self) -> ReleaseLedger:
        """Open the release records."""
        return ReleaseLedger(open_store(self.project.store_uri), self.project.name)


def main() -> None:
    """Run the demo and write its page; an expected failure is one line on stderr and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m examples.flights.demo", description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.3, help="share of the flights that are replayed (default: 0.3)")
    parser.add_argument("--seed", type=int, default=2013, help="seed of that sample (default: 2013)")
    parser.add_argument("--json", action="store_true", help="print the story as JSON instead of tables")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not 0 < options.share <= 1:
            raise TidegateError(f"--share {options.share} must lie above 0 and at most at 1")
        _run(options)
    except TidegateError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; everything that was started has been stopped\n")
        raise SystemExit(130) from None


def _run(options: argparse.Namespace) -> None:
    console = Console(stderr=options.json, highlight=False)
    project = load_project(PROJECT_FILE)
    workspace = project.paths.workspace
    with _only_demo(workspace), DemoProgress(console) as progress:
        stop_supervisor(workspace)
        _start_afresh(workspace)
        demo = Demo(project=project, share=options.share, seed=options.seed, progress=progress)
        started_at = datetime.now(UTC)
        flights, repository, clock = demo.prepare()
        sample = sample_flights(flights, share=demo.share, seed=demo.seed, start=TRAINED_UNTIL, end=_YEAR_END)
        replay = Replay(project, flights=sample, clock=clock, repository=repository, store=open_store(project.store_uri))
        try:
            start_supervisor(workspace)
            asyncio.run(demo.live(replay))
        finally:
            stop_supervisor(workspace)
        with demo.phase("compare the versions, write the page"):
            page = workspace / "demo" / "index.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            story = gather_story(demo.finished(flights, replay, started_at, page))
            page.write_text(render_demo(story), encoding="utf-8")
            (page.parent / "story.json").write_bytes(msgspec.json.format(msgspec.json.encode(story)))
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(story)).decode() + "\n")
    else:
        print_story(story, console)
        console.print(f"\nThe page: [bold]{page}[/bold]", soft_wrap=True)


@contextmanager
def _only_demo(workspace: Path) -> Iterator[None]:
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        lock: IO[str] = (workspace / "demo.lock").open("a+")
    except OSError as error:
        raise TidegateError(f"workspace {workspace}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise TidegateError(
                f"another demo runs in {workspace} (pid {lock.read().strip()}); wait for it or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _start_afresh(workspace: Path) -> None:
    for name in ("store", "local", "features", "runs", "clock", "demo"):
        path = workspace / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
