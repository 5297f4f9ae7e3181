import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.pruning import without_smallest_weights


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 1_000))
def test_each_layer_loses_its_smallest_weights_and_no_other(share: float, seed: int) -> None:
    model = models.convolutions(np.random.default_rng(seed))
    before = weights(model)

    pruned = without_smallest_weights(model, share)

    after = weights(pruned.model)
    layers = {"k1", "k2", "w"}
    assert weights(model).keys() == after.keys()
    for name, array in after.items():
        gone = array != before[name]
        assert name in layers or not gone.any()
        assert (array[gone] == 0).all()
        if name in layers:
            assert gone.sum() == int(share * array.size)
            assert not gone.any() or np.abs(before[name][gone]).max() <= np.abs(before[name][~gone]).min(initial=np.inf)
    assert pruned.layers == 3
    assert pruned.weights == sum(before[name].size for name in layers)
    assert pruned.zeros == sum(int(share * before[name].size) for name in layers)


def test_zeros_that_were_there_count() -> None:
    model = models.graph_of(
        "g (float[n, 2] x) => (float[n, 4] y) { y = MatMul(x, w) }", {"w": np.array([[0.0, 0, 0, 1], [0, 5, 6, 7]])}
    )

    assert without_smallest_weights(model, 0.25).sparsity == 0.5


def test_equal_weights_go_in_order() -> None:
    model = models.graph_of("g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, w) }", {"w": np.ones((2, 2))})

    np.testing.assert_array_equal(weights(without_smallest_weights(model, 0.5).model)["w"], [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("g (float[n, 2] x) => (float[n, 2] y) { y = Add(x, w) }", id="no layer"),
        pytest.param("g (float[2, 2] x) => (float[2, 2] y) { t = Transpose(w)  y = MatMul(x, t) }", id="weights are computed"),
    ],
)
def test_a_graph_without_constant_weights_stays(text: str) -> None:
    model = models.graph_of(text, {"w": np.array([[1.0, 2.0], [3.0, 4.0]])})

    pruned = without_smallest_weights(model, 0.5)

    assert (pruned.layers, pruned.weights, pruned.sparsity) == (0, 0, 0.0)
    assert pruned.model == model
