"""Source models of scikit-learn: run by themselves, converted by skl2onnx."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pandas as pd
import sklearn
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from tidegate.errors import PackageError
from tidegate.packaging.manifest import PROBABILITY, Datatype, Signature, SourceFacts, Task, TensorSpec
from tidegate.packaging.sources.source import Array

_CONVERTER_TYPES = {"BYTES": StringTensorType, "INT64": Int64TensorType, "FP32": FloatTensorType}
_ONNX_TYPES = {"BYTES": TensorProto.STRING, "INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}
_OPSET = {"": 18, "ai.onnx.ml": 3}


class SklearnModel:
    """A fitted scikit-learn classifier of two classes, or a pipeline that ends in one."""

    task: Task = "binary-classification"
    classes: tuple[str, ...] = ()

    def __init__(self, model: Any, name: str) -> None:
        """Check that the model is fitted; raises PackageError if it is not, or not a classifier of classes 0 and 1."""
        _check_classifier(model, name)
        self._model, self._name = model, name
        self.facts = SourceFacts(framework="scikit-learn", version=sklearn.__version__, kind=type(model).__name__)
        self.columns = tuple(str(column) for column in getattr(model, "feature_names_in_", ()))

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as they are; raises PackageError if a column that the model reads is not among them."""
        given = [spec.name for spec in inputs]
        for column in self.columns:
            if column not in given:
                raise PackageError(f"model {self._name}: it reads column {column!r}, which is not among {', '.join(given)}")
        return tuple(inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the probability of class 1, float32 of shape [n]; raises PackageError if the model refuses the rows."""
        frame = pd.DataFrame({column: inputs[column].reshape(-1) for column in self.columns or inputs})
        try:
            probabilities = np.asarray(self._model.predict_proba(frame))
        except Exception as error:  # a source model raises whatever its steps raise
            reason = " ".join(str(error).split())
            raise PackageError(f"model {self._name}: it cannot predict the given rows: {reason[:300]}") from error
        return {PROBABILITY: probabilities[:, 1].astype(np.float32)}

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the ONNX graph; raises PackageError if skl2onnx has no converter for a part of the model."""
        signature = Signature(inputs=tuple(inputs), outputs=())
        converted = _convert(_reading_columns(self._model, signature), signature, self._name)
        return _with_one_output(_with_exact_inputs(converted, signature))


def _check_classifier(model: Any, name: str) -> None:
    if not callable(getattr(model, "predict_proba", None)):
        raise PackageError(f"model {name}: {type(model).__name__} has no predict_proba; a probabilistic classifier is needed")
    try:
        classes = np.asarray(model.classes_).tolist()
    except AttributeError:
        raise PackageError(f"model {name}: {type(model).__name__} is not fitted (no classes_); fit it first") from None
    if classes != [0, 1]:
        raise PackageError(f"model {name}: its classes are {classes}; [0, 1] is needed")


def _reading_columns(model: Any, signature: Signature) -> Any:
    """Put a step in front of a model without a ColumnTransformer that joins the columns; the converter needs one."""
    if any(isinstance(step, ColumnTransformer) for _, step in getattr(model, "steps", ())):
        return model
    names = [spec.name for spec in signature.inputs]
    names = list(getattr(model, "feature_names_in_", names))
    joiner = ColumnTransformer([("columns", "passthrough", names)])
    joiner.fit(pd.DataFrame({column: np.zeros(1, dtype=np.float32) for column in names}))
    return Pipeline([("columns", joiner), ("model", model)])


def _convert(model: Any, signature: Signature, name: str) -> onnx.ModelProto:
    """Convert with the inputs' own types; where the converter cannot mix integers and floats, with floats alone."""
    integers = any(spec.datatype == "INT64" for spec in signature.inputs)
    attempts: list[dict[str, Datatype]] = [{}, {"INT64": "FP32"}] if integers else [{}]
    failure: Exception | None = None
    for substitute in attempts:
        types = [
            (spec.name, _CONVERTER_TYPES[substitute.get(spec.datatype, spec.datatype)]([None, 1])) for spec in signature.inputs
        ]
        try:
            return convert_sklearn(
                model, name=name, initial_types=types, options={id(model): {"zipmap": False}}, target_opset=_OPSET
            )
        except Exception as error:  # the converter raises whatever its parts raise
            failure = error
    reason = " ".join(str(failure).split())
    raise PackageError(f"model {name}: skl2onnx cannot convert it: {reason[:300]}") from failure


def _with_exact_inputs(model: onnx.ModelProto, signature: Signature) -> onnx.ModelProto:
    """Make every input of the signature a graph input of its own datatype; integers are cast where floats are read."""
    graph = model.graph
    given = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    casts = [spec for spec in signature.inputs if spec.datatype == "INT64" and given.get(spec.name) == TensorProto.FLOAT]
    _rename_reads(graph.node, {spec.name: _as_float(spec) for spec in casts})
    for spec in reversed(casts):
        graph.node.insert(
            0, helper.make_node("Cast", [spec.name], [_as_float(spec)], f"cast {spec.name}", to=TensorProto.FLOAT)
        )
    del graph.input[:]
    graph.input.extend(
        helper.make_tensor_value_info(spec.name, _ONNX_TYPES[spec.datatype], [None, 1]) for spec in signature.inputs
    )
    return model


def _with_one_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep column 1 of the probabilities as the only output, and no node that serves another."""
    graph = model.graph
    probabilities = graph.output[1].name
    graph.initializer.append(numpy_helper.from_array(np.asarray(1, dtype=np.int64), "class_1"))
    graph.node.append(helper.make_node("Gather", [probabilities, "class_1"], [PROBABILITY], "take class 1", axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITY, TensorProto.FLOAT, [None]))
    _drop_unused(graph)
    onnx.checker.check_model(model)
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def _rename_reads(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    for node in nodes:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)


def _as_float(spec: TensorSpec) -> str:
    return f"{spec.name} as float"
