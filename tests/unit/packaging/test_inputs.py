import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.inputs import input_arrays, input_datatype, missing_values, tensor_column, tensor_rows, training_arrays


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
    ("column", "said"),
    [
        pytest.param(pa.array([0], pa.timestamp("us")), "give numbers instead, such as its hour, weekday", id="timestamp"),
        pytest.param(pa.array([0], pa.date32()), "give numbers instead, such as its hour, weekday", id="date"),
        pytest.param(pa.array([0], pa.duration("s")), "give numbers instead, such as its hour, weekday", id="duration"),
        pytest.param(pa.array([b"x"]), "a model input is text, a number", id="bytes"),
        pytest.param(pa.array([{"a": 1}]), "a model input is text, a number", id="structure"),
    ],
)
def test_an_unsupported_column_is_named(column: pa.Array, said: str) -> None:
    with pytest.raises(DataError, match=f"column 'x' has type .*{said}"):
        input_datatype("x", pa.chunked_array([column]))


@pytest.mark.parametrize(
    ("column", "datatype"),
    [
        pytest.param(pa.array([[1.0, 2.0], [3.0, 4.0]]), "FP64", id="doubles"),
        pytest.param(pa.array([[1, 2]], pa.list_(pa.int32())), "INT32", id="integers"),
        pytest.param(pa.array([[["a"]]]), "BYTES", id="text"),
    ],
)
def test_a_column_of_lists_becomes_a_tensor_of_its_own_datatype(column: pa.Array, datatype: str) -> None:
    assert input_datatype("x", pa.chunked_array([column])) == datatype


@pytest.mark.parametrize(
    ("column", "missing"),
    [
        pytest.param(pa.array([1.0, None, float("nan")]), 2, id="floats: null and NaN"),
        pytest.param(pa.array([1, None]), 1, id="integers"),
        pytest.param(pa.array(["", None]), 1, id="text"),
        pytest.param(pa.array([], pa.float32()), 0, id="none"),
    ],
)
def test_missing_values_are_counted(column: pa.Array, missing: int) -> None:
    assert missing_values(pa.chunked_array([column])) == missing


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
        pytest.param(pa.array([2**63], pa.uint64()), "INT64", "beyond 64 bits", id="an integer too large"),
        pytest.param(pa.array([300]), "INT8", "do not fit into INT8", id="an integer too large for its own type"),
        pytest.param(
            pa.array([[1.0, 2.0]]), "FP32", r"holds tensors of shape \[2\]; the model takes \[1\]", id="more axes than it reads"
        ),
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

    assert array.ravel().tolist() == [value or "" for value in values]


@given(st.lists(st.one_of(st.none(), st.floats(width=32))))
def test_any_float_survives(values: list[float | None]) -> None:
    array = input_arrays(pa.table({"x": pa.array(values, pa.float32())}), [spec("FP32")])["x"]

    np.testing.assert_array_equal(array[:, 0], np.array([np.nan if v is None else v for v in values], dtype=np.float32))


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_tensor_survives_a_column(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    kind = data.draw(st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]))
    array = (
        np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, (data.draw(st.integers(1, 5)), *shape)).astype(kind)
    )

    column = tensor_column(array)
    found = tensor_rows("x", pa.chunked_array([column])) if np.prod(shape) > 1 else np.asarray(column.to_pylist())

    np.testing.assert_array_equal(found.reshape(array.shape), array)
