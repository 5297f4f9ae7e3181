from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.half_precision import halvable_nodes, in_half, rounded_like
from tidegate.optimization.graphs.reading import named


def run(model: onnx.ModelProto, rows: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, rows)


def halves(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that read or make halves, casts aside."""
    types = {
        value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    } | {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {
        node.name
        for node in model.graph.node
        if node.op_type != "Cast" and any(types.get(name) == TensorProto.FLOAT16 for name in (*node.input, *node.output))
    }


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_what_lies_before_and_after_the_dense_layers_stays(rng: np.random.Generator) -> None:
    model = models.graph_of(
        """g (float[n, 6] x) => (float[n, 2] y) {
            a = Abs(x)   m = MatMul(a, w)   r = Relu(m)   d = MatMul(r, v)   y = Softmax(d)
        }""",
        {"w": models.floats(rng, 6, 4), "v": models.floats(rng, 4, 2)},
    )

    assert halvable_nodes(model) == ("MatMul_1", "Relu_2", "MatMul_3")
    assert halves(in_half(model, halvable_nodes(model)).model) == {"MatMul_1", "Relu_2", "MatMul_3"}


@pytest.mark.parametrize("kind", ["dense", "convolutions", "transformer", "recurrent", "branching"])
def test_half_precision_is_used_and_close(rng: np.random.Generator, kind: str) -> None:
    model = getattr(models, kind)(rng)
    rows = (
        models.token_rows(rng)
        if kind == "transformer"
        else models.rows_of(rng, *{"dense": (6,), "convolutions": (1, 8, 8), "recurrent": (5, 3), "branching": (6,)}[kind])
    )
    before = model.SerializeToString()

    halved = in_half(model, halvable_nodes(model)).model

    onnx.checker.check_model(halved, full_check=True)
    assert model.SerializeToString() == before
    assert halves(halved) >= set(halvable_nodes(model))
    assert [value.type for value in (*halved.graph.input, *halved.graph.output)] == [
        value.type for value in (*model.graph.input, *model.graph.output)
    ]
    expected, found = run(model, rows)[0], run(halved, rows)[0]
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() <= 0.01 + 0.01 * np.abs(expected).max()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 4), data=st.data())
def test_any_choice_of_nodes_of_a_random_dense_graph_is_valid(seed: int, depth: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    widths = [5, *rng.integers(1, 12, size=depth).tolist()]
    text, weights = [], {}
    value = "x"
    for layer, (width, following) in enumerate(pairwise(widths)):
        weights |= {f"w{layer}": models.floats(rng, width, following, scale=0.5), f"b{layer}": models.floats(rng, following)}
        activation = rng.choice(["Relu", "Tanh", "Sigmoid", "Erf", "Softplus"])
        text += [f"m{layer} = MatMul({value}, w{layer})", f"a{layer} = Add(m{layer}, b{layer})"]
        text += [f"h{layer} = {activation}(a{layer})", f"s{layer} = Add(h{layer}, a{layer})"]
        value = f"s{layer}"
    model = models.graph_of(
        f"g (float[n, 5] x) => (float[n, {widths[-1]}] y) {{ {' '.join(text)} y = Identity({value}) }}", weights
    )
    chosen = data.draw(st.lists(st.sampled_from(halvable_nodes(model)), unique=True))

    halved = in_half(model, chosen).model

    onnx.checker.check_model(halved, full_check=True)
    assert halves(halved) == set(chosen)
    rows = {"x": models.floats(rng, 9, 5)}
    expected, found = run(model, rows)[0], run(halved, rows)[0]
    assert np.abs(found - expected).max() <= 0.05 * (1 + np.abs(expected).max())
    assert chosen or np.array_equal(found, expected)


def test_values_are_cast_once_however_many_read_them(rng: np.random.Generator) -> None:
    model = models.transformer(rng)

    casts = [node for node in in_half(model, halvable_nodes(model)).model.graph.node if node.op_type == "Cast"]

    assert sorted(cast.input[0] for cast in casts) == ["e", "l in half", "x"], "x is read by three products, e by a sum"


def test_weights_beyond_the_range_are_clipped_and_counted(rng: np.random.Generator) -> None:
    weights = np.array([[1e5, -2e6, 1.0], [1e-9, -1e-9, 0.0], [np.inf, 65504, 1e-7]], dtype=np.float32)
    model = models.graph_of("g (float[n, 3] x) => (float[n, 3] y) { y = MatMul(x, w) }", {"w": weights})

    halved = in_half(model, halvable_nodes(model))

    found = numpy_helper.to_array(halved.model.graph.initializer[0])
    least = np.finfo(np.float16).smallest_subnormal
    assert halved.clipped == 2
    np.testing.assert_array_equal(
        found, np.array([[65504, -65504, 1], [least, -least, 0], [np.inf, 65504, 2 * least]], dtype=np.float16)
    )


def test_constants_of_nodes_are_weights_too(rng: np.random.Generator) -> None:
    model = models.graph_of(
        "g (float[n, 2] x) => (float[n, 2] y) { w = Constant<value = float[2, 2] {1e9, 0, 0, 1}>()  y = MatMul(x, w) }", {}
    )

    halved = in_half(model, halvable_nodes(model))

    assert halved.clipped == 1
    assert [node.op_type for node in halved.model.graph.node] == ["Cast", "MatMul", "Cast"]


def _scaled(rng: np.random.Generator) -> onnx.ModelProto:
    return models.graph_of(
        """g (float[n, 2, 4, 4] x) => (float[n, 2, 4, 4] y) {
            f = Conv<pads = [1, 1, 1, 1]>(x, k)   z = Resize(f, , scales)   y = Conv<pads = [1, 1, 1, 1]>(z, k)
        }""",
        {"k": models.floats(rng, 2, 2, 3, 3), "scales": np.array([1, 1, 1, 1], dtype=np.float32)},
    )


def _cast(rng: np.random.Generator) -> onnx.ModelProto:
    return models.graph_of(
        """g (float[n, 4] x) => (float[n, 4] y) {
            a = MatMul(x, w)   i = Cast<to = 7>(a)   b = Cast<to = 1>(i)   n = NonZero(b)   y = MatMul(b, w)
        }""",
        {"w": models.floats(rng, 4, 4)},
    )


@pytest.mark.parametrize(
    ("graph", "halved"),
    [
        pytest.param(_scaled, {"Conv_0", "Resize_1", "Conv_2"}, id="a Resize's scales are float by definition"),
        pytest.param(_cast, {"MatMul_0", "MatMul_4"}, id="casts are about precision themselves"),
    ],
)
def test_operators_go_by_their_definition(
    rng: np.random.Generator, graph: Callable[[np.random.Generator], onnx.ModelProto], halved: set[str]
) -> None:
    model = graph(rng)

    found = in_half(model, halvable_nodes(model)).model

    onnx.checker.check_model(found, full_check=True)
    assert set(halvable_nodes(model)) == halves(found) == halved
    run(found, {"x": np.ones([3, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])], np.float32)})


def test_what_may_not_be_a_float_is_left_alone(rng: np.random.Generator) -> None:
    model = models.graph_of(
        """g (float[n, 4] x) => (float[n, 4] y) {
            m = MatMul(x, w)   g = Gelu(m)   a = Add(m, g)   r = Relu(m)   b = Add(a, r)   y = MatMul(b, w)
        }""",
        {"w": models.floats(rng, 4, 4)},
        opset=20,
    )
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    rows = {"x": models.floats(rng, 9, 4)}

    halved = in_half(model, halvable_nodes(model)).model

    assert halvable_nodes(model) == ("MatMul_0", "Relu_3", "Add_4", "MatMul_5"), "not what reads ONNX Runtime's own operator"
    assert np.abs(run(halved, rows)[0] - run(model, rows)[0]).max() < 0.1


def test_a_node_that_cannot_be_halved_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(KeyError, match="Cast_1"):
        in_half(_cast(rng), ["Cast_1"])


@pytest.mark.parametrize("kind", ["dense", "transformer", "cancelling", "overflowing"])
def test_rounding_is_that_of_a_machine_that_computes_in_halves(rng: np.random.Generator, kind: str) -> None:
    model = getattr(models, kind)(rng)
    rows = models.token_rows(rng) if kind == "transformer" else models.rows_of(rng, 6)
    halved = in_half(model, halvable_nodes(model))

    found = run(rounded_like(halved), rows)[0]

    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(halved.model).run(None, rows)[0]
    onnx.checker.check_model(rounded_like(halved), full_check=True)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    close = np.isclose(found, expected, atol=0.01, equal_nan=True)
    assert close.mean() > 0.97, "sums in another order may round to another neighbour"


def test_names_do_not_collide_with_those_of_the_graph(rng: np.random.Generator) -> None:
    model = models.graph_of(
        "g (float[n, 2] x) => (float[n, 2] y) { m = MatMul(x, w)  y = Identity(m) }", {"w": models.floats(rng, 2, 2)}
    )
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "x in half"

    onnx.checker.check_model(in_half(named(model), ["MatMul_0"]).model, full_check=True)
