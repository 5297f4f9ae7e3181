from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.hidden_layers import Place, hidden_layers
from tidegate.optimization.graphs.unit_removal import without_weakest_units

Rows = dict[str, np.ndarray]


def run(model: onnx.ModelProto, rows: Rows) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, rows)[0]


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {
        tensor.name.removesuffix(" narrowed").removesuffix(" narrowed"): numpy_helper.to_array(tensor).shape
        for tensor in model.graph.initializer
    }


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def test_layers_are_found_with_their_biases(rng: np.random.Generator) -> None:
    first, second = hidden_layers(models.dense(rng))

    assert (first.into, first.out, first.units, first.width) == ("MatMul_0", "Gemm_3", "h1", 24)
    assert (first.vectors, first.offset) == ((Place("Add_1", 1),), Place("Gemm_3", 2))
    assert (second.into, second.out, second.units, second.width) == ("Gemm_3", "MatMul_5", "h2", 16)
    assert (second.vectors, second.offset) == ((Place("Gemm_3", 2),), Place("Add_6", 1))


def test_the_feed_forward_layer_of_a_transformer_is_one(rng: np.random.Generator) -> None:
    (found,) = hidden_layers(models.transformer(rng))

    assert (found.units, found.width) == ("ug", 32)
    assert (found.vectors, found.offset) == ((Place("Add_18", 1),), Place("Add_25", 1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("(float[n, 4] x) => (float[n, 2] y, float[n, 3] h) { h = MatMul(x, a)  y = MatMul(h, b) }", "the caller reads it"),
        ("(float[n, 4] x) => (float[n, 2] y) { h = MatMul(x, a)  s = Softmax(h)  y = MatMul(s, b) }", "units mix"),
        ("(float[n, 4] x) => (float[n, 2] y) { h = MatMul(x, a)  p = MatMul(h, b)  q = MatMul(h, b)  y = Add(p, q) }", "two"),
        ("(float[n, 4] x) => (float[n, 3] y) { h = MatMul(x, a)  y = Relu(h) }", "no layer reads it"),
        ("(float[n, 4] x, float[n, 3] z) => (float[n, 2] y) { h = MatMul(x, a)  g = Mul(h, z)  y = MatMul(g, b) }", "a gate"),
        ("(float[n, 4] x) => (float[n, 2] y) { h = MatMul(x, a)  g = Add(h, square)  y = MatMul(g, b) }", "not one a unit"),
        ("(float[n, 4] x) => (float[n, 2] y) { h = Gemm<alpha = 2.0>(x, a)  y = MatMul(h, b) }", "scaled"),
    ],
)
def test_units_that_leave_by_another_way_are_left_alone(rng: np.random.Generator, text: str, why: str) -> None:
    weights = {name: models.floats(rng, *shape) for name, shape in {"a": (4, 3), "b": (3, 2), "c": (4, 4)}.items()}
    model = models.graph_of(f"g {text}", {**weights, "square": models.floats(rng, 3, 3)})

    assert hidden_layers(model) == (), why


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.99])
def test_matrices_get_smaller_by_exactly_the_share(rng: np.random.Generator, share: float) -> None:
    model = models.dense(rng)
    before = model.SerializeToString()

    narrowed = without_weakest_units(model, share, [models.rows_of(rng, 6)])

    first, second = 24 - int(24 * share), 16 - int(16 * share)
    assert shapes(narrowed.model) == {
        "w1": (6, first), "b1": (first,), "w2": (second, first), "b2": (second,), "w3": (second, 3), "b3": (3,),
    }  # fmt: skip
    assert (narrowed.layers, narrowed.units, narrowed.removed) == (2, 40, 40 - first - second)
    assert model.SerializeToString() == before
    onnx.checker.check_model(narrowed.model, full_check=True)


