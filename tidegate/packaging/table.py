"""Reads a Parquet file that a user names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import DataError


def read_parquet(path: Path) -> pa.Table:
    """Return the table in a Parquet file; raises DataError if it is missing, no Parquet file, or holds no rows."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a Parquet file")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error
    if table.num_rows == 0:
        raise DataError(f"{path}: holds no rows; at least one is needed")
    return table
