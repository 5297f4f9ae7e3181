"""v1 bodies, by rows and by columns."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.serving.protocol import codec_v1
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer
from tidegate.serving.protocol.tensors import array_of

Attempt = Callable[[Callable[[], Any]], tuple[Any, int | None]]


def arrays(document: Any) -> list[Any]:
    request, _ = codec_v1.decode(json.dumps(document).encode(), DATATYPES, "r1")
    return [array_of(tensor) for tensor in request.tensors]


DATATYPES = {"distance": "FP32", "carrier": "BYTES"}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"instances": [{"distance": 1, "carrier": "UA"}, {"distance": 2.5, "carrier": "AA"}]}, id="rows"),
        pytest.param({"inputs": {"distance": [1, 2.5], "carrier": ["UA", "AA"]}}, id="columns"),
    ],
)
def test_rows_and_columns_become_the_same_tensors(document: dict[str, Any]) -> None:
    request, by_rows = codec_v1.decode(json.dumps(document).encode(), DATATYPES, "r1")
    assert by_rows == ("instances" in document)
    assert request.id == "r1"
    tensors = {tensor.name: array_of(tensor) for tensor in request.tensors}
    assert tensors["distance"].dtype == np.float32
    assert tensors["distance"].tolist() == [1, 2.5]
    assert tensors["carrier"].tolist() == ["UA", "AA"]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        pytest.param(["SFO", None], np.dtype(object), id="text, one of them null"),
        pytest.param([7, 8], np.dtype(np.int64), id="integers"),
        pytest.param([[7], [8]], np.dtype(np.int64), id="integers in lists of one"),
    ],
)
def test_entity_keys_are_text_or_integers(values: list[Any], dtype: np.dtype[Any]) -> None:
    request, _ = codec_v1.decode(json.dumps({"inputs": {"dest": values}}).encode(), DATATYPES, "r1")
    assert array_of(request.tensors[0]).dtype == dtype


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param({}, "either 'instances'", id="neither"),
        pytest.param({"instances": [], "inputs": {}}, "either 'instances'", id="both"),
        pytest.param({"instances": []}, "at least one row", id="no rows"),
        pytest.param({"instances": {}}, "'instances' must be a list", id="instances no list"),
        pytest.param({"instances": [1]}, "instances[0] must be an object of input names", id="a row no object"),
        pytest.param(
            {"instances": [{"a": 1}, {"b": 1}]}, "instances[1] and instances[0] differ in these names: a, b", id="names differ"
        ),
        pytest.param({"inputs": [1]}, "'inputs' must be an object", id="inputs no object"),
        pytest.param({"inputs": {"distance": 1}}, "inputs['distance'] must be a list", id="a column no list"),
        pytest.param(
            {"inputs": {"distance": ["x"]}}, "tensor 'distance': Expected `float | null`, got `str`", id="text as a float"
        ),
        pytest.param({"instances": [{"distance": [1]}, {"distance": [1, 2]}]}, "does not agree with shape", id="ragged"),
    ],
)
def test_a_malformed_body_is_a_400(document: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as error:
        arrays(document)
    assert error.value.status == 400
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("by_rows", "expected"),
    [
        pytest.param(True, {"predictions": [{"probability": 0.5, "n": 1}, {"probability": 0.25, "n": 2}]}, id="rows"),
        pytest.param(False, {"outputs": {"probability": [0.5, 0.25], "n": [1, 2]}}, id="columns"),
    ],
)
def test_an_answer_has_the_form_of_the_question(by_rows: bool, expected: dict[str, Any]) -> None:
    answer = InferAnswer("r1", {"probability": np.array([0.5, 0.25], np.float32), "n": np.array([1, 2])})
    assert json.loads(codec_v1.encode(answer, by_rows)) == expected


@pytest.mark.parametrize(("by_rows", "field"), [(True, "predictions"), (False, "outputs")])
def test_a_single_output_is_answered_bare(by_rows: bool, field: str) -> None:
    answer = InferAnswer("r1", {"prediction": np.array([[0.5], [0.25]], np.float32)})
    assert json.loads(codec_v1.encode(answer, by_rows)) == {field: [[0.5], [0.25]]}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["distance", "carrier", "dest"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(document=st.dictionaries(st.sampled_from(["instances", "inputs", "id"]), anything) | anything)
def test_any_document_is_a_request_or_a_400(attempt: Attempt, document: Any) -> None:
    found, status = attempt(lambda: arrays(document))
    assert status == 400 or found
