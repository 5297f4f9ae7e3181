"""Turns a source model into a model package: signature, graph, golden sample, reference, manifest.

source = open_source(Path("model.joblib"))
package_model(source, candidate="trees", examples=examples, settings=settings, out=Path("out/trees"))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.errors import DataError, PackageError
from tidegate.packaging.bill import tools_of
from tidegate.packaging.golden import Golden
from tidegate.packaging.graph_packing import pack_graph
from tidegate.packaging.inputs import input_arrays, tensor_column
from tidegate.packaging.manifest import (
    BASELINE,
    LABEL,
    SCHEMA_VERSION,
    FeatureContract,
    Lineage,
    Manifest,
    Runtime,
    Signature,
    Task,
    TensorSpec,
    Variant,
)
from tidegate.packaging.package import write_package
from tidegate.packaging.sample import golden_inputs, sample_rows
from tidegate.packaging.signature import infer_inputs, output_specs
from tidegate.packaging.sources.opening import open_source
from tidegate.packaging.sources.source import Array, Source
from tidegate.project import Project
from tidegate.training.user_code import importable

SOURCE_MODEL = "model.joblib"
_GOLDEN_ROWS = 256
_EXAMPLE_ROWS = 4
_REFERENCE_ROWS = 50_000
_REFERENCE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Rows to package a model with.

    Attributes:
        training: Rows the model was trained on: the signature and the golden sample come from them.
        reference: Rows it was not trained on, which become the reference; at most 50,000 rows or 64 MiB are kept.
        label_column: Column of the reference with the class's number or the target's value, or None if there is none.
    """

    training: pa.Table
    reference: pa.Table
    label_column: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSettings:
    """What a package says beyond its model and examples.

    Attributes:
        name: The model's name.
        classes: Names of a classification's classes; empty for those that the model knows, or "0", "1", ….
        threshold: Of a binary classification.
        request_inputs: Columns that the caller sends.
        contract: The looked-up features, or None without any.
        lineage: Where the package comes from.
        threads: ONNX Runtime intra-op threads.
        seed: Of every sampling.
    """

    name: str
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    request_inputs: tuple[str, ...]
    contract: FeatureContract | None = None
    lineage: Lineage | None = None
    threads: int = 1
    seed: int = 0


def package_candidates(
    project: Project,
    source: Path,
    training_set: Path,
    contract: FeatureContract | None,
    lineage: Lineage,
    out: Path,
) -> list[str]:
    """Package every source model `source/<candidate>/model.joblib` as `out/<candidate>/`, its baseline variant.

    Args:
        project: The project file.
        source: What `train_candidates` wrote.
        training_set: Parquet file that `build_training_set` made, with column `split`.
        contract: The feature contract the training set was built by, or None without looked-up features.
        lineage: Where the packages come from.
        out: Directory for the packages.

    Returns:
        The candidates' names, sorted.

    Raises:
        PackageError: There is no candidate, or one cannot be loaded or converted.
        DataError: The training set lacks rows or a column.
    """
    candidates = sorted(path.parent.name for path in source.glob(f"*/{SOURCE_MODEL}"))
    if not candidates:
        raise PackageError(f"{source}: holds no <candidate>/{SOURCE_MODEL}; train first")
    table = pq.read_table(training_set)
    examples = Examples(
        training=table.filter(pc.equal(table["split"], "train")),
        reference=table.filter(pc.equal(table["split"], "holdout")),
        label_column=project.label.column,
    )
    settings = PackageSettings(
        name=project.name,
        classes=project.label.classes,
        threshold=project.serving.threshold,
        request_inputs=project.features.request_inputs,
        contract=contract,
        lineage=lineage,
        threads=project.gates.benchmark.threads,
        seed=project.training.seed,
    )
    with importable(project.paths.root):
        for candidate in candidates:
            model = open_source(source / candidate / SOURCE_MODEL)
            package_model(model, candidate=candidate, examples=examples, settings=settings, out=out / candidate)
    return candidates


