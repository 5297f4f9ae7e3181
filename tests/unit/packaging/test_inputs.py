import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.errors import DataError
from tidegate.packaging.inputs import input_arrays, input_datatype, training_arrays
from tidegate.packaging.manifest import TensorSpec


def spec(datatype: str) -> TensorSpec:
    return TensorSpec(name="x", datatype=datatype, shape=(-1, 1))


@pytest.mark.parametrize(
    ("column", "datatype"),
    [
        pytest.param(pa.array(["a", None]), "BYTES", id="text with missing"),
        pytest.param(pa.array(["a"], pa.large_string()), "BYTES", id="large text"),
        pytest.param(pa.array(["a", "b"]).dictionary_encode(), "BYTES", id="dictionary of text"),
        pytest.param(pa.array([1, 2], pa.int8()), "INT64", id="integers"),
        pytest.param(pa.array([1, None]), "FP32", id="integers with missing"),
        pytest.param(pa.array([True, False]), "INT64", id="booleans"),
        pytest.param(pa.array([1.5]), "FP32", id="floats"),
        pytest.param(pa.array([decimal.Decimal("1.5")]), "FP32", id="decimals"),
        pytest.param(pa.nulls(2), "FP32", id="nothing known"),
    ],
)
def test_a_column_becomes_an_input_of_this_datatype(column: pa.Array, datatype: str) -> None:
    assert input_datatype("x", pa.chunked_array([column])) == datatype


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array([0], pa.timestamp("us")), id="timestamp"),
        pytest.param(pa.array([[1.0]]), id="list"),
        pytest.param(pa.array([b"x"]), id="bytes"),
    ],
)
def test_an_unsupported_column_is_named(column: pa.Array) -> None:
    with pytest.raises(DataError, match="column 'x' has type"):
        input_datatype("x", pa.chunked_array([column]))


def test_missing_values_are_empty_text_and_nan() -> None:
    table = pa.table({"text": ["a", None], "number": [None, 2], "count": [3, 4]})

    arrays = training_arrays(table, ["text", "number", "count"])

    assert arrays["text"].tolist() == ["a", ""]
    assert arrays["text"].dtype == object
    np.testing.assert_array_equal(arrays["number"], np.array([np.nan, 2], dtype=np.float32))
    assert arrays["count"].dtype == np.int64


@pytest.mark.parametrize(
    ("column", "datatype", "said"),
    [
        pytest.param(pa.array(["1"]), "FP32", "cannot be read as FP32", id="text for a number"),
        pytest.param(pa.array([1.0]), "BYTES", "cannot be read as BYTES", id="a number for text"),
        pytest.param(pa.array([1.0]), "INT64", "cannot be read as INT64", id="a float for an integer"),
        pytest.param(pa.array([1, None]), "INT64", "1 missing values", id="a missing integer"),
    ],
)
def test_a_wrong_column_is_refused(column: pa.Array, datatype: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        input_arrays(pa.table({"x": column}), [spec(datatype)])


def test_a_missing_column_is_named_with_what_the_model_reads() -> None:
    with pytest.raises(DataError, match="column 'x' is missing; the model reads x"):
        input_arrays(pa.table({"y": [1]}), [spec("FP32")])


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))))
def test_any_text_survives(values: list[str | None]) -> None:
    array = input_arrays(pa.table({"x": pa.array(values, pa.string())}), [spec("BYTES")])["x"]

    assert array.tolist() == [value or "" for value in values]


@given(st.lists(st.one_of(st.none(), st.floats(width=32))))
def test_any_float_survives(values: list[float | None]) -> None:
    array = input_arrays(pa.table({"x": pa.array(values, pa.float32())}), [spec("FP32")])["x"]

    np.testing.assert_array_equal(array, np.array([np.nan if v is None else v for v in values], dtype=np.float32))
