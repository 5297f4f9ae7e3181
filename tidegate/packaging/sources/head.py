"""Says what the outputs of a tensor model mean: the user names a task and how its output becomes the task's answer.

    with_head(source, "multiclass-classification", activation="softmax")             # logits [n, classes] -> probabilities
    with_head(source, "binary-classification", activation="sigmoid")                 # a logit [n] or [n, 1] -> probability
    with_head(source, "regression", output="price")                                  # [n], [n, 1] or [n, targets] -> prediction

The same arithmetic is appended to the graph and applied to the framework's own answers, so that parity stays a proof.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import SCORE_OUTPUTS, SourceFacts, Task, TensorSpec
from tidegate.packaging.sources.graphs import with_boundary
from tidegate.packaging.sources.source import Array, Source

Activation = Literal["none", "softmax", "sigmoid"]
_Step = Literal["softmax", "sigmoid", "class 1", "flatten"]

_ACTIVATIONS: dict[Task, tuple[Activation, ...]] = {
    "binary-classification": ("none", "sigmoid", "softmax"),
    "multiclass-classification": ("none", "softmax"),
    "regression": ("none",),
}
_ROUNDING = 1e-3  # how far the probabilities of a row may be from adding up to 1
_GIVEN, _OPERAND = "what the head reads", "operand"


def with_head(
    source: Source, task: Task, *, activation: Activation = "none", output: str | None = None, classes: Sequence[str] = ()
) -> Source:
    """Return a source that answers in the standard outputs of a task.

    Args:
        source: A model of the task "tensors".
        task: What its output means.
        activation: What makes scores of what it gives: "softmax" over the logits of all classes, "sigmoid" of a single logit,
            or "none" if it gives probabilities already.
        output: Which of its outputs; may be None if it has one only.
        classes: The classes' names, in the order of the scores; empty if nobody knows them.

    Returns:
        A source with that one output; the others are dropped. It raises PackageError when it first answers, if the output's
        shape is none of the task's.

    Raises:
        PackageError: The source knows its own task, or the activation is none of the task's.
    """
    if source.task != "tensors":
        raise PackageError(f"the model says itself that it is a {source.task}; give neither --task nor --activation")
    if task not in _ACTIVATIONS:
        raise PackageError(f"--task {task}: its outputs stay as they are; give no --activation and no --output")
    if activation not in _ACTIVATIONS[task]:
        raise PackageError(f"--activation {activation} makes no {task}; give {' or '.join(_ACTIVATIONS[task])}")
    return _HeadedModel(source, task, activation, output, tuple(classes))


class _HeadedModel:
    def __init__(
        self, source: Source, task: Task, activation: Activation, output: str | None, classes: tuple[str, ...]
    ) -> None:
        self._source, self._output, self._activation = source, output, activation
        self.task, self.classes = task, classes

    @property
    def facts(self) -> SourceFacts:
        return self._source.facts

    @property
    def columns(self) -> tuple[str, ...]:
        return self._source.columns

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return self._source.accept(inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        answered = self._source.predict(inputs)
        chosen = self._chosen(list(answered))
        array = answered[chosen].astype(np.float32)
        for step in self._steps(chosen, array):
            array = _computed(step, array)
        if self.task != "regression":
            self._check_probabilities(chosen, array)
        return {SCORE_OUTPUTS[self.task]: array}

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        answered = self._source.predict(example)
        chosen = self._chosen(list(answered))
        graph = self._source.to_onnx(inputs, example)
        graph = with_boundary(graph, {spec.name: spec.name for spec in inputs}, {chosen: _GIVEN})
        return _with_steps(graph, self._steps(chosen, answered[chosen]), SCORE_OUTPUTS[self.task])

    def _chosen(self, outputs: Sequence[str]) -> str:
        """The output that the head reads."""
        if self._output is None and len(outputs) == 1:
            return outputs[0]
        if self._output is None or self._output not in outputs:
            said = "it has several outputs" if self._output is None else f"it has no output {self._output!r}"
            raise PackageError(f"--task {self.task}: {said}; give --output, one of {', '.join(outputs)}")
        return self._output

    def _steps(self, name: str, array: Array) -> list[_Step]:
        """What turns an output of this shape into the task's, or PackageError if nothing does."""
        single = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
        columns = array.shape[1] if array.ndim == 2 else 0
        match self.task, self._activation:
            case "binary-classification", "sigmoid" if single:
                return ["sigmoid", "flatten"]
            case "binary-classification", "none" if single:
                return ["flatten"]
            case "binary-classification", "softmax" if columns == 2:
                return ["softmax", "class 1"]
            case "binary-classification", "none" if columns == 2:
                return ["class 1"]
            case "multiclass-classification", "softmax" if columns > 1:
                return ["softmax"]
            case "multiclass-classification", "none" if columns > 1:
                return []
            case "regression", _ if single:
                return ["flatten"]
            case "regression", _ if columns > 1:
                return []
        shape = ", ".join(("n", *(str(size) for size in array.shape[1:])))
        raise PackageError(
            f"output {name!r} has shape [{shape}], which is no {self.task} with activation {self._activation}: "
            f"{_FITTING[self.task]}"
        )

    def _check_probabilities(self, name: str, array: Array) -> None:
        finite = array[np.isfinite(array)]
        inside = bool((finite >= -_ROUNDING).all() and (finite <= 1 + _ROUNDING).all())
        sums = array.sum(axis=1) if array.ndim == 2 else np.ones(1)
        if not inside or bool((np.abs(sums[np.isfinite(sums)] - 1) > _ROUNDING).any()):
            raise PackageError(
                f"output {name!r} holds {finite.min():g} to {finite.max():g}, which are no probabilities of a {self.task}; "
                f"give --activation {' or '.join(_ACTIVATIONS[self.task][1:])}"
            )


