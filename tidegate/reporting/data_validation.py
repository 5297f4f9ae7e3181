"""The page of the data gate: what a training set holds, column by column, and which bounds it meets."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from tidegate.packaging.format.manifest import Verdict
from tidegate.reporting.formats import count, day, number, percent, plural
from tidegate.reporting.gates import verdict_table
from tidegate.reporting.page import Badge, Cell, Column, Details, Notice, Page, Section, Table, Tile, render_page
from tidegate.reporting.plots import mini_histogram

_BINS = 24
_TOP_VALUES = 12


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column of a training set. Numbers are of the values that are there; a NaN counts as missing.

    `histogram` counts rows in equal bins between the 0.5 % and 99.5 % quantiles (values beyond lie in the end bins), or, for
    text, rows of the most frequent values.
    """

    name: str
    dtype: str
    missing_share: float
    distinct: int
    minimum: str
    mean: str
    maximum: str
    histogram: tuple[int, ...]
    frequent: str = ""  # the most frequent values of a text column


@dataclass(frozen=True, slots=True)
class Profile:
    """A training set at a glance."""

    rows: int
    columns: tuple[ColumnProfile, ...]


def profile_of(table: pa.Table) -> Profile:
    """Profile every column of a training set."""
    return Profile(table.num_rows, tuple(_profile_column(name, table[name]) for name in table.column_names))


def render_data_validation(verdicts: Sequence[Verdict], profile: Profile) -> str:
    """Return the page of the data gate: its verdicts, failed ones first, and the profile of every column."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    outcome = Badge("fail", f"{plural(len(failed), 'check')} failed") if failed else Badge("pass", "data gate passed")
    return render_page(
        Page(
            title="Data validation",
            subtitle="What the training set must satisfy before anything is trained on it, with the number behind every check.",
            badge=outcome if verdicts else Badge("warn", "no check was made"),
            tiles=_tiles(profile, verdicts, failed),
            sections=(_gate_section(verdicts, failed), Section("Columns", (_column_table(profile),))),
        )
    )


def _tiles(profile: Profile, verdicts: Sequence[Verdict], failed: Sequence[Verdict]) -> tuple[Tile, ...]:
    gappy = max(profile.columns, key=lambda column: column.missing_share, default=None)
    return (
        Tile("Rows", count(profile.rows)),
        Tile("Columns", count(len(profile.columns))),
        Tile("Checks passed", f"{len(verdicts) - len(failed)} of {len(verdicts)}", status="fail" if failed else "pass"),
        Tile("Most missing", percent(gappy.missing_share), gappy.name) if gappy else Tile("Most missing", "n/a"),
    )


def _gate_section(verdicts: Sequence[Verdict], failed: Sequence[Verdict]) -> Section:
    if not verdicts:
        return Section("Gate", (Notice("No check was made, so nothing vouches for this training set.", "warn"),))
    if failed:
        passed = [verdict for verdict in verdicts if verdict.passed]
        folded = Details(f"{plural(len(passed), 'check')} passed", (verdict_table(passed),))
        return Section("Gate", (verdict_table(failed), folded), "The release stops here: these numbers missed their bounds.")
    return Section("Gate", (verdict_table(verdicts),), "Every number met its bound.")


def _column_table(profile: Profile) -> Table:
    columns = (
        Column("Column"), Column("Type"), Column("Missing", numeric=True), Column("Distinct", numeric=True),
        Column("Minimum", numeric=True), Column("Mean", numeric=True), Column("Maximum", numeric=True), Column("Distribution"),
    )  # fmt: skip
    return Table(columns, [_column_row(column) for column in profile.columns])


def _column_row(column: ColumnProfile) -> tuple[Cell, ...]:
    drawing = mini_histogram(column.histogram, f"distribution of {column.name}") if column.histogram else Markup("")
    if column.frequent:
        drawing += Markup('<small class="absent">{}</small>').format(column.frequent)
    missing = percent(column.missing_share) if column.missing_share else "0"
    return (column.name, column.dtype, missing, column.distinct, column.minimum, column.mean, column.maximum, drawing)


def _profile_column(name: str, column: pa.ChunkedArray) -> ColumnProfile:
    rows = len(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    known = column.filter(pc.is_valid(column))
    if pa.types.is_floating(column.type):
        known = known.filter(pc.invert(pc.is_nan(known)))
    missing = 1 - len(known) / rows if rows else 0.0
    distinct = pc.count_distinct(known).as_py()
    shape = (name, str(column.type), missing, distinct)
    if not len(known):
        return ColumnProfile(*shape, "n/a", "n/a", "n/a", ())
    if pa.types.is_timestamp(column.type):
        ends = pc.min_max(known).as_py()
        return ColumnProfile(*shape, day(ends["min"]), "", day(ends["max"]), _histogram(known.cast(pa.int64())))
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        values = known.cast(pa.float64())
        ends = pc.min_max(values).as_py()
        mean = number(pc.mean(values).as_py())
        return ColumnProfile(*shape, number(ends["min"]), mean, number(ends["max"]), _histogram(values))
    return _profile_text(shape, known)


def _profile_text(shape: tuple[str, str, float, int], known: pa.ChunkedArray) -> ColumnProfile:
    counted = pc.value_counts(known)
    frequencies = Counter({str(entry["values"]): int(entry["counts"].as_py()) for entry in counted})
    top = frequencies.most_common(_TOP_VALUES)
    if len(top) > 1 and top[0][1] == 1:  # an identifier: every bar would be one row high
        return ColumnProfile(*shape, "", "", "", (), "every value is unique")
    words = ", ".join(value if len(value) <= 16 else f"{value[:15]}…" for value, _ in top[:3])
    return ColumnProfile(*shape, "", "", "", tuple(rows for _, rows in top), words)


def _histogram(values: pa.ChunkedArray) -> tuple[int, ...]:
    numbers = np.asarray(values.to_numpy(), dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return ()
    low, high = np.quantile(numbers, (0.005, 0.995))
    counts, _ = np.histogram(np.clip(numbers, low, high), bins=_BINS if high > low else 1)
    return tuple(int(amount) for amount in counts)
