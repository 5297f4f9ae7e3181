from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier

from tests.unit.optimization.variants import models
from tidegate.optimization.graphs.one_score import takes_one_score, with_one_score
from tidegate.optimization.graphs.reading import named

ROWS = np.random.default_rng(8).normal(size=(400, 5)).astype(np.float32)
LABELS = (ROWS[:, 0] * ROWS[:, 1] + ROWS[:, 2] > 0.2).astype(int)


def exported(model: object, *, cast: bool = True, labels: np.ndarray = LABELS) -> onnx.ModelProto:
    """The probability of class 1 of a scikit-learn classifier, taken as the packager takes it."""
    graph = to_onnx(model.fit(ROWS, labels), ROWS[:1], options={"zipmap": False, "output_class_labels": False})
    scores = graph.graph.output[1].name
    if cast:
        graph.graph.node.append(helper.make_node("Cast", [scores], ["scores of all"], "cast scores", to=1))
        scores = "scores of all"
    graph.graph.initializer.append(numpy_helper.from_array(np.array(1), "class 1"))
    graph.graph.node.append(helper.make_node("Gather", [scores, "class 1"], ["probability"], "take class 1", axis=1))
    del graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info("probability", 1, [None]))
    needed = {"probability"}
    nodes = []
    for node in reversed(graph.graph.node):  # without what works out the label
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.insert(0, node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return named(graph)


def answers(model: onnx.ModelProto, rows: np.ndarray = ROWS) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"X": rows})[0]


SOURCES: dict[str, Callable[[], object]] = {
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=20, random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(n_estimators=20, random_state=0),
    "forest": lambda: RandomForestClassifier(20, max_depth=5, random_state=0),
    "tree": lambda: DecisionTreeClassifier(max_depth=4, random_state=0),
    "dense": lambda: MLPClassifier((8,), max_iter=20, random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("cast", [True, False], ids=["cast", "taken at once"])
@pytest.mark.parametrize("source", SOURCES)
def test_one_score_is_the_same_score(source: str, cast: bool) -> None:
    model = exported(SOURCES[source](), cast=cast)
    before = model.SerializeToString()

    assert takes_one_score(model) is None
    found = with_one_score(model)

    onnx.checker.check_model(found)
    assert model.SerializeToString() == before
    operators = {node.op_type for node in found.graph.node}
    assert not operators & {"TreeEnsembleClassifier", "Gather", "Concat", "Sub"}
    rows = np.concatenate([ROWS, np.full((1, 5), 1e6, np.float32), np.zeros((1, 5), np.float32)])
    np.testing.assert_allclose(answers(found, rows), answers(model, rows), atol=1e-6)
    assert answers(found).dtype == np.float32


def test_a_column_stays_a_column() -> None:
    model = models.graph_of(
        "g (float[n, 1] X) => (float[n, 1] y) { a = Neg(X)  b = Concat<axis = 1>(a, X)  y = Gather<axis = 1>(b, one) }",
        {"one": np.array([1])},
    )

    found = with_one_score(model)

    assert [node.op_type for node in found.graph.node] == ["Reshape"]
    np.testing.assert_array_equal(answers(found, ROWS[:4, :1]), ROWS[:4, :1])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("(float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }", "no probability of class 1 is taken from those of two"),
        ("(float[n, 2] x) => (float[n] y) { y = Gather<axis = 1>(x, one) }", "no probability of class 1 is taken"),
        ("(float[n, 2] x) => (float[n] y) { s = Abs(x)  y = Gather<axis = 1>(s, zero) }", "no probability of class 1 is taken"),
        ("(float[n, 2] x) => (float[n] y) { s = Softmax(x)  y = Gather<axis = 1>(s, one) }", "come from Softmax"),
        (
            "(float[n, 1] x) => (float[n] y, float[n, 2] s) { s = Concat<axis = 1>(x, x)  y = Gather<axis = 1>(s, one) }",
            "the probability of class 0 is read too",
        ),
        (
            "(float[n, 1] x) => (float[n] y) { s = Concat<axis = 1>(x, x, x)  y = Gather<axis = 1>(s, one) }",
            "not two columns side by side",
        ),
    ],
)
def test_what_cannot_be_rewritten_is_refused(text: str, reason: str) -> None:
    model = models.graph_of(f"g {text}", {"one": np.array(1), "zero": np.array(0)})

    assert reason in (takes_one_score(model) or "")


def test_trees_of_three_classes_vote_in_another_way() -> None:
    model = exported(RandomForestClassifier(5, max_depth=3, random_state=0), labels=LABELS + (ROWS[:, 4] > 0.5))

    assert takes_one_score(model) == "its trees vote in another way (NONE of classes 0, 1, 2)"


def test_a_label_that_is_read_stays() -> None:
    model = exported(RandomForestClassifier(5, max_depth=3, random_state=0))
    classifier = next(node for node in model.graph.node if node.op_type == "TreeEnsembleClassifier")
    model.graph.output.append(helper.make_tensor_value_info(classifier.output[0], 7, [None]))

    assert takes_one_score(model) == "the label of its tree classifier is read"


def test_a_linear_classifier_is_none() -> None:
    assert "not from trees or two columns" in (takes_one_score(exported(LogisticRegression())) or "")
