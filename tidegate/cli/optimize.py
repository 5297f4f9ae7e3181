"""`tidegate optimize`: build every variant of a package, hold them to the gates, and keep the best."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape

from tidegate.cli.output import Json, show, stderr
from tidegate.cli.search_progress import Bars
from tidegate.cli.selection_table import render_rows
from tidegate.cli.sign_key import SignKey, check_sign_key, sign_if_asked
from tidegate.errors import OptimizationError
from tidegate.optimization.records import PACKAGE_FOLDER, Selection
from tidegate.project import GatesSection

if TYPE_CHECKING:
    from tidegate.optimization.search.question import Question

Target = Literal["cpu", "cuda", "tensorrt"]
Objective = Literal["latency", "throughput", "cost", "size"]

_REPORT = "report.html"


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
        _claim(out)
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
    render_rows(console, selection)
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
    from tidegate.packaging.format.manifest import BASELINE

    if given is not None:
        names = [name.strip() for name in given.split(",") if name.strip()]
        if not names:
            raise OptimizationError(f"--variants {given!r}: no variant is named; leave it out for all of the target's")
    else:
        names = list(variant_names(target) if gates.variants is None else gates.variants)
    others = [name for name in dict.fromkeys(names) if name != BASELINE]  # which is judged always
    for name in others:
        variant_builder(name)
    return others


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


def _claim(out: Path) -> None:
    """Refuse a place that cannot be written, or is a package, in which no other file may lie."""
    from tidegate.packaging.format.manifest import MANIFEST_NAME

    if (out / MANIFEST_NAME).exists():
        raise OptimizationError(f"--out {out}: is a model package itself; give another directory")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OptimizationError(f"--out {out}: cannot be written: {error.strerror}; give another directory") from None


def _write_report(selection: Selection, out: Path) -> None:
    from tidegate.reporting.selection import render_selection

    (out / _REPORT).write_text(render_selection(selection), encoding="utf-8")
