"""The page of a selection: which variants were built, which gates each met, how fast and how good each is, and which won."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tidegate.optimization.records import Objective, Selection, SelectionRow
from tidegate.packaging.format.manifest import BenchmarkRow
from tidegate.reporting.formats import duration, fixed, number, plural, size
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
from tidegate.reporting.pareto import Outcome, ParetoAxes, ParetoPoint, pareto
from tidegate.reporting.plots import LatencyRow, latency_percentiles

_STATUS: Mapping[str, Status] = {"passed": "pass", "failed": "fail", "not-applicable": "none"}
_METRICS = {"roc_auc": "ROC AUC", "accuracy": "Accuracy", "log_loss": "Log loss", "rmse": "RMSE", "mae": "MAE"}
_FALLING = frozenset({"log_loss", "rmse", "mae"})
_ASKED: Mapping[Objective, str] = {
    "latency": "the shortest time of one row",
    "throughput": "the most rows a second in full batches",
    "cost": "the lowest price of a million rows",
    "size": "the smallest graph",
}


def render_selection(selection: Selection) -> str:
    """Return the page of a selection: the winner, every variant beside it, and why each of the others lost."""
    rows, winner = selection.rows, selection.winner
    return render_page(
        Page(
            title=f"Selected: {winner}" if winner else "No variant was selected",
            subtitle="Every variant is held to the same gates: parity with its source model, accuracy on the holdout, and "
            f"speed measured in interleaved rounds. Of the survivors the one with {_ASKED[selection.objective]} wins; "
            "within noise the simplest.",
            badge=Badge("pass", "selection gate passed") if winner else Badge("fail", "no variant passed every gate"),
            tiles=_tiles(rows, winner),
            sections=(
                Section("Variants side by side", _comparison(rows, winner)),
                Section("What is beaten by none", _front(selection), "Up and to the left is better."),
                Section("Benchmark", _benchmark(rows, winner)),
                Section("Every check", tuple(_checks(row) for row in rows)),
            ),
        )
    )


def _tiles(rows: Sequence[SelectionRow], winner: str | None) -> tuple[Tile, ...]:
    best = next((row for row in rows if row.name == winner), None)
    passed = sum(row.status == "passed" for row in rows)
    tiles = [Tile("Variants", str(len(rows)), f"{passed} passed every gate", "pass" if passed else "fail")]
    if best is None:
        return tuple(tiles)
    single = best.speed()
    if best.accuracy is not None:
        tiles.append(Tile(_metric_name(best.accuracy.metric), fixed(best.accuracy.value, 4), "on the holdout"))
    tiles.append(Tile("p99, one row", _microseconds(single.p99_us if single else None), "of the selected variant"))
    if best.benchmark:
        tiles.append(Tile("Rows per second", f"{_rows_per_second(best):,.0f}", "at its best load"))
    tiles.append(Tile("Size", size(best.footprint.size_bytes if best.footprint else None), "of the selected model.onnx"))
    return tuple(tiles)


def _comparison(rows: Sequence[SelectionRow], winner: str | None) -> tuple[Block, ...]:
    if not rows:
        return (Notice("No variant was built.", "warn"),)
    judged = [row for row in rows if row.footprint is not None]
    columns = (
        Column("Variant"), Column("Largest difference", numeric=True), Column(_judged_by(rows), numeric=True),
        Column("p50", numeric=True), Column("p99", numeric=True), Column("Rows a second", numeric=True),
        Column("Load", numeric=True), Column("Memory", numeric=True), Column("Size", numeric=True),
        Column("A million rows", numeric=True),
    )  # fmt: skip
    numbers = Table(
        columns,
        [_numbers(row) for row in judged],
        "Times are of one row a call; rows a second at the best load.",
        _of(judged, winner),
    )
    reasons = Table(
        (Column("Variant"), Column("Outcome"), Column("Why")),
        [(row.name, _outcome(row, winner), "; ".join(part for part in (row.reason, row.note) if part)) for row in rows],
        emphasized=_of(rows, winner),
    )
    return (numbers, reasons) if judged else (reasons,)


def _numbers(row: SelectionRow) -> tuple[Cell, ...]:
    single, footprint = row.speed(), row.footprint
    errors = [parity.max_absolute for parity in row.parity if parity.max_absolute is not None]
    return (
        row.name,
        number(max(errors, default=None), 3),
        _with_interval(row),
        _microseconds(single.p50_us if single else None),
        _microseconds(single.p99_us if single else None),
        f"{_rows_per_second(row):,.0f}" if row.benchmark else None,
        _load(footprint.load_seconds if footprint else None),
        size(footprint.memory_bytes if footprint else None),
        size(footprint.size_bytes if footprint else None),
        number(footprint.cost_per_million if footprint else None, 2),
    )


def _of(rows: Sequence[SelectionRow], winner: str | None) -> frozenset[int]:
    return frozenset(index for index, row in enumerate(rows) if row.name == winner)


def _outcome(row: SelectionRow, winner: str | None) -> Badge:
    return Badge("pass", "selected") if row.name == winner else Badge(_STATUS[row.status], row.status.replace("-", " "))


def _with_interval(row: SelectionRow) -> str | None:
    found = row.accuracy
    return None if found is None else f"{fixed(found.value, 4)} ± {fixed((found.high - found.low) / 2, 4)}"


@dataclass(frozen=True, slots=True)
class _Cost:
    """What the objective asks for, as the plot shows it."""

    name: str
    of: Callable[[SelectionRow], float | None]


def _front(selection: Selection) -> tuple[Block, ...]:
    metric = next((row.accuracy.metric for row in selection.rows if row.accuracy is not None), None)
    cost = _COSTS[selection.objective]
    points = []
    for row in selection.rows:
        price, quality = cost.of(row), _quality(row, judged=metric is not None)
        if price and quality is not None:
            outcome: Outcome = (
                "selected" if row.name == selection.winner else "survived" if row.status == "passed" else "failed"
            )
            points.append(ParetoPoint(row.name, price, quality, outcome))
    if not points:
        return (Notice("No variant reached the benchmark, so there is nothing to compare.", "warn"),)
    axes = (
        ParetoAxes(cost.name, f"{_metric_name(metric)} on the holdout", higher_is_better=metric not in _FALLING)
        if metric
        else ParetoAxes(cost.name, "largest difference from the source model", higher_is_better=False)
    )
    return (Figure(pareto(points, axes, width=1000)),)


def _quality(row: SelectionRow, *, judged: bool) -> float | None:
    if judged:
        return row.accuracy.value if row.accuracy else None
    return max((parity.max_absolute for parity in row.parity if parity.max_absolute is not None), default=None)


def _one_row(row: SelectionRow) -> float | None:
    single = row.speed()
    return single.p50_us / 1000 if single else None


def _time_per_row(row: SelectionRow) -> float | None:
    busiest = max(row.benchmark, key=lambda entry: (entry.batch, entry.concurrency), default=None)
    return 1e6 / busiest.rows_per_second if busiest else None


def _price(row: SelectionRow) -> float | None:
    return row.footprint.cost_per_million if row.footprint else None


def _kilobytes(row: SelectionRow) -> float | None:
    return row.footprint.size_bytes / 1000 if row.footprint and row.benchmark else None


_COSTS: Mapping[Objective, _Cost] = {
    "latency": _Cost("p50 latency of one row, ms", _one_row),
    "throughput": _Cost("time per row of full batches, µs", _time_per_row),
    "cost": _Cost("price of a million rows", _price),
    "size": _Cost("size of the graph, kB", _kilobytes),
}


def _benchmark(rows: Sequence[SelectionRow], winner: str | None) -> tuple[Block, ...]:
    measured = [(row.name, entry) for row in rows for entry in row.benchmark]
    if not measured:
        return (Notice("No benchmark was run: no variant passed parity and accuracy.", "warn"),)
    columns = (
        Column("Variant"), Column("Rows a call", numeric=True), Column("Callers", numeric=True), Column("p50", numeric=True),
        Column("p95", numeric=True), Column("p99", numeric=True), Column("Rows per second", numeric=True),
        Column("p50 against baseline", numeric=True),
    )  # fmt: skip
    table = Table(
        columns,
        [_benchmark_row(name, entry) for name, entry in measured],
        emphasized=frozenset(index for index, (name, _) in enumerate(measured) if name == winner),
    )
    single = [
        LatencyRow(name, entry.p50_us / 1000, entry.p95_us / 1000, entry.p99_us / 1000)
        for name, entry in measured
        if (entry.batch, entry.concurrency) == (1, 1)
    ]
    return (Figure(latency_percentiles(single, width=1000), "One row a call, one caller"), table) if single else (table,)


def _benchmark_row(name: str, entry: BenchmarkRow) -> tuple[Cell, ...]:
    return (
        name,
        entry.batch,
        entry.concurrency,
        _microseconds(entry.p50_us),
        _microseconds(entry.p95_us),
        _microseconds(entry.p99_us),
        f"{entry.rows_per_second:,.0f}",
        f"× {entry.ratio:.2f} [{entry.ratio_low:.2f}, {entry.ratio_high:.2f}]",  # noqa: RUF001
    )


def _checks(row: SelectionRow) -> Block:
    if not row.verdicts:
        return Details(f"{row.name}: no check was made", (Notice(row.reason or "It was not built.", "none"),))
    failed = sum(not verdict.passed for verdict in row.verdicts)
    return Details(
        f"{row.name}: {plural(len(row.verdicts), 'check')}, {failed} failed"
        if failed
        else f"{row.name}: all {len(row.verdicts)} passed",
        (verdict_table(row.verdicts),),
    )


def _judged_by(rows: Sequence[SelectionRow]) -> str:
    return next((_metric_name(row.accuracy.metric) for row in rows if row.accuracy is not None), "Accuracy")


def _metric_name(metric: str) -> str:
    return _METRICS.get(metric, metric)


def _rows_per_second(row: SelectionRow) -> float:
    return max(entry.rows_per_second for entry in row.benchmark)


def _load(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:,.0f} ms" if seconds < 1 else duration(seconds)


def _microseconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:,.0f} µs" if value < 10_000 else f"{value / 1000:,.1f} ms"
