"""Trees in a graph decide every row as the framework's do."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tidegate.packaging.sources.trees import Comparison, Leaf, Membership, Node, Tree, ensemble_attributes

FEATURES = 3
VALUES = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, 3.0, 40.0, 0.1, -0.5, 1e-40, -1e30, np.inf, -np.inf, np.nan]), st.floats(width=32)
)


def run(trees: list[Tree], base: list[float], rows: np.ndarray, *, wide: bool) -> np.ndarray:
    kind = TensorProto.DOUBLE if wide else TensorProto.FLOAT
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **ensemble_attributes(trees, base, wide=wide)
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("x", kind, [None, rows.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, len(base)])],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=9
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": rows.astype(np.float64 if wide else np.float32)})[0]


def walk(tree: Tree, row: np.ndarray) -> tuple[float, ...]:
    """What a tree answers, as its description says."""
    node = tree.nodes[0]
    while not isinstance(node, Leaf):
        value = float(row[node.feature])
        if np.isnan(value):
            yes = node.missing_yes
        elif isinstance(node, Membership):
            yes = value in node.values
        else:
            yes = value <= node.threshold if node.kind == "at most" else value < node.threshold
        node = tree.nodes[node.yes if yes else node.no]
    return node.weights


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    nodes: list[Node] = [Leaf((0.0,))]
    waiting = [0]
    for _ in range(draw(st.integers(0, 6))):
        place = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
        feature, missing, yes, no = draw(st.integers(0, FEATURES - 1)), draw(st.booleans()), len(nodes), len(nodes) + 1
        if draw(st.booleans()):
            members = tuple(draw(st.lists(st.integers(0, 70), max_size=5, unique=True)))
            nodes[place] = Membership(feature, tuple(map(float, members)), yes, no, missing)
        else:
            threshold = draw(st.one_of(st.floats(allow_nan=False), st.sampled_from([0.1, 1.05, 2.0])))
            nodes[place] = Comparison(feature, draw(st.sampled_from(["at most", "below"])), threshold, yes, no, missing)
        nodes += [Leaf((float(len(nodes)),)), Leaf((float(len(nodes) + 1),))]
        waiting += [yes, no]
    return Tree(nodes)


@pytest.mark.parametrize("wide", [pytest.param(False, id="32 bits"), pytest.param(True, id="64 bits")])
@given(tree=trees(), rows=st.lists(st.lists(VALUES, min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_tree_decides_as_it_is_described(wide: bool, tree: Tree, rows: list[list[float]]) -> None:
    matrix = np.asarray(rows, dtype=np.float32)

    found = run([tree], [0.0], matrix, wide=wide)

    np.testing.assert_array_equal(found, [walk(tree, row) for row in matrix])


@pytest.mark.parametrize("kind", ["at most", "below"])
@given(threshold=st.floats(-1e30, 1e30))
@settings(max_examples=25, deadline=None)
def test_the_32_bit_values_next_to_a_64_bit_threshold_decide_as_before(kind: str, threshold: float) -> None:
    near = np.float32(threshold)
    rows = np.asarray([[np.nextafter(near, np.float32(-np.inf))], [near], [np.nextafter(near, np.float32(np.inf))]])
    tree = Tree([Comparison(0, kind, threshold, 1, 2, missing_yes=False), Leaf((1.0,)), Leaf((2.0,))])

    found = run([tree], [0.0], rows, wide=False)

    np.testing.assert_array_equal(found, [walk(tree, row) for row in rows])


def test_trees_add_to_their_own_targets() -> None:
    stumps = [Tree([Leaf((1.0,))], target=0), Tree([Leaf((2.0, 4.0))], target=1), Tree([Leaf((8.0,))], target=2)]

    assert run(stumps, [0.5, 0.25, 0.0], np.zeros((2, 1)), wide=False).tolist() == [[1.5, 2.25, 12.0]] * 2