def package_model(source: Source, *, candidate: str, examples: Examples, settings: PackageSettings, out: Path) -> Manifest:
    """Package one trained model at `out` and return the manifest.

    The golden outputs and the reference's are the source model's own, so that parity with the golden sample is parity with the
    source. Edge rows that the source model itself refuses are not part of the golden sample.

    Raises:
        PackageError: The model reads what the examples lack, fails on its own training rows, or cannot be converted.
        DataError: There are no rows, or a column is missing or has an unsupported type.
    """
    inputs = source.accept(infer_inputs(examples.training, settings.request_inputs, settings.contract))
    golden = _golden(source, examples.training, inputs, settings.seed)
    example = {name: array[:_EXAMPLE_ROWS] for name, array in golden.inputs.items()}
    graph, packing = pack_graph(source.to_onnx(inputs, example), inputs)
    signature = Signature(inputs=inputs, outputs=output_specs(graph))
    _check_outputs(graph, golden, candidate)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        task=source.task,
        signature=signature,
        classes=_classes(source, settings, golden.outputs),
        threshold=settings.threshold if source.task == "binary-classification" else None,
        variant=Variant(name=BASELINE, candidate=candidate),
        runtime=Runtime(intra_op_threads=settings.threads),
        metrics={"training_rows": float(examples.training.num_rows), "holdout_rows": float(examples.reference.num_rows)},
        files={},
        source=source.facts,
        tools=tools_of(source.facts.framework),
        packing=packing,
        features=settings.contract,
        lineage=settings.lineage,
    )
    return write_package(
        out,
        manifest,
        model=graph.SerializeToString(),
        golden=golden,
        reference=_reference(source, examples, inputs, settings.seed),
    )


def _golden(source: Source, training: pa.Table, inputs: tuple[TensorSpec, ...], seed: int) -> Golden:
    drawn = golden_inputs(training, inputs, count=_GOLDEN_ROWS, seed=seed)
    real = min(_GOLDEN_ROWS, training.num_rows)
    accepted = [*range(real), *_accepted_rows(source, drawn, first=real)]
    drawn = {name: array[accepted] for name, array in drawn.items()}
    return Golden(drawn, source.predict(drawn))


def _accepted_rows(source: Source, inputs: Mapping[str, Array], first: int) -> Sequence[int]:
    rows = len(next(iter(inputs.values())))
    if first == rows or _accepts(source, {name: array[first:] for name, array in inputs.items()}):
        return range(first, rows)
    return [
        row for row in range(first, rows) if _accepts(source, {name: array[row : row + 1] for name, array in inputs.items()})
    ]


def _accepts(source: Source, inputs: Mapping[str, Array]) -> bool:
    try:
        outputs = source.predict(inputs)
    except PackageError:
        return False
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind == "f")


def _check_outputs(graph: onnx.ModelProto, golden: Golden, candidate: str) -> None:
    found = {output.name for output in graph.graph.output}
    if found != golden.outputs.keys():
        raise PackageError(
            f"model {candidate}: the graph answers {', '.join(sorted(found))}, "
            f"but the model itself {', '.join(sorted(golden.outputs))}"
        )


_CLASS_COUNTS: dict[Task, str] = {"multiclass-classification": "probabilities"}


def _classes(source: Source, settings: PackageSettings, outputs: Mapping[str, Array]) -> tuple[str, ...]:
    if source.task not in ("binary-classification", "multiclass-classification"):
        if settings.classes:
            raise PackageError(f"classes {', '.join(settings.classes)} were given, but the model is a {source.task}")
        return ()
    count = outputs[_CLASS_COUNTS[source.task]].shape[1] if source.task in _CLASS_COUNTS else 2
    classes = settings.classes or source.classes or tuple(str(number) for number in range(count))
    if len(classes) != count:
        raise PackageError(f"{len(classes)} classes are named ({', '.join(classes)}), but the model has {count}")
    return classes


def _reference(source: Source, examples: Examples, inputs: tuple[TensorSpec, ...], seed: int) -> pa.Table:
    if examples.reference.num_rows == 0:
        raise DataError("the holdout holds no rows; a reference needs at least one (training.holdout_days)")
    names = [spec.name for spec in inputs]
    rows_kept = max(1, int(_REFERENCE_BYTES / max(1.0, examples.reference.select(names).nbytes / examples.reference.num_rows)))
    rows = sample_rows(examples.reference, min(_REFERENCE_ROWS, rows_kept), seed)
    reference = rows.select(names)
    for name, array in source.predict(input_arrays(rows, inputs)).items():
        reference = reference.append_column(name, tensor_column(array))
    return reference.append_column(LABEL, _labels(rows, examples.label_column, source.task))


def _labels(rows: pa.Table, column: str | None, task: Task) -> pa.ChunkedArray | pa.Array:
    kind, needed = (pa.float64(), "numbers") if task in ("regression", "tensors") else (pa.int32(), "class numbers (0, 1, …)")
    kind = pa.int8() if task == "binary-classification" else kind
    if column is None:
        return pa.nulls(rows.num_rows, kind)
    if column not in rows.column_names:
        raise DataError(f"label column {column!r} is missing; the rows have {', '.join(rows.column_names)}")
    try:
        return rows.column(column).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"label column {column!r} has type {rows.column(column).type}; {needed} or null are needed") from error
