"""Reads the rows that a user hands to `tidegate package` and `tidegate optimize`: a Parquet file, or arrays in a `.npz`."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import DataError, in_one_line
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.inputs import tensor_column


def read_sample(path: Path) -> pa.Table:
    """Return the rows in a file, one column an input.

    Args:
        path: `.parquet`: a tensor is a column of lists, all of one shape. `.npz`: an array an input, its first axis the rows;
            numbers, booleans, or text of numpy's dtype U.

    Raises:
        DataError: There is no such file, it is neither kind, an array cannot be an input, or it holds no rows.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a .parquet or a .npz file")
    table = _read_arrays(path) if path.suffix.lower() == ".npz" else _read_parquet(path)
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no rows; at least one is needed")
    return table


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {in_one_line(error)}") from error


def _read_arrays(path: Path) -> pa.Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{path}: holds pickled objects, which are not loaded; save text as numpy's dtype U") from error
        raise DataError(f"{path}: not a readable .npz file: {in_one_line(error)}") from error
    _check(path, arrays)
    return pa.table({name: tensor_column(array) for name, array in arrays.items()})


def _check(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    if not arrays:
        raise DataError(f"{path}: holds no arrays; save one for each input")
    for name, array in arrays.items():
        if array.dtype.kind != "U" and array.dtype not in NUMPY_TYPES.values():
            raise DataError(f"{path}: array {name!r} is {array.dtype}; numbers, booleans or text (dtype U) are needed")
        if array.ndim == 0:
            raise DataError(f"{path}: array {name!r} is a single value; its first axis must be the rows")
        if array.size == 0:
            raise DataError(
                f"{path}: array {name!r} has shape {list(array.shape)} and so holds no rows; at least one is needed"
            )
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise DataError(f"{path}: its arrays have different numbers of rows: {counts}; the first axis must be equally long")
