"""Bars on the terminal that show how far a search is; where there is no terminal, nothing."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """One bar a stage; the last one's step is named beside it."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        """Draw on `console`, unless `quiet` or it is no terminal."""
        columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, TextColumn("[dim]{task.fields[step]}"), console=console, disable=quiet or not console.is_terminal
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Begin drawing."""
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def stage(self, title: str, steps: int) -> None:
        """Begin a bar."""
        self._task = self._progress.add_task(title, total=steps, step="")

    def step(self, name: str) -> None:
        """Move it on."""
        if self._task is not None:
            self._progress.update(self._task, advance=1, step=name)
