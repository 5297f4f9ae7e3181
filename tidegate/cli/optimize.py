"""`tidegate optimize`: build every variant of a package, hold them to the gates, and keep the best."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.cli.output import Json, show, stderr
from tidegate.cli.search_progress import Bars
from tidegate.cli.sign_key import SignKey, check_sign_key, sign_if_asked
from tidegate.errors import OptimizationError
from tidegate.optimization.records import PACKAGE_FOLDER, Selection, SelectionRow
from tidegate.project import GatesSection

if TYPE_CHECKING:
    from tidegate.optimization.search.question import Question

Target = Literal["cpu", "cuda", "tensorrt"]
Objective = Literal["latency", "throughput", "cost", "size"]

_REPORT = "report.html"
_WIDE = 120  # columns of a terminal that holds every number
_COLOURS = {"passed": "green", "failed": "red", "not-applicable": "dim"}


def command(
    package: Annotated[str, typer.Argument(metavar="PKG", help="A model package: a directory, file://… or s3://….")],
    data: Annotated[Path, typer.Option(help="Rows that training never saw: .parquet, or .npz with an array an input.")],
    out: Annotated[Path, typer.Option(help="Directory for selection.json, report.html and the winning package.")],
    label_column: Annotated[str | None, typer.Option(help="Column with the label; without it accuracy is not judged.")] = None,
    target: Annotated[Target, typer.Option(help="What it will be served on; this machine must have it.")] = "cpu",
    objective: Annotated[
        Objective | None, typer.Option(help="What to look for among survivors; latency, unless the gates say otherwise.")
    ] = None,
    variants: Annotated[
        str | None, typer.Option(help="Names of variants, comma-separated; all of the target's by default.")
    ] = None,
    gates: Annotated[Path | None, typer.Option(help="A project file, or a YAML file with the fields of its gates.")] = None,
    sign_key: SignKey = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that building or judging a variant may take.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Build variants of a package, gate them, and keep the best.

    Each variant is built and judged in a process of its own. If this is interrupted, the same command goes on from there.
    """
    from tidegate.optimization.isolation.workers import Limits
    from tidegate.optimization.search.question import Question
    from tidegate.optimization.search.search import optimize

    bounds = _gates(gates, objective)
    _require(target)
    check_sign_key(sign_key)
    names = _names(variants, bounds, target)
    question = Question(
        gates=bounds, holdout=_read(data), label_column=label_column, seed=0, limits=Limits.of_this_machine(timeout)
    )
    with tempfile.TemporaryDirectory(prefix="tidegate-optimize-") as folder:
        baseline, candidate = _baseline(package, Path(folder) / "fetched")
        _check(question, baseline)
        with _resumable(), Bars(stderr, quiet=as_json) as bars:
            selection = optimize(baseline, [f"{candidate}/{name}" for name in names], question, out, bars)
    _write_report(selection, out)
    winner = out / PACKAGE_FOLDER if selection.winner else None
    if winner is not None:
        sign_if_asked(winner, sign_key)
    result = {
        **msgspec.to_builtins(selection),
        "package": str(winner.resolve()) if winner else None,
        "report": str((out / _REPORT).resolve()),
    }
    show(result, as_json=as_json, render=lambda console: _render(console, selection, out))
    if winner is None:
        raise OptimizationError(f"{selection.reason}: {'; '.join(selection.reasons)}")


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        stderr.print("interrupted; the same command goes on from here")
        raise


def _render(console: Console, selection: Selection, out: Path) -> None:
    console.print(_table(selection, console.width))
    console.print()
    for row in selection.rows:
        reason = "; ".join(part for part in (row.reason, row.note) if part)
        style = "dim" if row.status == "not-applicable" else ""
        console.print(f"{row.name}: {reason}", soft_wrap=True, markup=False, style=style)
    console.print(f"\nreport    {out / _REPORT}", soft_wrap=True, markup=False)
    if selection.winner is not None:
        console.print(f"[green]selected[/green]  {escape(f'{selection.winner}  {out / PACKAGE_FOLDER}')}", soft_wrap=True)


def _gates(file: Path | None, objective: Objective | None) -> GatesSection:
    from tidegate.project import load_gates

    gates = GatesSection() if file is None else load_gates(file)
    return gates if objective is None else gates.model_copy(update={"objective": objective})


