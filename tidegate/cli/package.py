"""`tidegate package`: turn a fitted scikit-learn classifier into a model package, proven to agree with it."""

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from tidegate.cli.output import Json, show, stderr
from tidegate.errors import PackageError
from tidegate.packaging.manifest import Manifest, Verdict


def command(
    model: Annotated[Path, typer.Argument(help="A fitted classifier, written by joblib; it is unpickled, so trust it.")],
    sample: Annotated[Path, typer.Option(help="Parquet file of rows the model was trained on, one column an input.")],
    out: Annotated[Path, typer.Option(help="Directory for the package.")],
    name: Annotated[str | None, typer.Option(help="The model's name; the model file's name by default.")] = None,
    labels: Annotated[str, typer.Option(help="Names of class 0 and class 1, comma-separated.")] = "0,1",
    label_column: Annotated[str | None, typer.Option(help="Column of the sample that holds the label, not an input.")] = None,
    as_json: Json = False,
) -> None:
    """Package a source model as ONNX, with signature and golden sample."""
    from tidegate.packaging.table import read_parquet

    classes = _classes(labels)
    table = read_parquet(sample)
    with stderr.status("Packaging"):
        manifest = _package(model, table, out, name or model.stem, classes, label_column)

    def render(console: Console) -> None:
        console.print(f"[green]packaged[/green]  {manifest.name} at {out}")
        console.print(_signature_table(manifest))
        for verdict in manifest.verdicts:
            console.print(f"  {verdict.gate}: {verdict.measure} {verdict.value:.3g} (bound {verdict.bound:g})")

    show({"path": str(out.resolve()), "manifest": msgspec.to_builtins(manifest)}, as_json=as_json, render=render)


def _package(
    model: Path, sample: pa.Table, out: Path, name: str, classes: tuple[str, str], label_column: str | None
) -> Manifest:
    from tidegate.packaging.package import copy_package
    from tidegate.packaging.packager import Examples, PackageSettings, package_model
    from tidegate.packaging.sources.opening import open_source

    source = open_source(model)
    columns = [column for column in sample.column_names if column != label_column]
    inputs = source.columns or tuple(columns)
    with tempfile.TemporaryDirectory(prefix="tidegate-package-") as folder:
        draft = Path(folder) / "package"
        manifest = package_model(
            source,
            candidate="model",
            examples=Examples(training=sample, reference=sample, label_column=label_column),
            settings=PackageSettings(name=name, classes=classes, request_inputs=inputs),
            out=draft,
        )
        verdicts = _parity_with_source(draft)
        return copy_package(draft, out, msgspec.structs.replace(manifest, verdicts=verdicts))


def _parity_with_source(package: Path) -> tuple[Verdict, ...]:
    from tidegate.optimization.parity import judge_parity, measure_parity
    from tidegate.packaging.golden import read_golden
    from tidegate.packaging.inference import PackageModel
    from tidegate.packaging.manifest import GOLDEN_NAME
    from tidegate.project import ParityGate

    parity = measure_parity(PackageModel(package), read_golden(package / GOLDEN_NAME))
    verdicts = judge_parity("model/baseline", parity, ParityGate(), reduced_precision=False)
    for verdict in verdicts:
        if not verdict.passed:
            value = "not a number" if verdict.value is None else f"{verdict.value:.4g}"
            raise PackageError(
                f"the converted graph does not agree with the source model: {verdict.measure} is {value}, "
                f"the bound is {verdict.bound:g}; nothing was written"
            )
    return verdicts


def _classes(labels: str) -> tuple[str, str]:
    names = [name.strip() for name in labels.split(",")]
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise PackageError(f"--labels {labels!r}: two different names are needed, such as 'on-time,late'")
    return names[0], names[1]


def _signature_table(manifest: Manifest) -> Table:
    table = Table("input", "datatype", "missing", "range or categories", box=None, pad_edge=False)
    for spec in manifest.signature.inputs:
        held = f"{spec.minimum:g} to {spec.maximum:g}" if spec.minimum is not None and spec.maximum is not None else ""
        if spec.categories is not None:
            held = f"{len(spec.categories)} categories"
        table.add_row(spec.name, spec.datatype, "allowed" if spec.nullable else "no", held)
    return table
