"""Adds trees to a graph that skl2onnx makes: raw scores by a tree ensemble, then the objective's link.

Used for models whose own converters were found to be wrong: skl2onnx 1.20 ignores the categorical features of
HistGradientBoosting, and where forests send missing values; onnxmltools 1.16 ignores or mistakes XGBoost's random forests,
quantiles, several targets and reg:logistic, and LightGBM's random forests, one-versus-all, sigmoid and reg_sqrt; both round
64-bit thresholds to the nearest 32-bit number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from onnx import TensorProto

from tidegate.packaging.sources.trees import Tree, ensemble_attributes

# What the outputs are of the raw scores; "signed square" is x·|x|, "step" is 1 above 0, else 0.
Link = Literal["identity", "sigmoid", "softmax", "exp", "softplus", "signed square", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosted:
    """A model whose raw scores are sums over trees.

    Attributes:
        trees: Its trees.
        base: The raw score that each target starts from.
        link: Makes outputs of raw scores.
        steepness: Of a sigmoid link: raw scores are multiplied by it.
    """

    trees: Sequence[Tree]
    base: Sequence[float]
    link: Link
    steepness: float = 1.0


Reader = Callable[[Any], Boosted]


def classifier_converter(read: Reader, *, narrow: bool = False) -> Callable[[Any, Any, Any], None]:
    """Return skl2onnx's converter of a classifier: its outputs are the label and the probabilities.

    Args:
        read: Returns the model's trees.
        narrow: Whether the model compares 32-bit values, whatever it is given.
    """

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph, model = _Graph(scope, operator, container), operator.raw_operator
        trees, binary = read(model), len(model.classes_) == 2
        asked_raw = container.has_options(model, "raw_scores") and container.get_options(model, {"raw_scores": False})
        if asked_raw and asked_raw["raw_scores"]:  # what decision_function answers
            scores = graph.raw_scores(trees, narrow=narrow)
            answers = graph.against(scores, 0.0) if binary else scores
        else:
            scores = graph.linked(graph.raw_scores(trees, narrow=narrow), trees)
            answers = graph.against(scores, 1.0) if binary else scores
        graph.write_label(answers, model.classes_)
        graph.write_output(answers, 1)

    return convert


def regressor_converter(read: Reader, *, narrow: bool = False) -> Callable[[Any, Any, Any], None]:
    """Return skl2onnx's converter of a regressor, as `classifier_converter`; its output is [n, targets]."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        graph, trees = _Graph(scope, operator, container), read(operator.raw_operator)
        graph.write_output(graph.linked(graph.raw_scores(trees, narrow=narrow), trees), 0)

    return convert


class _Graph:
    """What skl2onnx gives a converter, with names for what is done to it."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self._scope, self._operator, self._container = scope, operator, container

    def raw_scores(self, model: Boosted, *, narrow: bool) -> str:
        from skl2onnx.common.data_types import DoubleTensorType

        wide = not narrow and isinstance(self._operator.inputs[0].type, DoubleTensorType)
        given = self._operator.inputs[0].full_name
        features = given if wide else self._node("Cast", [given], to=TensorProto.FLOAT)
        attributes = ensemble_attributes(model.trees, model.base, wide=wide)
        version = 3 if wide else 1
        return self._node("TreeEnsembleRegressor", [features], op_domain="ai.onnx.ml", op_version=version, **attributes)

    def against(self, score: str, whole: float) -> str:
        """Put the score of class 0, which makes the whole with that of class 1, before it."""
        other = self._node("Sub", [self._constant(whole), score])
        return self._node("Concat", [other, score], axis=1)

    def write_label(self, probabilities: str, classes: np.ndarray) -> None:
        text = classes.dtype.kind not in "biuf"
        names = self._scope.get_unique_variable_name("classes")
        kind = TensorProto.STRING if text else TensorProto.INT64
        values = [str(name).encode() for name in classes] if text else classes.astype(np.int64).tolist()
        self._container.add_initializer(names, kind, [len(classes)], values)
        likeliest = self._node("ArgMax", [probabilities], axis=1, keepdims=0)
        label = self._node("Gather", [names, likeliest], axis=0)
        self._container.add_node("Identity", [label], [self._operator.outputs[0].full_name], name=self._name("Identity"))

    def write_output(self, tensor: str, position: int) -> None:
        from skl2onnx.common.data_types import DoubleTensorType

        output = self._operator.outputs[position]
        kind = TensorProto.DOUBLE if isinstance(output.type, DoubleTensorType) else TensorProto.FLOAT
        self._container.add_node("Cast", [tensor], [output.full_name], name=self._name("Cast"), to=kind)

    def linked(self, scores: str, model: Boosted) -> str:
        match model.link:
            case "sigmoid":
                steep = scores if model.steepness == 1 else self._node("Mul", [scores, self._constant(model.steepness)])
                return self._node("Sigmoid", [steep])
            case "softmax":
                return self._node("Softmax", [scores], axis=1)
            case "exp":
                return self._node("Exp", [scores])
            case "softplus":
                return self._node("Softplus", [scores])
            case "signed square":
                return self._node("Mul", [scores, self._node("Abs", [scores])])
            case "step":
                above = self._node("Greater", [scores, self._constant(0.0)])
                return self._node("Cast", [above], to=TensorProto.FLOAT)
            case "identity":
                return scores

    def _constant(self, value: float) -> str:
        name: str = self._scope.get_unique_variable_name("constant")
        self._container.add_initializer(name, TensorProto.FLOAT, [], [value])
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output: str = self._scope.get_unique_variable_name(kind.lower())
        self._container.add_node(kind, inputs, [output], name=self._name(kind), **attributes)
        return output

    def _name(self, kind: str) -> str:
        name: str = self._scope.get_unique_operator_name(kind)
        return name
