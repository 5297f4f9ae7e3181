"""The one way from a table's columns to a model's inputs, the same in training, packaging, batch scoring and the gates.

text     BYTES    missing is ""
integers INT64    booleans too; an integer column with missing values is FP32
floats   FP32     missing is NaN
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidegate.errors import DataError
from tidegate.packaging.manifest import Datatype, TensorSpec

_NUMPY = {"INT64": np.int64, "FP32": np.float32}


def input_datatype(name: str, column: pa.ChunkedArray) -> Datatype:
    """Return the datatype of the model input that a training column becomes; raises DataError for an unsupported type."""
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if _is_text(kind):
        return "BYTES"
    if pt.is_integer(kind) or pt.is_boolean(kind):
        return "FP32" if column.null_count else "INT64"
    if pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_null(kind):
        return "FP32"
    raise DataError(f"column {name!r} has type {column.type}; a model input is text, an integer, a float or a boolean")


def input_arrays(table: pa.Table, specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """Return each input as an array of shape [rows]: object (of str), int64 or float32.

    Raises:
        DataError: A column is missing or cannot be read as the input's datatype; the message names it.
    """
    specs = tuple(specs)
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in table.column_names:
            raise DataError(f"column {spec.name!r} is missing; the model reads {', '.join(names)}")
    return {spec.name: _as_array(spec.name, table.column(spec.name), spec.datatype) for spec in specs}


def training_arrays(table: pa.Table, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named columns as a model is to be trained on them: datatypes inferred by `input_datatype`."""
    for name in columns:
        if name not in table.column_names:
            raise DataError(f"column {name!r} is missing; the table has {', '.join(table.column_names)}")
    return input_arrays(
        table,
        [TensorSpec(name=name, datatype=input_datatype(name, table.column(name)), shape=(-1, 1)) for name in columns],
    )


def _as_array(name: str, column: pa.ChunkedArray, datatype: Datatype) -> np.ndarray:
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if datatype == "BYTES" and (_is_text(kind) or pt.is_null(kind)):
        text = pc.fill_null(column.cast(pa.string()), "")
        return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)
    if datatype == "INT64" and (pt.is_integer(kind) or pt.is_boolean(kind)):
        if column.null_count:
            raise DataError(f"column {name!r} has {column.null_count} missing values, but input {name!r} is INT64; fill them")
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
    if datatype == "FP32" and (_is_number(kind) or pt.is_null(kind)):
        floats = pc.fill_null(column.cast(pa.float64()), float("nan"))
        return np.asarray(floats.to_numpy(zero_copy_only=False), dtype=np.float32)
    raise DataError(f"column {name!r} has type {column.type}, which cannot be read as {datatype}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_decimal(kind))
