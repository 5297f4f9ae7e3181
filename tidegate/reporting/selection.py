"""The page of a selection: which variants were built, which gates each met, how fast and how good each is, and which won."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tidegate.packaging.manifest import BenchmarkRow, Verdict
from tidegate.reporting.formats import fixed, number, plural, size
from tidegate.reporting.gates import verdict_table
from tidegate.reporting.page import (
    Badge,
    Block,
    Cell,
    Column,
    Details,
    Figure,
    Notice,
    Page,
    Section,
    Status,
    Table,
    Tile,
    render_page,
)
from tidegate.reporting.plots import LatencyRow, Outcome, ParetoPoint, latency_percentiles, pareto

_STATUS: Mapping[str, Status] = {"passed": "pass", "failed": "fail", "not-applicable": "none"}


def render_selection(selection: Mapping[str, Any]) -> str:
    """Return the page of `selection.json`: the winner, every variant beside it, and why each of the others lost.

    Args:
        selection: `winner` (a name or None) and `rows`, each with `name`, `status` (passed, failed or not-applicable),
            `reason`, `auc`, `size`, `verdicts` and `benchmark`. What a row lacks is shown as absent.
    """
    rows: Sequence[Mapping[str, Any]] = selection["rows"]
    winner: str | None = selection.get("winner")
    return render_page(
        Page(
            title=f"Selected: {winner}" if winner else "No variant was selected",
            subtitle="Every variant is held to the same gates: parity with its source model, accuracy on the holdout, and "
            "speed measured in interleaved rounds. Among the survivors the fastest within the accepted loss wins.",
            badge=Badge("pass", "selection gate passed") if winner else Badge("fail", "no variant passed every gate"),
            tiles=_tiles(rows, winner),
            sections=(
                Section("Variants side by side", _comparison(rows, winner)),
                Section("Accuracy against latency", _front(rows, winner), "Up and to the left is better."),
                Section("Benchmark", _benchmark(rows, winner)),
                Section("Every check", tuple(_checks(row) for row in rows)),
            ),
        )
    )


def _tiles(rows: Sequence[Mapping[str, Any]], winner: str | None) -> tuple[Tile, ...]:
    best = next((row for row in rows if row["name"] == winner), None)
    passed = sum(row["status"] == "passed" for row in rows)
    tiles = [Tile("Variants", str(len(rows)), f"{passed} passed every gate", "pass" if passed else "fail")]
    if best is not None:
        single = _single_row(best)
        tiles += [
            Tile("ROC AUC", fixed((best.get("accuracy") or {}).get("value"), 4), "on the holdout"),
            Tile("p99, one row", _microseconds(single.p99_us if single else None), "of the selected variant"),
            Tile("Size", size((best.get("footprint") or {}).get("size_bytes")), "of the selected model.onnx"),
        ]
    return tuple(tiles)


def _comparison(rows: Sequence[Mapping[str, Any]], winner: str | None) -> tuple[Block, ...]:
    if not rows:
        return (Notice("No variant was built.", "warn"),)
    columns = (
        Column("Variant"), Column("Outcome"), Column("Parity, max. difference", numeric=True), Column("ROC AUC", numeric=True),
        Column("p50", numeric=True), Column("p99", numeric=True), Column("Size", numeric=True), Column("Why"),
    )  # fmt: skip
    chosen = frozenset(index for index, row in enumerate(rows) if row["name"] == winner)
    return (Table(columns, [_comparison_row(row, winner) for row in rows], emphasized=chosen),)


def _comparison_row(row: Mapping[str, Any], winner: str | None) -> tuple[Cell, ...]:
    single = _single_row(row)
    parity = next((verdict.value for verdict in _verdicts(row) if verdict.gate == "parity" and verdict.value is not None), None)
    outcome = Badge("pass", "selected") if row["name"] == winner else Badge(_STATUS[row["status"]], row["status"])
    return (
        row["name"],
        outcome,
        number(parity, 3),
        _with_interval(row),
        _microseconds(single.p50_us if single else None),
        _microseconds(single.p99_us if single else None),
        size((row.get("footprint") or {}).get("size_bytes")),
        row.get("reason", ""),
    )


def _with_interval(row: Mapping[str, Any]) -> str:
    found = row.get("accuracy") or {}
    low, high = found.get("low"), found.get("high")
    interval = f" [{fixed(low, 4)}, {fixed(high, 4)}]" if low is not None and high is not None else ""
    return fixed(found.get("value"), 4) + interval


def _front(rows: Sequence[Mapping[str, Any]], winner: str | None) -> tuple[Block, ...]:
    points = []
    for row in rows:
        single = _single_row(row)
        if single is not None and row.get("accuracy"):
            outcome: Outcome = "selected" if row["name"] == winner else "survived" if row["status"] == "passed" else "failed"
            points.append(ParetoPoint(row["name"], single.p99_us / 1000, row["accuracy"]["value"], outcome))
    if not points:
        return (Notice("No variant reached the benchmark, so there is nothing to compare.", "warn"),)
    return (Figure(pareto(points, width=1000)),)


def _benchmark(rows: Sequence[Mapping[str, Any]], winner: str | None) -> tuple[Block, ...]:
    measured = [(row["name"], entry) for row in rows for entry in _benchmark_rows(row)]
    if not measured:
        return (Notice("No benchmark was run: no variant passed parity and accuracy.", "warn"),)
    columns = (
        Column("Variant"), Column("Rows a call", numeric=True), Column("p50", numeric=True), Column("p95", numeric=True),
        Column("p99", numeric=True), Column("Rows per second", numeric=True), Column("p50 against baseline", numeric=True),
    )  # fmt: skip
    table = Table(
        columns,
        [
            (
                name,
                entry.batch,
                _microseconds(entry.p50_us),
                _microseconds(entry.p95_us),
                _microseconds(entry.p99_us),
                f"{entry.rows_per_second:,.0f}",
                f"× {entry.ratio:.2f} [{entry.ratio_low:.2f}, {entry.ratio_high:.2f}]",  # noqa: RUF001
            )
            for name, entry in measured
        ],
        emphasized=frozenset(index for index, (name, _) in enumerate(measured) if name == winner),
    )
    single = [
        LatencyRow(name, entry.p50_us / 1000, entry.p95_us / 1000, entry.p99_us / 1000)
        for name, entry in measured
        if entry.batch == 1
    ]
    return (Figure(latency_percentiles(single, width=1000), "One row a call"), table) if single else (table,)


def _checks(row: Mapping[str, Any]) -> Block:
    verdicts = _verdicts(row)
    if not verdicts:
        return Details(f"{row['name']}: no check was made", (Notice(row.get("reason") or "It was not built.", "none"),))
    failed = sum(not verdict.passed for verdict in verdicts)
    return Details(
        f"{row['name']}: {plural(len(verdicts), 'check')}, {failed} failed"
        if failed
        else f"{row['name']}: all {len(verdicts)} passed",
        (verdict_table(verdicts),),
    )


def _verdicts(row: Mapping[str, Any]) -> tuple[Verdict, ...]:
    return msgspec.convert(row.get("verdicts", ()), tuple[Verdict, ...])


def _benchmark_rows(row: Mapping[str, Any]) -> tuple[BenchmarkRow, ...]:
    return msgspec.convert(row.get("benchmark", ()), tuple[BenchmarkRow, ...])


def _single_row(row: Mapping[str, Any]) -> BenchmarkRow | None:
    return next((entry for entry in _benchmark_rows(row) if entry.batch == 1), None)


def _microseconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f} µs" if value < 10_000 else f"{value / 1000:,.1f} ms"
