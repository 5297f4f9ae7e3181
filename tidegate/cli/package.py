"""`tidegate package`: turn a trained model of any framework into a model package, proven to agree with it."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import pyarrow as pa
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.cli.output import Json, show, stderr
from tidegate.cli.sign_key import SignKey, check_sign_key, sign_if_asked
from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import Manifest, Missing, OutOfRange, Task, TensorSpec, UnknownCategory
from tidegate.packaging.sources.head import Activation
from tidegate.packaging.sources.source import Source

if TYPE_CHECKING:
    from tidegate.packaging.packager import PackageSettings


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="The model: .joblib, .pkl, .pt2, .pt, .keras, .h5, .onnx, .ubj, .json, .txt, or the folder of a SavedModel or "
            "of a Hugging Face transformer. A pickle is loaded, and so runs what is in it: trust it."
        ),
    ],
    sample: Annotated[Path, typer.Option(help="Rows like those it was trained on: .parquet, or .npz with an array an input.")],
    out: Annotated[Path, typer.Option(help="Directory for the package.")],
    name: Annotated[str | None, typer.Option(help="The model's name; that of its file by default.")] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="Rows it was not trained on, for the monitoring reference; the sample by default.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="What its output means, if the model does not say so itself.")] = None,
    activation: Annotated[
        Activation, typer.Option(help="What makes probabilities of the output that --task is about.")
    ] = "none",
    output: Annotated[str | None, typer.Option(help="Which output --task is about, if there are several.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Names of the classes, comma-separated, in the order of the scores.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of two classes: the probability from which the second is answered; 0.5.")
    ] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the sample that holds the label, not an input.")] = None,
    out_of_range: Annotated[
        OutOfRange, typer.Option(help="A server's answer to numbers outside the sample's range; clamp takes the nearer end.")
    ] = "count",
    unknown_category: Annotated[
        UnknownCategory, typer.Option(help="... to texts that the sample has not; impute takes its most frequent one.")
    ] = "count",
    missing: Annotated[
        Missing, typer.Option(help="... to missing values: the model's business if the sample has some, or impute.")
    ] = "as-trained",
    sign_key: SignKey = None,
    as_json: Json = False,
) -> None:
    """Package a source model as ONNX, with signature and golden sample, and prove that it agrees with its source."""
    from tidegate.packaging.packager import PackageSettings
    from tidegate.packaging.sample_file import read_sample
    from tidegate.project import ValidationSection

    classes = _classes(labels)
    rows = read_sample(sample)
    unseen = read_sample(holdout) if holdout is not None else rows
    check_sign_key(sign_key)
    with _own_modules_importable(), stderr.status("Packaging"):
        source = _headed(_open(model), task, activation, output)
        if threshold is not None and source.task != "binary-classification":
            raise PackageError(f"--threshold {threshold:g}: only a model of two classes has one; this is a {source.task}")
        settings = PackageSettings(
            name=name or model.stem,
            classes=classes,
            threshold=0.5 if threshold is None else threshold,
            request_inputs=source.columns or tuple(column for column in rows.column_names if column != label_column),
            validation=ValidationSection(out_of_range=out_of_range, unknown_category=unknown_category, missing=missing),
        )
        manifest = _package(source, rows, unseen, label_column, settings, out, model)
        sign_if_asked(out, sign_key)

    show(
        {"path": str(out.resolve()), "manifest": msgspec.to_builtins(manifest), "signed": sign_key is not None},
        as_json=as_json,
        render=lambda console: _render(console, manifest, out, signed=sign_key is not None),
    )


def _classes(labels: str | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    names = tuple(name.strip() for name in labels.split(","))
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise PackageError(f"--labels {labels!r}: at least two different names are needed, such as 'on-time,late'")
    return names


def _open(model: Path) -> Source:
    from tidegate.packaging.sources.opening import open_source, runs_code

    if model.exists() and runs_code(model):
        stderr.print(f"{escape(model.name)} is a pickle, or holds some: loading it runs the code in it", style="yellow")
    return open_source(model)


@contextmanager
def _own_modules_importable() -> Iterator[None]:
    """Let a pickle find the modules of its user in the working directory, after all others: none of them is shadowed."""
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))


def _headed(source: Source, task: Task | None, activation: Activation, output: str | None) -> Source:
    from tidegate.packaging.sources.head import with_head

    if task is not None and task != source.task:
        return with_head(source, task, activation=activation, output=output)
    if activation != "none" or output is not None:
        given = f"--activation {activation}" if activation != "none" else f"--output {output}"
        if source.task == "tensors":
            raise PackageError(f"{given} needs --task, which says what the output means")
        raise PackageError(f"{given}: the model says itself that it is a {source.task}, and how; leave it out")
    return source


def _package(
    source: Source,
    rows: pa.Table,
    unseen: pa.Table,
    label_column: str | None,
    settings: "PackageSettings",
    out: Path,
    origin: Path,
) -> Manifest:
    """Package in a folder of its own, and put the package in its place once it is proven."""
    from tidegate.optimization.gates.conversion import prove_conversion
    from tidegate.packaging.format.package import copy_package
    from tidegate.packaging.packager import Examples, package_model

    examples = Examples(training=rows, reference=unseen, label_column=label_column)
    with tempfile.TemporaryDirectory(prefix="tidegate-package-") as folder:
        draft = Path(folder) / "package"
        manifest = package_model(source, candidate="model", examples=examples, settings=settings, out=draft, origin=origin)
        verdicts = prove_conversion(draft, source)
        return copy_package(draft, out, msgspec.structs.replace(manifest, verdicts=verdicts))


def _render(console: Console, manifest: Manifest, out: Path, *, signed: bool) -> None:
    source = manifest.source
    made = f"  {source.framework} {source.version}  {source.kind}" if source else ""
    console.print(
        f"[green]packaged{' and signed' if signed else ''}[/green]  {escape(f'{manifest.name} at {out}')}", soft_wrap=True
    )
    console.print(f"{manifest.task}{escape(made)}", soft_wrap=True)
    if manifest.classes:
        console.print(escape(f"classes: {', '.join(manifest.classes)}"), soft_wrap=True)
    console.print()
    console.print(_signature_table(manifest))
    console.print()
    for verdict in manifest.verdicts:
        console.print(
            escape(f"{verdict.gate}: {verdict.measure}: {verdict.value:.3g} (bound {verdict.bound:g})"), soft_wrap=True
        )


def _signature_table(manifest: Manifest) -> Table:
    table = Table("", "name", "datatype", "shape", "missing", "range or categories", box=None, pad_edge=False)
    for spec in manifest.signature.inputs:
        missing = "allowed" if spec.nullable else "no"
        table.add_row("input", *_described(spec), missing, _held(spec))
    for spec in manifest.signature.outputs:
        table.add_row("output", *_described(spec))
    return table


def _described(spec: TensorSpec) -> tuple[str, str, str]:
    return escape(spec.name), spec.datatype, escape(str(list(spec.shape)))


def _held(spec: TensorSpec) -> str:
    if spec.categories is not None:
        return f"{len(spec.categories)} categories"
    held = f"{spec.minimum:g} to {spec.maximum:g}" if spec.minimum is not None and spec.maximum is not None else ""
    varying = [f"{low} to {high}" for size, (low, high) in zip(spec.shape[1:], spec.sizes, strict=False) if size == -1]
    return "; ".join(part for part in (held, f"length {', '.join(varying)}" if varying else "") if part)