_FITTING = {
    "binary-classification": "sigmoid and none take [n] or [n, 1], softmax and none take [n, 2]",
    "multiclass-classification": "[n, classes] is needed",
    "regression": "[n], [n, 1] or [n, targets] is needed",
}


def _computed(step: _Step, array: Array) -> Array:
    if step == "softmax":
        exponentials = np.exp(array - array.max(axis=1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))
    if step == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-array.astype(np.float64)))).astype(np.float32)
    return array[:, 1] if step == "class 1" else array.reshape(-1)


def _with_steps(model: onnx.ModelProto, steps: Sequence[_Step], output: str) -> onnx.ModelProto:
    """Append the steps to a graph whose only output is `_GIVEN`."""
    graph = model.graph
    given = graph.output[0].type.tensor_type
    last = f"{_GIVEN}: float"
    graph.node.append(helper.make_node("Cast", [_GIVEN], [last], to=TensorProto.FLOAT))
    for step in steps:
        graph.node.append(_node(step, last, f"{_GIVEN}: {step}"))
        last = f"{_GIVEN}: {step}"
    graph.node.append(helper.make_node("Identity", [last], [output]))
    operands = {"class 1": np.asarray(1, dtype=np.int64), "flatten": np.asarray([-1], dtype=np.int64)}
    graph.initializer.extend(
        numpy_helper.from_array(operands[step], f"{_OPERAND}: {step}") for step in steps if step in operands
    )
    flat = any(step in operands for step in steps)
    columns = [] if flat or len(given.shape.dim) < 2 else [given.shape.dim[1].dim_value or None]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", *columns]))
    return model


def _node(step: _Step, before: str, after: str) -> onnx.NodeProto:
    match step:
        case "softmax":
            return helper.make_node("Softmax", [before], [after], axis=1)
        case "sigmoid":
            return helper.make_node("Sigmoid", [before], [after])
        case "class 1":
            return helper.make_node("Gather", [before, f"{_OPERAND}: class 1"], [after], axis=1)
        case "flatten":
            return helper.make_node("Reshape", [before, f"{_OPERAND}: flatten"], [after])
