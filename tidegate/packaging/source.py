"""Turns source models into model packages. The only module that loads a pickle: of a source that the user names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.errors import DataError, PackageError
from tidegate.packaging.convert import convert_classifier
from tidegate.packaging.golden import Golden
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.manifest import (
    BASELINE,
    LABEL,
    PROBABILITY,
    SCHEMA_VERSION,
    FeatureContract,
    Lineage,
    Manifest,
    Runtime,
    Signature,
    Variant,
)
from tidegate.packaging.package import write_package
from tidegate.packaging.sample import golden_inputs, sample_rows
from tidegate.packaging.signature import infer_signature
from tidegate.project import Project
from tidegate.training.user_code import importable

SOURCE_MODEL = "model.joblib"
_GOLDEN_ROWS = 256
_REFERENCE_ROWS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Rows to package a model with.

    Attributes:
        training: Rows the model was trained on: the signature and the golden sample come from them.
        reference: Rows it was not trained on, which become the reference; at most 50,000 are kept.
        label_column: 0/1 column of the reference, or None if there is none.
    """

    training: pa.Table
    reference: pa.Table
    label_column: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSettings:
    """What a package says beyond its model and examples."""

    name: str
    classes: tuple[str, ...] = ("0", "1")
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
            model = load_source_model(source / candidate / SOURCE_MODEL)
            package_model(model, candidate=candidate, examples=examples, settings=settings, out=out / candidate)
    return candidates


def load_source_model(path: Path) -> Any:
    """Load a joblib (pickle) file, which runs code from it: only files that the user names; raises PackageError."""
    try:
        return joblib.load(path)
    except Exception as error:  # a pickle raises whatever its classes raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PackageError(f"source model {path}: cannot be loaded: {reason[:300]}") from error


def package_model(model: Any, *, candidate: str, examples: Examples, settings: PackageSettings, out: Path) -> Manifest:
    """Package one fitted classifier at `out` and return the manifest.

    The golden outputs and the reference's probabilities are the source model's own, so that parity with the golden sample is
    parity with the source. Edge rows that the source model itself refuses are not part of the golden sample.

    Raises:
        PackageError: The model is not a fitted binary classifier, fails on its own training rows, or cannot be converted.
        DataError: There are no rows, or a column is missing or has an unsupported type.
    """
    signature = infer_signature(examples.training, settings.request_inputs, settings.contract)
    graph = convert_classifier(model, signature, name=candidate)
    source = _SourceModel(model, candidate)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=settings.name,
        signature=signature,
        classes=settings.classes,
        threshold=settings.threshold,
        variant=Variant(name=BASELINE, candidate=candidate),
        runtime=Runtime(intra_op_threads=settings.threads),
        metrics={"training_rows": float(examples.training.num_rows), "holdout_rows": float(examples.reference.num_rows)},
        files={},
        features=settings.contract,
        lineage=settings.lineage,
    )
    return write_package(
        out,
        manifest,
        model=graph.SerializeToString(),
        golden=_golden(source, examples.training, signature, settings.seed),
        reference=_reference(source, examples, signature, settings.seed),
    )


class _SourceModel:
    def __init__(self, model: Any, name: str) -> None:
        self._model, self._name = model, name
        self._columns = [str(column) for column in getattr(model, "feature_names_in_", ())]

    def predict(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of class 1, float64 of shape [n]; raises PackageError if the model refuses the rows."""
        frame = pd.DataFrame({column: inputs[column] for column in self._columns or inputs})
        try:
            probabilities = np.asarray(self._model.predict_proba(frame))
        except Exception as error:  # a source model raises whatever its steps raise
            reason = " ".join(str(error).split())
            raise PackageError(f"model {self._name}: it cannot predict the given rows: {reason[:300]}") from error
        return probabilities[:, 1]

    def accepts(self, inputs: Mapping[str, np.ndarray]) -> bool:
        try:
            return bool(np.isfinite(self.predict(inputs)).all())
        except PackageError:
            return False


def _golden(source: _SourceModel, training: pa.Table, signature: Signature, seed: int) -> Golden:
    inputs = golden_inputs(training, signature, count=_GOLDEN_ROWS, seed=seed)
    real = min(_GOLDEN_ROWS, training.num_rows)
    accepted = [*range(real), *_accepted_rows(source, inputs, first=real)]
    inputs = {name: array[accepted] for name, array in inputs.items()}
    probability = source.predict(inputs).astype(np.float32)
    return Golden({name: array.reshape(-1, 1) for name, array in inputs.items()}, {PROBABILITY: probability})


def _accepted_rows(source: _SourceModel, inputs: Mapping[str, np.ndarray], first: int) -> Sequence[int]:
    rows = len(next(iter(inputs.values())))
    if source.accepts({name: array[first:] for name, array in inputs.items()}):
        return range(first, rows)
    return [row for row in range(first, rows) if source.accepts({name: array[row : row + 1] for name, array in inputs.items()})]


def _reference(source: _SourceModel, examples: Examples, signature: Signature, seed: int) -> pa.Table:
    if examples.reference.num_rows == 0:
        raise DataError("the holdout holds no rows; a reference needs at least one (training.holdout_days)")
    rows = sample_rows(examples.reference, _REFERENCE_ROWS, seed)
    probability = source.predict(input_arrays(rows, signature.inputs)).astype(np.float32)
    reference = rows.select([spec.name for spec in signature.inputs])
    return reference.append_column(PROBABILITY, pa.array(probability)).append_column(
        LABEL, _labels(rows, examples.label_column)
    )


def _labels(rows: pa.Table, column: str | None) -> pa.ChunkedArray | pa.Array:
    if column is None:
        return pa.nulls(rows.num_rows, pa.int8())
    if column not in rows.column_names:
        raise DataError(f"label column {column!r} is missing; the rows have {', '.join(rows.column_names)}")
    try:
        return rows.column(column).cast(pa.int8())
    except pa.ArrowInvalid as error:
        raise DataError(f"label column {column!r} has type {rows.column(column).type}; 0, 1 or null is needed") from error
