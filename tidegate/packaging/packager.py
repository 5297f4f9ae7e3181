"""Turns a source model into a model package: signature, graph, golden sample, reference, manifest.

source = open_source(Path("model.joblib"))
package_model(source, candidate="trees", examples=examples, settings=settings, out=Path("out/trees"))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.digests import bytes_digest, file_digest, file_sha256
from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.bill import tools_of
from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import (
    BASELINE,
    PROBABILITIES,
    SCHEMA_VERSION,
    FeatureContract,
    Lineage,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.format.package import write_package
from tidegate.packaging.graph_packing import pack_graph
from tidegate.packaging.holdout import reference_table
from tidegate.packaging.policies import with_policies
from tidegate.packaging.running.session import GraphSession
from tidegate.packaging.sample import golden_inputs
from tidegate.packaging.signature import infer_inputs, output_specs
from tidegate.packaging.sources.opening import open_source
from tidegate.packaging.sources.source import Array, Source
from tidegate.project import Project, ValidationSection
from tidegate.training.user_code import importable

SOURCE_MODEL = "model.joblib"
_GOLDEN_ROWS = 256
_ROWS_TRIED = 5


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
        validation: What becomes of values that training did not hold.
        threads: ONNX Runtime intra-op threads.
        seed: Of every sampling.
    """

    name: str
    classes: tuple[str, ...] = ()
    threshold: float = 0.5
    request_inputs: tuple[str, ...]
    contract: FeatureContract | None = None
    lineage: Lineage | None = None
    validation: ValidationSection = field(default_factory=ValidationSection)
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
        validation=project.serving.validation,
        threads=project.gates.benchmark.threads,
        seed=project.training.seed,
    )
    with importable(project.paths.root):
        for candidate in candidates:
            file = source / candidate / SOURCE_MODEL
            package_model(
                open_source(file), candidate=candidate, examples=examples, settings=settings, out=out / candidate, origin=file
            )
    return candidates


def package_model(
    source: Source,
    *,
    candidate: str,
    examples: Examples,
    settings: PackageSettings,
    out: Path,
    origin: Path | None = None,
) -> Manifest:
    """Package one trained model at `out` and return the manifest.

    The golden outputs and the reference's are the source model's own, so that parity with the golden sample is parity with the
    source. Edge rows that the source model itself refuses are not part of the golden sample.

    Args:
        source: The trained model.
        candidate: What to call it among the models of a release.
        examples: Rows to package it with.
        settings: What the package says beyond both.
        out: Directory for the package.
        origin: The file or folder that the source was opened from, for its digest; None if it was in memory.

    Raises:
        PackageError: The model reads what the examples lack, fails on its own training rows, cannot be converted, or its graph
            answers in other names, shapes or datatypes than it does.
        DataError: There are no rows, or a column is missing or has an unsupported type; or `settings.validation` asks of an
            input what it cannot have.
    """
    accepted = source.accept(
        infer_inputs(examples.training, settings.request_inputs, settings.contract, label=examples.label_column)
    )
    inputs = with_policies(accepted, examples.training, settings.validation)
    golden = _golden(source, examples.training, inputs, settings.seed)
    classes = _classes(source, settings, golden)
    reference = reference_table(
        source,
        examples.reference,
        inputs,
        label_column=examples.label_column,
        classes=classes,
        answer_bytes=sum(array.nbytes for array in golden.outputs.values()) / golden.rows,
        seed=settings.seed,
    )
    graph, packing = pack_graph(source.to_onnx(inputs, golden.inputs), inputs)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        task=source.task,
        signature=Signature(inputs=inputs, outputs=output_specs(graph)),
        classes=classes,
        threshold=settings.threshold if source.task == "binary-classification" else None,
        variant=Variant(name=BASELINE, candidate=candidate),
        runtime=Runtime(intra_op_threads=settings.threads),
        metrics={"training_rows": float(examples.training.num_rows), "holdout_rows": float(examples.reference.num_rows)},
        files={},
        source=msgspec.structs.replace(source.facts, digest=_digest(origin)) if origin else source.facts,
        tools=tools_of(source.facts.framework),
        packing=packing,
        features=settings.contract,
        lineage=settings.lineage,
    )
    serialized = graph.SerializeToString()
    _check_answers(serialized, manifest, golden)
    return write_package(out, manifest, model=serialized, golden=golden, reference=reference)


