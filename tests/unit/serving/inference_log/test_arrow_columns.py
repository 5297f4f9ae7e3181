"""Arrays from buffers are the arrays that pyarrow itself would make."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.inference_log.arrow_columns import lists, numbers, texts


@given(st.lists(st.none() | st.text(max_size=5), max_size=20))
def test_texts(values: list[str | None]) -> None:
    array = texts(values)
    array.validate(full=True)
    assert array.to_pylist() == values


@pytest.mark.parametrize("type_", [pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_()])
@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), max_size=20))
def test_numbers(type_: pa.DataType, rows: list[tuple[int, bool]]) -> None:
    values = np.array([value for value, _ in rows], np.int64)
    valid = np.array([is_valid for _, is_valid in rows], np.bool_)
    array = numbers(values, type_, valid)
    array.validate(full=True)
    assert array.to_pylist() == [value if is_valid else None for value, is_valid in rows]


def test_timestamps() -> None:
    moments = np.array(["2013-06-01T12:00:00.000001", "NaT"], "datetime64[us]")
    type_ = pa.timestamp("us", tz="UTC")
    assert numbers(moments, type_, ~np.isnat(moments)).equals(pa.array([1370088000000001, None], type_))


def test_lists() -> None:
    flat: Any = numbers(np.arange(6), pa.float32())
    array = lists(flat, [2, 0, 3, 1, 0], np.array([True, False, True, False, True]))
    array.validate(full=True)
    assert array.to_pylist() == [[0, 1], None, [2, 3, 4], None, []]


def test_no_pandas_is_imported() -> None:
    script = (
        "import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
        "from tidegate.serving.inference_log.arrow_columns import numbers, texts\n"
        "table = pa.Table.from_arrays([texts(['a', None]), numbers(np.arange(2), pa.int64())], names=['a', 'b'])\n"
        "pq.write_table(table, pa.BufferOutputStream(), compression='zstd')\n"
        "sys.exit('pandas' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
