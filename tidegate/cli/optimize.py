"""`tidegate optimize`: build every variant of a package, hold them to the gates, and keep the best."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from tidegate.cli.output import Json, show, stderr
from tidegate.cli.search_progress import Bars
from tidegate.errors import OptimizationError
from tidegate.optimization.records import PACKAGE_FOLDER, Selection, SelectionRow
from tidegate.project import GatesSection

Target = Literal["cpu", "cuda", "tensorrt"]
Objective = Literal["latency", "throughput", "cost", "size"]

_REPORT = "report.html"
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
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that building or judging a variant may take.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Build variants of a package, gate them, and keep the best.

    Each variant is built and judged in a process of its own. If this is interrupted, the same command goes on from there.
    """
    from tidegate.optimization.isolation.workers import Limits
    from tidegate.optimization.search import optimize
    from tidegate.optimization.trial import Question

    bounds = _gates(gates, objective)
    _require(target)
    names = _names(variants, bounds, target)
    rows = _read(data)
    with tempfile.TemporaryDirectory(prefix="tidegate-optimize-") as folder:
        baseline, candidate = _baseline(package, Path(folder) / "fetched")
        _check(rows, baseline, label_column)
        question = Question(
            gates=bounds, holdout=rows, label_column=label_column, seed=0, limits=Limits.of_this_machine(timeout)
        )
        with Bars(stderr, quiet=as_json) as bars:
            selection = optimize(baseline, [f"{candidate}/{name}" for name in names], question, out, bars)
    _write_report(selection, out)
    winner = out / PACKAGE_FOLDER if selection.winner else None

    def render(console: Console) -> None:
        console.print(_table(selection))
        console.print()
        for row in selection.rows:
            console.print(
                f"{row.name}: {'; '.join(part for part in (row.reason, row.note) if part)}", soft_wrap=True, markup=False
            )
        console.print(f"\nreport    {out / _REPORT}", soft_wrap=True)
        if winner is not None:
            console.print(f"[green]selected[/green]  {selection.winner}  {winner}", soft_wrap=True)

    result = {
        **msgspec.to_builtins(selection),
        "package": str(winner.resolve()) if winner else None,
        "report": str((out / _REPORT).resolve()),
    }
    show(result, as_json=as_json, render=render)
    if winner is None:
        raise OptimizationError(f"{selection.reason}: {'; '.join(selection.reasons)}")


def _gates(file: Path | None, objective: Objective | None) -> GatesSection:
    from tidegate.project import load_gates

    gates = GatesSection() if file is None else load_gates(file)
    return gates if objective is None else gates.model_copy(update={"objective": objective})


def _require(target: Target) -> None:
    """Refuse a target that this machine lacks: whatever was found here would be said of another kind of machine."""
    from tidegate.packaging.gpu import CPU, CUDA, TENSORRT, this_machine

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
    from tidegate.packaging.manifest import BASELINE
    from tidegate.packaging.package import fetch_package, read_manifest

    path = fetch_package(uri, into).resolve()
    variant = read_manifest(path).variant
    if variant.name != BASELINE:
        raise OptimizationError(f"package {uri} is the variant {variant.name!r} already; give the package of the source model")
    return path, variant.candidate


def _check(rows: pa.Table, baseline: Path, label_column: str | None) -> None:
    """Find what is wrong with the data before anything is built."""
    from tidegate.optimization.trial import rows_to_ask
    from tidegate.packaging.inputs import input_arrays
    from tidegate.packaging.package import read_manifest

    manifest = read_manifest(baseline)
    input_arrays(rows_to_ask(rows, label_column, manifest), manifest.signature.inputs)


def _write_report(selection: Selection, out: Path) -> None:
    from tidegate.reporting.selection import render_selection

    (out / _REPORT).write_text(render_selection(selection), encoding="utf-8")


def _table(selection: Selection) -> Table:
    metric = next((row.accuracy.metric for row in selection.rows if row.accuracy is not None), None)
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for header in (
        "parity",
        *([metric] if metric else ()),
        "p50 µs",
        "p99 µs",
        "p50 ratio",
        "rows/s",
        "load s",
        "memory MB",
        "kB",
        "cost",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in selection.rows:
        table.add_row(*_cells(row, selected=row.name == selection.winner, with_metric=metric is not None))
    return table


def _cells(row: SelectionRow, *, selected: bool, with_metric: bool) -> list[str]:
    speed, footprint, accuracy = row.speed(), row.footprint, row.accuracy
    errors = [parity.max_absolute for parity in row.parity if parity.max_absolute is not None]
    measured = [f"{accuracy.value:.4f}" if accuracy else ""] if with_metric else []
    colour = _COLOURS[row.status]
    return [
        row.name,
        f"[{colour}]{'selected' if selected else row.status}[/{colour}]",
        f"{max(errors):.1e}" if errors else "",
        *measured,
        f"{speed.p50_us:.1f}" if speed else "",
        f"{speed.p99_us:.1f}" if speed else "",
        f"{speed.ratio:.2f}" if speed else "",
        f"{max(entry.rows_per_second for entry in row.benchmark):,.0f}" if row.benchmark else "",
        _amount(footprint.load_seconds if footprint else None, 1, ".3f"),
        _amount(footprint.memory_bytes if footprint else None, 1e6, ".1f"),
        _amount(footprint.size_bytes if footprint else None, 1e3, ",.0f"),
        _amount(footprint.cost_per_million if footprint else None, 1, ".2g"),
    ]


def _amount(value: float | None, unit: float, form: str) -> str:
    return "" if value is None else format(value / unit, form)