def _golden(source: Source, training: pa.Table, inputs: tuple[TensorSpec, ...], seed: int) -> Golden:
    real, edges = golden_inputs(training, inputs, count=_GOLDEN_ROWS, seed=seed)
    accepted = _accepted_rows(source, edges, 0, len(next(iter(edges.values()))))
    rows = {name: np.concatenate([real[name], edges[name][accepted]]) for name in real}
    return Golden(rows, source.predict(rows))


def _accepted_rows(source: Source, inputs: Mapping[str, Array], start: int, stop: int) -> list[int]:
    """Return which rows from `start` to before `stop` the model answers with finite numbers; what it refuses is halved."""
    if start == stop:
        return []
    if _accepts(source, {name: array[start:stop] for name, array in inputs.items()}):
        return list(range(start, stop))
    if stop - start == 1:
        return []
    middle = (start + stop) // 2
    return _accepted_rows(source, inputs, start, middle) + _accepted_rows(source, inputs, middle, stop)


def _accepts(source: Source, inputs: Mapping[str, Array]) -> bool:
    try:
        outputs = source.predict(inputs)
    except PackageError:
        return False
    return all(bool(np.isfinite(array).all()) for array in outputs.values() if array.dtype.kind == "f")


def _check_answers(graph: bytes, manifest: Manifest, golden: Golden) -> None:
    """Check that the graph answers the first golden rows in the model's own names, shapes and datatypes."""
    where = f"model {manifest.variant.candidate}"
    found = {spec.name for spec in manifest.signature.outputs}
    if found != golden.outputs.keys():
        names = f"{', '.join(sorted(found))}, but the model itself {', '.join(sorted(golden.outputs))}"
        raise PackageError(f"{where}: the graph answers {names}")
    try:
        answers = GraphSession.of_graph(graph, manifest.runtime, manifest).run(
            {name: array[:_ROWS_TRIED] for name, array in golden.inputs.items()}
        )
    except PackageError:
        raise
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        raise PackageError(f"{where}: the converted graph cannot run: {in_one_line(error)}") from error
    for name, expected in golden.outputs.items():
        given, wanted = answers[name], expected[:_ROWS_TRIED]
        if given.shape != wanted.shape or given.dtype != wanted.dtype:
            raise PackageError(
                f"{where}: the graph answers {name!r} as {given.dtype} of shape {list(given.shape)}, "
                f"but the model itself as {wanted.dtype} of shape {list(wanted.shape)}"
            )


def _classes(source: Source, settings: PackageSettings, golden: Golden) -> tuple[str, ...]:
    if source.task not in ("binary-classification", "multiclass-classification"):
        if settings.classes:
            raise PackageError(f"classes {', '.join(settings.classes)} were given, but the model is a {source.task}")
        return ()
    count = golden.outputs[PROBABILITIES].shape[1] if source.task == "multiclass-classification" else 2
    classes = settings.classes or source.classes or tuple(str(number) for number in range(count))
    if len(classes) != count:
        raise PackageError(f"{len(classes)} classes are named ({', '.join(classes)}), but the model has {count}")
    return classes


def _digest(origin: Path) -> str:
    """Return `sha256:…` of a file, or of a folder's files and their names."""
    if origin.is_file():
        return file_digest(origin)
    files = sorted(path for path in origin.rglob("*") if path.is_file())
    listed = "".join(f"{file_sha256(path)}  {path.relative_to(origin).as_posix()}\n" for path in files)
    return bytes_digest(listed.encode())
