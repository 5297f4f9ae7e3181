"""Shows a run's tasks on the terminal as they start and end."""

from types import TracebackType
from typing import Self

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipelines.launcher import TaskEvent
from tidegate.cli.output import stderr


class TaskProgress:
    """One moving line for what runs now, and a lasting one for every task that has ended."""

    def __init__(self, title: str) -> None:
        """Show under `title`; a context manager."""
        self._title = title
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal)
        self._line = self._progress.add_task(f"{title}: starting")
        self._outage = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def task(self, event: TaskEvent) -> None:
        """Show that a task started or ended."""
        self._outage = ""
        self._progress.update(self._line, description=f"{self._title}: {event.task}")
        if event.state != "started":
            mark = "[green]✓[/green]" if event.state == "succeeded" else "[red]✗[/red]"
            self._progress.console.print(f"{mark} {event.task}  {event.seconds:.1f} s")

    def outage(self, reason: str) -> None:
        """Say that the connection is lost, once as long as the reason is the same."""
        if reason != self._outage:
            self._outage = reason
            self._progress.console.print(f"{reason}; the run goes on, asking again", soft_wrap=True, markup=False)
