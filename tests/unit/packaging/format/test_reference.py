from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import PackageError
from tidegate.packaging.format import reference
from tidegate.packaging.format.reference import check_reference, read_reference
from tidegate.packaging.inputs import tensor_column, tensor_rows


@pytest.fixture
def package(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"x": [1.0, 2.0], "label": [0, 1]}), tmp_path / "reference.parquet")
    return tmp_path


def test_a_reference_is_read(package: Path) -> None:
    check_reference(package / "reference.parquet")

    assert read_reference(package).column_names == ["x", "label"]
    assert read_reference(package, ["label"]).column_names == ["label"]


def test_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    table = pa.table({"image": tensor_column(images), "label": [0, 1]})
    pq.write_table(table, tmp_path / "reference.parquet")

    read = read_reference(tmp_path)

    assert read.equals(table)
    np.testing.assert_array_equal(tensor_rows("image", read["image"]), images)


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        pytest.param("MOST_ROWS", "holds 2 rows, at most 1 are read", id="rows"),
        pytest.param("MOST_VALUES", "holds 4 values, at most 1 are read", id="values"),
        pytest.param("MOST_BYTES", "bytes, at most 1 are read", id="bytes"),
    ],
)
def test_a_reference_beyond_a_bound_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch, bound: str, says: str) -> None:
    monkeypatch.setattr(reference, bound, 1)

    with pytest.raises(PackageError, match=says):
        read_reference(package)


def test_rows_that_cost_nothing_to_claim_are_refused(tmp_path: Path) -> None:
    """20 million equal rows are 12 kB of Parquet and 160 MB of memory."""
    column = pa.DictionaryArray.from_arrays(pa.array([0], pa.int8()).take(pa.array([0] * 1000)), pa.array([0.5]))
    chunk = pa.table({"x": pa.chunked_array([column] * 1000)})
    with pq.ParquetWriter(tmp_path / "reference.parquet", chunk.schema) as writer:
        for _ in range(20):
            writer.write_table(chunk)

    assert (tmp_path / "reference.parquet").stat().st_size < 100_000
    with pytest.raises(PackageError, match="says that it holds 20000000 rows, at most 10000000 are read"):
        read_reference(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PAR1", b"not parquet at all", b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1"],
    ids=["empty", "short", "text", "huge footer"],
)
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "reference.parquet").write_bytes(content)

    with pytest.raises(PackageError, match=r"reference\.parquet: not readable: .*; package again"):
        read_reference(tmp_path)


def test_a_column_that_is_not_there_is_refused(package: Path) -> None:
    with pytest.raises(PackageError, match="has no column 'probability'"):
        read_reference(package, ["label", "probability"])
