"""The one way from a table's columns to a model's inputs, the same in training, packaging, batch scoring and the gates.

text     BYTES    missing is ""
integers INT64    booleans too; an integer column with missing values is FP32
floats   FP32     missing is NaN
tensors  a column of lists, nested or not, all of one shape, or of Arrow's fixed-shape tensors: as the model wants them
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from tidegate.errors import DataError
from tidegate.packaging.format.datatypes import DATATYPES, NUMPY_TYPES
from tidegate.packaging.format.manifest import Datatype, TensorSpec


def input_datatype(name: str, column: pa.ChunkedArray) -> Datatype:
    """Return the datatype of the model input that a training column becomes; raises DataError for an unsupported type."""
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if _is_text(kind):
        return "BYTES"
    if pt.is_integer(kind) or pt.is_boolean(kind):
        return "FP32" if column.null_count else "INT64"
    if pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_null(kind):
        return "FP32"
    if is_tensor(column):
        return DATATYPES[tensor_rows(name, column).dtype]
    if pt.is_temporal(kind):
        raise DataError(
            f"column {name!r} has type {column.type}, which no model reads; give numbers instead, such as its hour, weekday or "
            "seconds since 1970, or leave it out"
        )
    raise DataError(f"column {name!r} has type {column.type}; a model input is text, a number, a boolean or a list of them")


def missing_values(column: pa.ChunkedArray) -> int:
    """Return how many values of a column are missing: null, or of floats NaN too."""
    if pt.is_floating(column.type):
        return int(column.null_count) + int(pc.sum(pc.is_nan(column)).as_py() or 0)
    return int(column.null_count)


def input_arrays(table: pa.Table, specs: Iterable[TensorSpec]) -> dict[str, np.ndarray]:
    """Return each input as an array in its signature's shape: [rows, 1] for a column, [rows, …] for a tensor.

    Raises:
        DataError: A column is missing or cannot be read as the input's datatype and shape; the message names it.
    """
    specs = tuple(specs)
    names = [spec.name for spec in specs]
    for spec in specs:
        if spec.name not in table.column_names:
            raise DataError(f"column {spec.name!r} is missing; the model reads {', '.join(names)}")
    return {spec.name: _as_input(table.column(spec.name), spec) for spec in specs}


def training_arrays(table: pa.Table, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named columns as a model is to be trained on them, shape [rows]: datatypes inferred by `input_datatype`."""
    for name in columns:
        if name not in table.column_names:
            raise DataError(f"column {name!r} is missing; the table has {', '.join(table.column_names)}")
    return {name: _as_array(name, table.column(name), input_datatype(name, table.column(name))) for name in columns}


def is_tensor(column: pa.ChunkedArray) -> bool:
    """Return whether each value of a column is a tensor."""
    return isinstance(column.type, pa.FixedShapeTensorType) or _is_list(column.type)


def tensor_rows(name: str, column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of tensors as one array, shape [rows, …]; raises DataError if a value is missing or of another shape."""
    if column.null_count:
        raise DataError(f"column {name!r} has {column.null_count} missing tensors; every row needs one")
    if isinstance(column.type, pa.FixedShapeTensorType):
        combined = column.combine_chunks()
        chunks = combined.chunks if isinstance(combined, pa.ChunkedArray) else [combined]
        return np.concatenate([chunk.to_numpy_ndarray() for chunk in chunks])
    values, shape = column.combine_chunks(), [len(column)]
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    while _is_list(values.type):
        lengths = pc.unique(pc.list_value_length(values))
        if len(lengths) > 1 or lengths.null_count:
            raise DataError(f"column {name!r} holds lists of different lengths; pad them to one")
        shape.append(lengths[0].as_py() if len(lengths) else 0)
        values = pc.list_flatten(values)
    if values.null_count:
        raise DataError(f"column {name!r} has missing values inside its tensors; every element needs one")
    return _flat(values).reshape(shape)


def tensor_column(array: np.ndarray) -> pa.Array:
    """Return an array of shape [rows, …] as a column: of numbers or text if a row is one value, else of tensors."""
    if array.ndim == 1 or array[:1].size == 1 == np.prod(array.shape[1:]):
        flat = array.reshape(len(array))
        return pa.array(flat.tolist(), pa.string()) if flat.dtype.kind in "OU" else pa.array(flat)
    if array.dtype.kind in "OU":
        return pa.array(array.tolist())
    if array.dtype == np.bool_:  # Arrow's tensors hold no bits
        return pa.array(array.tolist())
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def _flat(values: pa.Array) -> np.ndarray:
    if _is_text(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)
    if not _is_number(values.type):
        raise DataError(f"a tensor of {values.type} is no model input; it holds text, numbers or booleans")
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _as_input(column: pa.ChunkedArray, spec: TensorSpec) -> np.ndarray:
    rows, wanted = len(column), spec.shape[1:]
    if not is_tensor(column):
        array = _as_array(spec.name, column, spec.datatype)
        if any(size not in (1, -1) for size in wanted):
            raise DataError(f"column {spec.name!r} holds single values; the model takes shape {list(spec.shape)}")
        return array.reshape(rows, *(1 for _ in wanted))
    array = tensor_rows(spec.name, column)
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, found) for size, found in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(f"column {spec.name!r} holds tensors of shape {list(array.shape[1:])}; the model takes {list(wanted)}")
    return _cast(spec.name, array, spec.datatype)


def _cast(name: str, array: np.ndarray, datatype: Datatype) -> np.ndarray:
    wanted = NUMPY_TYPES[datatype]
    if array.dtype == wanted:
        return array
    numbers = array.dtype.kind in "biuf" and wanted.kind in "biuf"
    if not numbers or (array.dtype.kind == "f" and wanted.kind != "f"):
        raise DataError(f"column {name!r} holds tensors of {array.dtype}, which cannot be read as {datatype}")
    cast = array.astype(wanted)
    if wanted.kind in "iub" and not np.array_equal(cast, array):
        raise DataError(f"column {name!r} holds values that do not fit into {datatype}")
    return cast


def _as_array(name: str, column: pa.ChunkedArray, datatype: Datatype) -> np.ndarray:
    if is_tensor(column):
        return _cast(name, tensor_rows(name, column), datatype)
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, dtype = column.type, NUMPY_TYPES[datatype]
    if datatype == "BYTES" and (_is_text(kind) or pt.is_null(kind)):
        text = pc.fill_null(column.cast(pa.string()), "")
        return np.asarray(text.to_numpy(zero_copy_only=False), dtype=object)
    if dtype.kind in "iub" and (pt.is_integer(kind) or pt.is_boolean(kind)):
        if column.null_count:
            raise DataError(
                f"column {name!r} has {column.null_count} missing values, but input {name!r} is {datatype}; fill them"
            )
        try:
            whole = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(f"column {name!r} holds integers beyond 64 bits with sign; give them as text or floats") from error
        return _cast(name, np.asarray(whole.to_numpy(zero_copy_only=False), dtype=np.int64), datatype)
    if dtype.kind == "f" and (_is_number(kind) or pt.is_null(kind)):
        floats = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
        return np.asarray(floats.to_numpy(zero_copy_only=False), dtype=dtype)
    raise DataError(f"column {name!r} has type {column.type}, which cannot be read as {datatype}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_decimal(kind))
