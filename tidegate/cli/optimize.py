"""`tidegate optimize`: build every variant of a package, hold them to the gates, and keep the best."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tidegate.cli.output import Json, show, stderr
from tidegate.errors import OptimizationError
from tidegate.optimization.records import OUTCOME_NAME, PACKAGE_FOLDER, BuildOutcome, Selection, SelectionRow, write_record

_BUILD_SECONDS = 600


def command(
    package: Annotated[str, typer.Argument(metavar="PKG", help="A model package: a directory, file://… or s3://….")],
    data: Annotated[Path, typer.Option(help="Parquet file of rows that training never saw.")],
    out: Annotated[Path, typer.Option(help="Directory for selection.json and the winning package.")],
    label_column: Annotated[str | None, typer.Option(help="Column with the label; without it accuracy is not judged.")] = None,
    target: Annotated[Literal["cpu", "cuda", "tensorrt"], typer.Option(help="What it will be served on.")] = "cpu",
    objective: Annotated[
        Literal["latency", "throughput", "size"], typer.Option(help="What the selection looks for among survivors.")
    ] = "latency",
    as_json: Json = False,
) -> None:
    """Build variants of a package, gate them, and keep the best."""
    from tidegate.packaging.table import read_parquet

    if target != "cpu":
        raise OptimizationError(f"--target {target} is not available yet; use --target cpu")
    holdout = read_parquet(data)
    with tempfile.TemporaryDirectory(prefix="tidegate-optimize-") as folder:
        baseline = _baseline(package, Path(folder) / "fetched")
        _check_data(holdout, baseline, label_column)
        built = _build_variants(baseline, Path(folder), quiet=as_json)
        with stderr.status("Judging and timing the variants"):
            selection = _select(baseline, built, holdout, out, label_column, objective)

    def render(console: Console) -> None:
        console.print(_table(selection))
        console.print()
        for row in selection.rows:
            console.print(f"{row.name}: {row.reason}", soft_wrap=True)
        if selection.winner:
            console.print(f"\n[green]selected[/green]  {selection.winner}  {out / PACKAGE_FOLDER}", soft_wrap=True)

    show(
        {**msgspec.to_builtins(selection), "package": str((out / PACKAGE_FOLDER).resolve()) if selection.winner else None},
        as_json=as_json,
        render=render,
    )
    if selection.winner is None:
        raise OptimizationError(f"{selection.reason}: {'; '.join(selection.reasons)}")


def _baseline(uri: str, into: Path) -> Path:
    from tidegate.packaging.manifest import BASELINE
    from tidegate.packaging.package import fetch_package, read_manifest

    path = fetch_package(uri, into).resolve()
    variant = read_manifest(path).variant.name
    if variant != BASELINE:
        raise OptimizationError(f"package {uri} is the variant {variant!r} already; give the package of the source model")
    return path


def _check_data(holdout: pa.Table, baseline: Path, label_column: str | None) -> None:
    """Find what is wrong with the data before anything is built."""
    from tidegate.optimization.accuracy import labelled_rows
    from tidegate.packaging.inputs import input_arrays
    from tidegate.packaging.package import read_manifest

    input_arrays(holdout, read_manifest(baseline).signature.inputs)
    if label_column is not None:
        labelled_rows(holdout, label_column)


def _build_variants(baseline: Path, folder: Path, *, quiet: bool) -> list[Path]:
    from tidegate.optimization.variants import variant_names
    from tidegate.packaging.package import read_manifest

    candidate = read_manifest(baseline).variant.candidate
    built = []
    for variant in track(variant_names(), "Building variants", console=stderr, disable=quiet):
        _build_in_own_process(baseline, f"{candidate}/{variant}", folder / variant)
        built.append(folder / variant)
    return built


def _build_in_own_process(baseline: Path, name: str, out: Path) -> None:
    """Build a variant; if the process crashes or hangs, only this variant is lost, and its outcome says how."""
    arguments = [sys.executable, "-m", "tidegate.optimization.build", str(baseline), name, str(out)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        reason = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        crashed = done.returncode != 0
    except subprocess.TimeoutExpired:
        reason, crashed = [f"not done within {_BUILD_SECONDS} s"], True
    if crashed:
        out.mkdir(parents=True, exist_ok=True)
        write_record(out / OUTCOME_NAME, BuildOutcome(name=name, status="failed", reason=reason[0]))


def _select(
    baseline: Path,
    built: list[Path],
    holdout: pa.Table,
    out: Path,
    label_column: str | None,
    objective: Literal["latency", "throughput", "size"],
) -> Selection:
    from tidegate.optimization.search import select
    from tidegate.project import AccuracyGate, GatesSection

    gates = GatesSection(accuracy=AccuracyGate(minimum=0.0), objective=objective)
    return select(gates, [baseline], built, holdout, out, label_column=label_column, seed=0)


def _table(selection: Selection) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("variant", "outcome"):
        table.add_column(header, no_wrap=True)
    for header in ("parity", "roc_auc", "p50 µs", "p99 µs", "p50 ratio", "KiB"):
        table.add_column(header, justify="right")
    for row in selection.rows:
        table.add_row(*_cells(row, selected=row.name == selection.winner))
    return table


def _cells(row: SelectionRow, *, selected: bool) -> list[str]:
    speed = row.speed()
    colour = {"passed": "green", "failed": "red", "not-applicable": "dim"}[row.status]
    return [
        row.name,
        f"[{colour}]{'selected' if selected else row.status}[/{colour}]",
        "" if not row.parity or row.parity[0].max_absolute is None else f"{row.parity[0].max_absolute:.1e}",
        "" if row.accuracy is None else f"{row.accuracy.value:.4f}",
        "" if speed is None else f"{speed.p50_us:.1f}",
        "" if speed is None else f"{speed.p99_us:.1f}",
        "" if speed is None else f"{speed.ratio:.2f}",
        "" if row.footprint is None else f"{row.footprint.size_bytes / 1024:.0f}",
    ]