def test_constants_that_others_read_stay_for_them(rng: np.random.Generator) -> None:
    weights = {"w": models.floats(rng, 4, 4), "b": models.floats(rng, 4)}
    model = models.graph_of(
        """g (float[n, 4] x) => (float[n, 4] y) {
            m = MatMul(x, w)  a = Add(m, b)  h = Relu(a)  n = MatMul(h, w)  o = Add(n, b)  s = Softmax(o)  y = MatMul(s, w)
        }""",
        weights,
    )

    narrowed = without_weakest_units(model, 0.5, [{"x": models.floats(rng, 200, 4)}]).model

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in narrowed.graph.initializer}
    np.testing.assert_array_equal(found.pop("w"), weights["w"])
    assert sorted(array.shape for array in found.values()) == [(2,), (2, 4), (4,), (4, 2)]
    assert run(narrowed, {"x": models.floats(rng, 3, 4)}).shape == (3, 4)


def test_a_unit_always_stays(rng: np.random.Generator) -> None:
    narrowed = without_weakest_units(models.dense(rng), 1.0, [models.rows_of(rng, 6)])

    assert narrowed.removed == 38
    assert run(narrowed.model, models.rows_of(rng, 6)).shape == (248, 3)


def _twins(weights: np.ndarray, out: np.ndarray, bias: np.ndarray) -> None:
    """The last quarter of the units do what the first quarter does."""
    weights[:, 12:], bias[12:] = weights[:, :4], bias[:4]


def _idle(weights: np.ndarray, out: np.ndarray, bias: np.ndarray) -> None:
    """The last quarter of the units are constant: nothing reaches them but a bias."""
    weights[:, 12:] = 0


def _unheard(weights: np.ndarray, out: np.ndarray, bias: np.ndarray) -> None:
    """Nothing comes of the last quarter of the units."""
    out[12:] = 0


@pytest.mark.parametrize("spoil", [_twins, _idle, _unheard])
@pytest.mark.parametrize("transposed", [False, True], ids=["MatMul", "Gemm"])
def test_removing_what_is_redundant_changes_nothing(
    rng: np.random.Generator, spoil: Callable[[np.ndarray, np.ndarray, np.ndarray], None], transposed: bool
) -> None:
    weights, out, bias = models.floats(rng, 6, 16), models.floats(rng, 16, 3), models.floats(rng, 16)
    spoil(weights, out, bias)
    if transposed:
        text = "h = Gemm<transB = 1>(x, w, b)  r = Relu(h)  y = Gemm<transB = 1>(r, v, c)"
        weights, out = weights.T.copy(), out.T.copy()
    else:
        text = "m = MatMul(x, w)  h = Add(m, b)  r = Relu(h)  n = MatMul(r, v)  y = Add(n, c)"
    model = models.graph_of(
        f"g (float[n, 6] x) => (float[n, 3] y) {{ {text} }}", {"w": weights, "v": out, "b": bias, "c": models.floats(rng, 3)}
    )
    rows, unseen = {"x": models.floats(rng, 400, 6)}, {"x": models.floats(rng, 100, 6)}

    narrowed = without_weakest_units(model, 0.25, [rows])

    assert narrowed.removed == 4
    np.testing.assert_allclose(run(narrowed.model, unseen), run(model, unseen), atol=0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.1, 0.8))
def test_fitting_is_no_worse_than_leaving_units_out(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    weights = {"w": models.floats(rng, 5, 12), "b": models.floats(rng, 12), "v": models.floats(rng, 12, 2)}
    text = "g (float[n, 5] x) => (float[n, 2] y) { m = MatMul(x, w)  h = Add(m, b)  r = Tanh(h)  y = MatMul(r, v) }"
    model, rows = models.graph_of(text, weights), {"x": models.floats(rng, 300, 5)}

    narrowed = without_weakest_units(model, share, [rows]).model

    kept = [
        column
        for column in range(12)
        if any((shapes_w == weights["w"][:, column]).all() for shapes_w in _columns(narrowed, "w"))
    ]
    left_out = models.graph_of(text, {"w": weights["w"][:, kept], "b": weights["b"][kept], "v": weights["v"][kept]})
    wanted = run(model, rows)
    fitted, plain = (float(((run(graph, rows) - wanted) ** 2).sum()) for graph in (narrowed, left_out))
    assert len(kept) == 12 - int(12 * share)
    assert fitted <= plain * 1.001 + 1e-6


def _columns(model: onnx.ModelProto, name: str) -> list[np.ndarray]:
    return list(next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name.startswith(name)).T)