def _require(target: Target) -> None:
    """Refuse a target that this machine lacks: whatever was found here would be said of another kind of machine."""
    from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, this_machine

    lacking = this_machine().lacks({"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}[target])
    if lacking is not None:
        raise OptimizationError(f"--target {target}: {lacking}; run it where the model will be served, or take --target cpu")


def _names(given: str | None, gates: GatesSection, target: Target) -> list[str]:
    from tidegate.optimization.variants import variant_builder, variant_names

    if given is not None:
        names = [name.strip() for name in given.split(",") if name.strip()]
    else:
        names = list(variant_names(target) if gates.variants is None else gates.variants)
    for name in names:
        variant_builder(name)
    return list(dict.fromkeys(names))


def _read(data: Path) -> pa.Table:
    from tidegate.packaging.sample_file import read_sample

    return read_sample(data)


def _baseline(uri: str, into: Path) -> tuple[Path, str]:
    from tidegate.packaging.format.manifest import BASELINE
    from tidegate.packaging.format.package import fetch_package, read_manifest

    path = fetch_package(uri, into).resolve()
    variant = read_manifest(path).variant
    if variant.name != BASELINE:
        raise OptimizationError(f"package {uri} is the variant {variant.name!r} already; give the package of the source model")
    return path, variant.candidate


def _check(question: "Question", baseline: Path) -> None:
    """Find what is wrong with the data before anything is built."""
    from tidegate.packaging.format.package import read_manifest
    from tidegate.packaging.inputs import input_arrays

    manifest = read_manifest(baseline)
    input_arrays(question.rows(manifest), manifest.signature.inputs)


def _write_report(selection: Selection, out: Path) -> None:
    from tidegate.reporting.selection import render_selection

    (out / _REPORT).write_text(render_selection(selection), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of numbers; a narrow terminal shows only those that matter most."""

    title: str
    cell: Callable[[SelectionRow], str]
    always: bool = True


def _table(selection: Selection, width: int) -> Table:
    columns = [column for column in _columns(selection) if column.always or width >= _WIDE]
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for column in columns:
        table.add_column(column.title, justify="right", no_wrap=True)
    for row in selection.rows:
        if row.status != "not-applicable":
            outcome = "selected" if row.name == selection.winner else row.status
            cells = (column.cell(row) for column in columns)
            table.add_row(row.name, f"[{_COLOURS[row.status]}]{outcome}[/]", *cells)
    return table


def _columns(selection: Selection) -> list[_Column]:
    metric = next((row.accuracy.metric for row in selection.rows if row.accuracy is not None), None)
    accuracy = [_Column(metric, lambda row: _form(getattr(row.accuracy, "value", None), 1, ".4f"))] if metric else []
    return [
        _Column("parity", lambda row: _form(_largest_error(row), 1, ".1e")),
        *accuracy,
        _Column("p50 µs", lambda row: _form(_speed(row, "p50_us"), 1, ".1f")),
        _Column("p99 µs", lambda row: _form(_speed(row, "p99_us"), 1, ".1f")),
        _Column("p50 ratio", lambda row: _form(_speed(row, "ratio"), 1, ".2f"), always=False),
        _Column("rows/s", lambda row: _form(max((each.rows_per_second for each in row.benchmark), default=None), 1, ",.0f")),
        _Column("load s", lambda row: _form(_footprint(row, "load_seconds"), 1, ".3f"), always=False),
        _Column("MB", lambda row: _form(_footprint(row, "memory_bytes"), 1e6, ".1f"), always=False),
        _Column("kB", lambda row: _form(_footprint(row, "size_bytes"), 1e3, ",.0f")),
        _Column("cost", lambda row: _form(_footprint(row, "cost_per_million"), 1, ".2g"), always=False),
    ]


def _largest_error(row: SelectionRow) -> float | None:
    return max((parity.max_absolute for parity in row.parity if parity.max_absolute is not None), default=None)


def _speed(row: SelectionRow, field: str) -> float | None:
    return getattr(row.speed(), field, None)


def _footprint(row: SelectionRow, field: str) -> float | None:
    return getattr(row.footprint, field, None)


def _form(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)
