"""Makes the reference of a package: rows that the model was not trained on, its answers to them, and their labels."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import LABEL, Task, TensorSpec
from tidegate.packaging.inputs import input_arrays, tensor_column
from tidegate.packaging.sample import sample_rows
from tidegate.packaging.sources.source import Array, Source

_ROWS = 50_000
_BYTES = 64 * 1024 * 1024
_CHUNK_ROWS = 2_048
_LABEL_TYPES: dict[Task, pa.DataType] = {
    "binary-classification": pa.int8(),
    "multiclass-classification": pa.int32(),
    "regression": pa.float64(),
    "tensors": pa.float64(),
}


def reference_table(
    source: Source,
    rows: pa.Table,
    inputs: Sequence[TensorSpec],
    *,
    label_column: str | None,
    classes: Sequence[str],
    answer_bytes: float,
    seed: int,
) -> pa.Table:
    """Return inputs, outputs and `label` of at most 50,000 rows, and about 64 MiB.

    Args:
        source: The model.
        rows: Rows to draw from.
        inputs: Of the model.
        label_column: Column of the rows with the class or the target's value, or None without one.
        classes: Of a classification, the classes' names: text labels are of these, as are numbers that the model itself names
            otherwise than 0, 1, ….
        answer_bytes: How large the model's answer to one row is.
        seed: Of the draw.

    Raises:
        DataError: There are no rows, a column is missing, or the label is none of the task's.
        PackageError: The model refuses the rows.
    """
    if rows.num_rows == 0:
        raise DataError("the holdout holds no rows; a reference needs at least one (training.holdout_days)")
    names = [spec.name for spec in inputs]
    _check_columns(rows, names)
    row_bytes = max(1.0, rows.select(names).nbytes / rows.num_rows + answer_bytes)
    drawn = sample_rows(rows, max(1, min(_ROWS, int(_BYTES / row_bytes))), seed)
    reference = drawn.select(names)
    for name, array in _answers(source, input_arrays(drawn, inputs)).items():
        reference = reference.append_column(name, tensor_column(array))
    return reference.append_column(LABEL, _labels(drawn, label_column, source.task, classes, source.classes))


def _check_columns(rows: pa.Table, names: Sequence[str]) -> None:
    for name in names:
        if name not in rows.column_names:
            raise DataError(f"column {name!r} is missing in the holdout, which has {', '.join(rows.column_names)}")


def _answers(source: Source, inputs: Mapping[str, Array]) -> dict[str, Array]:
    parts = [source.predict(chunk) for chunk in _chunks(inputs)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _chunks(inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, _CHUNK_ROWS):
        yield {name: array[start : start + _CHUNK_ROWS] for name, array in inputs.items()}


def _labels(
    rows: pa.Table, column: str | None, task: Task, classes: Sequence[str], source_classes: Sequence[str]
) -> pa.ChunkedArray | pa.Array:
    kind = _LABEL_TYPES[task]
    if column is None:
        return pa.nulls(rows.num_rows, kind)
    if column not in rows.column_names:
        raise DataError(f"label column {column!r} is missing; the rows have {', '.join(rows.column_names)}")
    labels = rows.column(column)
    named = pt.is_string(labels.type) or pt.is_large_string(labels.type) or pt.is_dictionary(labels.type)
    known = source_classes or (classes if named else ())
    try:
        numbers = (_numbered(labels, column, known) if known else labels).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        needed = "class numbers (0, 1, …)" if classes else "numbers"
        raise DataError(f"label column {column!r} has type {labels.type}; {needed} or null are needed") from error
    if classes:
        _check_range(numbers, column, classes)
    return numbers


def _numbered(labels: pa.ChunkedArray, column: str, classes: Sequence[str]) -> pa.ChunkedArray:
    text = labels.cast(pa.string())
    numbers = pc.index_in(text, value_set=pa.array(classes, pa.string()), skip_nulls=True)
    unknown = pc.unique(text.filter(pc.and_(pc.is_valid(text), pc.is_null(numbers)))).to_pylist()
    if unknown:
        raise DataError(f"label column {column!r} holds {unknown[0]!r}, which is none of the classes {', '.join(classes)}")
    return numbers


def _check_range(numbers: pa.ChunkedArray, column: str, classes: Sequence[str]) -> None:
    ends = pc.min_max(numbers).as_py()
    for end in (ends["min"], ends["max"]):
        if end is not None and not 0 <= end < len(classes):
            raise DataError(f"label column {column!r} holds class {end}; the model's are 0 to {len(classes) - 1}")
