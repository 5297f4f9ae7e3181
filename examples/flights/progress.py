"""What the demo shows while it runs: phases, pipeline steps as they end, and the replayed date with its traffic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from examples.flights.replay import Replay
from pipelines.launcher import TaskEvent
from tidegate.release.record import ReleaseRecord

_REFRESH_HERTZ = 4


class DemoProgress:
    """A live line at the bottom, and a lasting line for everything that ended."""

    def __init__(self, console: Console) -> None:
        """Show on `console`; without a terminal only the lasting lines are printed."""
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=_REFRESH_HERTZ,
        )

    def __enter__(self) -> "DemoProgress":
        """Start showing."""
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop showing."""
        self._progress.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Show a phase while it lasts."""
        task = self._progress.add_task(name, total=None, note="")
        try:
            yield
        finally:
            self._progress.remove_task(task)

    @contextmanager
    def pipeline(self, title: str) -> Iterator[Callable[[TaskEvent], None]]:
        """Show a pipeline run; yields what to call with its events."""
        self._console.print(f"[bold]{title}[/bold]")
        task = self._progress.add_task(title, total=None, note="")

        def on_event(event: TaskEvent) -> None:
            if event.state == "started":
                self._progress.update(task, note=event.task)
                return
            mark = "[green]✓[/green]" if event.state == "succeeded" else "[red]✗[/red]"
            self._console.print(f"  {mark} {event.task} [dim]{event.seconds:.1f} s[/dim]")

        try:
            yield on_event
        finally:
            self._progress.remove_task(task)

    @contextmanager
    def replaying(self, replay: Replay, goal: datetime) -> Iterator[None]:
        """Show the replayed date and the traffic while a stretch of the replay lasts."""
        start, total = replay.now, (goal - replay.now).total_seconds()
        task = self._progress.add_task("replay", total=total, note="")

        def show() -> None:
            traffic = replay.traffic
            rate = traffic.requests / traffic.seconds if traffic.seconds else 0.0
            note = f"{replay.now:%a %-d %b %H:%M}  {traffic.requests:,} requests  {rate:,.0f}/s  {traffic.failures} failed"
            self._progress.update(task, completed=(replay.now - start).total_seconds(), note=note)

        replay.on_hour = show
        try:
            yield
        finally:
            replay.on_hour = None
            self._progress.remove_task(task)
        traffic = replay.traffic
        self._console.print(
            f"replayed {start:%-d %b} to {replay.now:%-d %b}: {traffic.requests:,} requests so far, {traffic.failures} failed"
        )

    def tell(self, record: ReleaseRecord) -> None:
        """Say how a release ended."""
        colour = {"promoted": "green", "rolled_back": "yellow", "stopped": "yellow"}.get(record.state, "red")
        version = f"version {record.version} " if record.version else ""
        detail = f": {record.stopped_by}" if record.stopped_by else ""
        self._console.print(f"  [{colour}]{version}{record.state.replace('_', ' ')}[/{colour}]{detail}")
