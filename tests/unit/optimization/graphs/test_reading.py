import numpy as np
import onnx
import pytest
from onnx import helper

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.reading import named, opset, why_without, widest_level

RNG = np.random.default_rng(0)


def test_nodes_get_names_of_their_own_and_the_model_stays() -> None:
    model = models.dense(RNG)
    for node in model.graph.node[:3]:
        node.name = ""
    for node in model.graph.node[3:]:
        node.name = "same"
    before = model.SerializeToString()

    names = [node.name for node in named(model).graph.node]

    assert len(set(names)) == len(names) == len(model.graph.node)
    assert all(names)
    assert model.SerializeToString() == before


def test_names_that_are_good_stay() -> None:
    model = models.transformer(RNG)

    assert named(model) == model


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        pytest.param("dense", 1, id="one path"),
        pytest.param("transformer", 3, id="query, key and value"),
    ],
)
def test_width_is_what_could_run_at_once(kind: str, width: int) -> None:
    assert widest_level(getattr(models, kind)(RNG).graph) == width


def test_what_follows_from_constants_alone_is_no_branch() -> None:
    model = models.dense(RNG)
    model.graph.node.insert(0, helper.make_node("Neg", ["b1"], ["folded"]))
    model.graph.node.append(helper.make_node("Abs", ["folded"], ["unread"]))

    assert widest_level(model.graph) == 1


@pytest.mark.parametrize(
    ("kind", "operators", "reason"),
    [
        pytest.param("dense", ("MatMul", "Gemm"), None, id="there"),
        pytest.param("convolutions", ("MatMul", "Conv"), None, id="one of them"),
        pytest.param("dense", ("Gemm", "Conv", "LSTM"), None, id="Gemm"),
        pytest.param("recurrent", ("Gemm", "Conv"), "no Gemm or Conv to halve: it is a model of other operators", id="none"),
    ],
)
def test_why_an_operator_is_missed(kind: str, operators: tuple[str, ...], reason: str | None) -> None:
    assert why_without(getattr(models, kind)(RNG), operators, "to halve") == reason


def test_an_operator_inside_a_branch_is_there() -> None:
    model = models.branching(RNG)
    del model.graph.node[4]  # the last MatMul
    del model.graph.node[0]  # the first

    assert why_without(model, ("MatMul", "Gemm"), "to halve") is None


def test_a_model_says_its_opset() -> None:
    assert opset(models.graph_of("g (float[n, 1] x) => (float[n, 1] y) { y = Neg(x) }", {}, opset=17)) == 17
    assert opset(onnx.ModelProto()) == 1
