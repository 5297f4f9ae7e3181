"""Heads: logits become the standard outputs of a task, in the graph as in the framework's own answers."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.unit.packaging.sources.round_trip import round_trip
from tests.unit.packaging.sources.test_onnx import model
from tidegate.errors import PackageError
from tidegate.packaging.sources.head import with_head
from tidegate.packaging.sources.onnx_model import OnnxModel

RANDOM = np.random.default_rng(0)


def source(*widths: int, kind: int = TensorProto.FLOAT, outputs: tuple[str, ...] = ("scores",)) -> OnnxModel:
    """A model that gives back what it is given, [n, …widths], as each of its outputs."""
    shape = (kind, ["n", *widths])
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in outputs]
    return OnnxModel(model(nodes, {"x": shape}, dict.fromkeys(outputs, shape)), "given")


def softmax(array: np.ndarray) -> np.ndarray:
    exponentials = np.exp(array - array.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("given_source", "task", "activation", "sample", "name", "expected"),
    [
        pytest.param(
            source(), "binary-classification", "sigmoid", np.array([-2.0, 0.0, 3.0]), "probability",
            [0.11920292, 0.5, 0.95257413], id="a logit a row",
        ),
        pytest.param(
            source(1), "binary-classification", "sigmoid", np.array([[-2.0], [0.0], [3.0]]), "probability",
            [0.11920292, 0.5, 0.95257413], id="a logit in a column",
        ),
        pytest.param(
            source(1), "binary-classification", "none", np.array([[0.25], [1.0], [0.0]]), "probability",
            [0.25, 1.0, 0.0], id="a probability in a column",
        ),
        pytest.param(
            source(2), "binary-classification", "softmax", np.array([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), "probability",
            [0.5, 0.7310586, 0.04742587], id="two logits",
        ),
        pytest.param(
            source(2), "binary-classification", "none", np.array([[0.25, 0.75], [1.0, 0.0]]), "probability",
            [0.75, 0.0], id="two probabilities",
        ),
        pytest.param(
            source(3), "multiclass-classification", "none", np.array([[0.25, 0.75, 0.0]]), "probabilities",
            [[0.25, 0.75, 0.0]], id="probabilities of three",
        ),
        pytest.param(
            source(3, kind=TensorProto.DOUBLE), "multiclass-classification", "softmax", np.array([[1000.0, 1000.0, -1000.0]]),
            "probabilities", [[0.5, 0.5, 0.0]], id="large logits of 64 bits",
        ),
        pytest.param(source(1), "regression", "none", np.array([[2.5], [-1.0]]), "prediction", [2.5, -1.0], id="one target"),
        pytest.param(source(2), "regression", "none", np.array([[2.5, 1.0]]), "prediction", [[2.5, 1.0]], id="two targets"),
        pytest.param(
            source(kind=TensorProto.INT64), "regression", "none", np.array([3, 4]), "prediction", [3.0, 4.0], id="integers",
        ),
    ],
)  # fmt: skip
def test_an_output_becomes_the_tasks(
    given_source: OnnxModel, task: Any, activation: Any, sample: np.ndarray, name: str, expected: Any
) -> None:
    headed = with_head(given_source, task, activation=activation)

    trip = round_trip(headed, {"x": sample})

    found = headed.predict(trip.arrays)
    assert (headed.task, list(found)) == (task, [name])
    assert found[name].dtype == np.float32
    np.testing.assert_allclose(found[name], expected, atol=1e-6)
    assert trip.outputs == {name: ("FP32", (-1, *np.shape(expected)[1:]))}
    session = ort.InferenceSession(trip.graph.SerializeToString())
    np.testing.assert_allclose(session.run([name], trip.arrays)[0], found[name], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 9), classes=st.integers(2, 6), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_probabilities_add_up_and_keep_the_order_of_the_logits(rows: int, classes: int, scale: float, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=scale, size=(rows, classes)).astype(np.float32)

    found = with_head(source(classes), "multiclass-classification", activation="softmax").predict({"x": logits})

    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], softmax(logits.astype(np.float64)), atol=1e-5)


def test_the_named_output_is_taken_and_the_others_are_dropped() -> None:
    headed = with_head(
        source(3, outputs=("hidden", "logits")),
        "multiclass-classification",
        activation="softmax",
        output="logits",
        classes="abc",
    )

    trip = round_trip(headed, {"x": RANDOM.normal(size=(5, 3))})

    assert headed.classes == ("a", "b", "c")
    assert list(trip.outputs) == ["probabilities"]
    assert all("hidden" not in name for node in trip.graph.graph.node for name in node.output)
    trip.assert_agrees()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"task": "regression", "activation": "softmax"}, "softmax makes no regression; give none", id="softmax"),
        pytest.param({"task": "multiclass-classification", "activation": "sigmoid"}, "give none or softmax", id="sigmoid"),
        pytest.param({"task": "tensors"}, "its outputs stay as they are", id="tensors"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(PackageError, match=said):
        with_head(source(3), **options)


def test_a_model_that_knows_its_task_needs_no_head() -> None:
    with pytest.raises(PackageError, match="the model says itself that it is a regression"):
        with_head(with_head(source(), "regression"), "regression")


@pytest.mark.parametrize(
    ("given_source", "task", "activation", "sample", "said"),
    [
        pytest.param(
            source(3), "binary-classification", "softmax", np.ones((2, 3)),
            r"shape \[n, 3\], which is no binary-classification with activation softmax: .*softmax and none take \[n, 2\]",
            id="three logits for two classes",
        ),
        pytest.param(source(), "multiclass-classification", "softmax", np.ones(2), r"\[n, classes\] is needed", id="one logit"),
        pytest.param(source(2, 2), "regression", "none", np.ones((2, 2, 2)), r"\[n, targets\] is needed", id="matrices"),
        pytest.param(
            source(3), "multiclass-classification", "none", np.array([[3.0, -1.0, 0.5]]),
            "holds -1 to 3, which are no probabilities of a multiclass-classification; give --activation softmax",
            id="logits taken for probabilities",
        ),
        pytest.param(
            source(1), "binary-classification", "none", np.array([[7.0]]), "give --activation sigmoid or softmax", id="a logit",
        ),
        pytest.param(
            source(3, outputs=("a", "b")), "multiclass-classification", "softmax", np.ones((2, 3)),
            "it has several outputs; give --output, one of a, b", id="which output",
        ),
    ],
)  # fmt: skip
def test_shapes_and_values_that_do_not_fit_say_what_would(
    given_source: OnnxModel, task: Any, activation: Any, sample: np.ndarray, said: str
) -> None:
    headed = with_head(given_source, task, activation=activation)

    with pytest.raises(PackageError, match=said):
        headed.predict({"x": sample.astype(np.float32)})


def test_an_output_that_is_not_there_is_named() -> None:
    headed = with_head(source(3), "multiclass-classification", activation="softmax", output="logits")

    with pytest.raises(PackageError, match="it has no output 'logits'; give --output, one of scores"):
        headed.predict({"x": np.ones((1, 3), dtype=np.float32)})
