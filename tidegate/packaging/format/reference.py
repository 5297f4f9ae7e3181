"""The reference: the rows a model was accepted on, which are what its inputs and outputs are later compared with."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import REFERENCE_NAME
from tidegate.packaging.format.plain_files import open_plain

MOST_ROWS = 10_000_000
MOST_VALUES = 1 << 28  # over all columns; a tensor of a row counts each of its elements
MOST_BYTES = 4 << 30  # unpacked


def read_reference(package: Path, columns: list[str] | None = None) -> pa.Table:
    """Read `reference.parquet` of the package, or some of its columns; raises PackageError as `check_reference` does."""
    path = package / REFERENCE_NAME
    check_reference(path)
    try:
        file = pq.ParquetFile(path)
        for column in columns or ():
            if column not in file.schema_arrow.names:
                raise PackageError(f"reference {path}: has no column {column!r}; it has {', '.join(file.schema_arrow.names)}")
        return file.read(columns)  # `read_table` would import pandas first
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def check_reference(path: Path) -> None:
    """Raise PackageError unless the Parquet file at `path` says that it can be read within bounds; no row is read for it."""
    with open_plain(path) as stream:
        try:
            metadata = pq.read_metadata(stream)
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            found = {
                "rows": metadata.num_rows,
                "values": sum(group.column(at).num_values for group in groups for at in range(group.num_columns)),
                "bytes": sum(group.total_byte_size for group in groups),
            }
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _unreadable(path, error) from error
    for what, bound in (("rows", MOST_ROWS), ("values", MOST_VALUES), ("bytes", MOST_BYTES)):
        if not 0 <= found[what] <= bound:
            raise PackageError(f"reference {path}: it says that it holds {found[what]} {what}, at most {bound} are read")


def _unreadable(path: Path, error: Exception) -> PackageError:
    return PackageError(f"reference {path}: not readable: {in_one_line(error)}; package again")
