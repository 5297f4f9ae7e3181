"""The rows a user hands over: Parquet and .npz files are read as columns, and everything else is refused in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.sample_file import read_sample
from tidegate.packaging.signature import infer_inputs


def test_a_parquet_file_is_read_as_it_is(tmp_path: Path) -> None:
    table = pa.table({"city": ["a", None], "image": [[[1.0, 2.0]], [[3.0, 4.0]]]})
    pq.write_table(table, tmp_path / "rows.parquet")

    assert read_sample(tmp_path / "rows.parquet").equals(table)


def test_arrays_become_inputs_of_their_own_names_datatypes_and_shapes(tmp_path: Path) -> None:
    arrays = {
        "image": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        "tokens": np.arange(6, dtype=np.int32).reshape(2, 3),
        "mask": np.array([[True, False], [False, True]]),
        "half": np.arange(4, dtype=np.float16).reshape(2, 2),
        "age": np.array([7, 9]),
        "height": np.array([[1.5], [np.nan]]),
        "city": np.array(["a", "ö"]),
        "words": np.array([["a", "b"], ["c", ""]]),
    }
    np.savez(tmp_path / "rows.npz", **arrays)

    table = read_sample(tmp_path / "rows.npz")

    inputs = infer_inputs(table, list(arrays), None)
    assert {spec.name: (spec.datatype, spec.shape) for spec in inputs} == {
        "image": ("FP32", (-1, 3, 2, 2)),
        "tokens": ("INT32", (-1, 3)),
        "mask": ("BOOL", (-1, 2)),
        "half": ("FP16", (-1, 2)),
        "age": ("INT64", (-1, 1)),
        "height": ("FP32", (-1, 1)),
        "city": ("BYTES", (-1, 1)),
        "words": ("BYTES", (-1, 2)),
    }
    for name, array in input_arrays(table, inputs).items():
        np.testing.assert_array_equal(array, arrays[name].reshape(array.shape).astype(array.dtype))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    dtype=st.sampled_from(["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8", "U3"]),
    seed=st.integers(0, 99),
)
def test_any_array_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "rows.npz"
    array = np.random.default_rng(seed).integers(0, 2, size=shape).astype(dtype)
    np.savez(path, x=array)

    table = read_sample(path)

    (spec,) = infer_inputs(table, ["x"], None)
    found = input_arrays(table, [spec])["x"]
    assert found.reshape(shape).tolist() == array.tolist()


def _saved(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "rows.npz", **arrays)
        return folder / "rows.npz"

    return write


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _empty_table(folder: Path) -> Path:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), folder / "rows.parquet")
    return folder / "rows.parquet"


def _truncated(folder: Path) -> Path:
    path = _saved(x=np.arange(1000))(folder)
    path.write_bytes(path.read_bytes()[:500])
    return path


@pytest.mark.parametrize(
    ("write", "said"),
    [
        pytest.param(lambda folder: folder / "none.parquet", "no such file; give a .parquet or a .npz file", id="missing"),
        pytest.param(lambda folder: folder, "no such file", id="folder"),
        pytest.param(_file("rows.parquet", b"hello"), "not a readable Parquet file", id="no Parquet"),
        pytest.param(_file("rows.csv", b"a,b\n1,2\n"), "not a readable Parquet file", id="CSV"),
        pytest.param(_file("rows.npz", b"hello"), "not a readable .npz file|holds pickled", id="no npz"),
        pytest.param(_truncated, "not a readable .npz file", id="truncated npz"),
        pytest.param(_empty_table, "holds no rows; at least one is needed", id="no rows"),
        pytest.param(_saved(x=np.zeros((0, 3))), "holds no rows", id="no rows of arrays"),
        pytest.param(_saved(), "holds no arrays; save one for each input", id="no arrays"),
        pytest.param(_saved(x=np.array(["a", 1], dtype=object)), "holds pickled objects, which are not loaded", id="pickled"),
        pytest.param(_saved(x=np.zeros(2, dtype=complex)), "array 'x' is complex128; numbers, booleans or text", id="complex"),
        pytest.param(_saved(x=np.array([b"a"])), r"array 'x' is \|S1; numbers, booleans or text \(dtype U\)", id="bytes"),
        pytest.param(_saved(x=np.array("2020", dtype="M8[D]")), "array 'x' is datetime64", id="dates"),
        pytest.param(_saved(x=np.array(3.0)), "array 'x' is a single value; its first axis must be the rows", id="scalar"),
        pytest.param(_saved(x=np.zeros(2), y=np.zeros(3)), "different numbers of rows: x 2, y 3", id="lengths"),
    ],
)
def test_what_is_no_sample_is_refused_in_one_line(tmp_path: Path, write: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        read_sample(write(tmp_path))

    assert "\n" not in str(refused.value)
