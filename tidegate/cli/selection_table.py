"""A selection on the terminal: the variants' numbers, as many as there is room for, and why each won or lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.measure import measure_renderables
from rich.table import Table
from rich.text import Text

from tidegate.optimization.records import Selection, SelectionRow

_ANY = 10_000  # characters: wider than any table, to learn how wide it would be
_COLOURS = {"passed": "green", "failed": "red", "not-applicable": "dim"}


def render_rows(console: Console, selection: Selection) -> None:
    """Print every variant: its numbers if it was measured, then the reason it won or lost."""
    console.print(_table(console, selection))
    console.print()
    _render_reasons(console, selection.rows)


def _render_reasons(console: Console, rows: Sequence[SelectionRow]) -> None:
    """Say why each won or lost: on a terminal beside its name, else a line each, for programs that read lines."""
    reasons = Table.grid(padding=(0, 2))
    reasons.add_column(no_wrap=True)
    reasons.add_column(overflow="fold")
    for row in rows:
        reason = "; ".join(part for part in (row.reason, row.note) if part)
        style = "dim" if row.status == "not-applicable" else ""
        if console.is_terminal:
            reasons.add_row(Text(row.name), Text(reason), style=style)
        else:
            console.print(f"{row.name}: {reason}", soft_wrap=True, markup=False, style=style)
    if console.is_terminal:
        console.print(reasons)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of numbers."""

    title: str
    cell: Callable[[SelectionRow], str]
    rank: int  # where the terminal is narrow, the column of the highest rank goes first


def _table(console: Console, selection: Selection) -> Table:
    """Return as many columns as the terminal has room for; what is left out stands in the report."""
    columns = _columns(selection)
    table = _table_of(columns, selection)
    while columns and measure_renderables(console, console.options.update(width=_ANY), [table]).maximum > console.width:
        columns.remove(max(columns, key=lambda column: column.rank))
        table = _table_of(columns, selection)
    return table


def _table_of(columns: Sequence[_Column], selection: Selection) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in selection.rows:
        if row.status != "not-applicable":
            outcome = "selected" if row.name == selection.winner else row.status
            cells = (column.cell(row) for column in columns)
            table.add_row(escape(row.name), f"[{_COLOURS[row.status]}]{outcome}[/]", *cells)
    return table


def _columns(selection: Selection) -> list[_Column]:
    metric = next((row.accuracy.metric for row in selection.rows if row.accuracy is not None), None)
    accuracy = [_Column(metric, lambda row: _form(getattr(row.accuracy, "value", None), 1, ".4f"), 1)] if metric else []
    return [
        _Column("parity", lambda row: _form(_largest_error(row), 1, ".1e"), 2),
        *accuracy,
        _Column("p50 µs", lambda row: _form(_speed(row, "p50_us"), 1, ".1f"), 0),
        _Column("p99 µs", lambda row: _form(_speed(row, "p99_us"), 1, ".1f"), 3),
        _Column("p50 ratio", lambda row: _form(_speed(row, "ratio"), 1, ".2f"), 6),
        _Column("rows/s", lambda row: _form(max((each.rows_per_second for each in row.benchmark), default=None), 1, ",.0f"), 4),
        _Column("load s", lambda row: _form(_footprint(row, "load_seconds"), 1, ".3f"), 9),
        _Column("MB", lambda row: _form(_footprint(row, "memory_bytes"), 1e6, ".1f"), 7),
        _Column("kB", lambda row: _form(_footprint(row, "size_bytes"), 1e3, ",.0f"), 5),
        _Column("cost", lambda row: _form(_footprint(row, "cost_per_million"), 1, ".2g"), 8),
    ]


def _largest_error(row: SelectionRow) -> float | None:
    return max((parity.max_absolute for parity in row.parity if parity.max_absolute is not None), default=None)


def _speed(row: SelectionRow, field: str) -> float | None:
    return getattr(row.speed(), field, None)


def _footprint(row: SelectionRow, field: str) -> float | None:
    return getattr(row.footprint, field, None)


def _form(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)
