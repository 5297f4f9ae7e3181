"""Converts a scikit-learn classifier to an ONNX graph with one input a column and one output, `probability`."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from tidegate.errors import PackageError
from tidegate.packaging.manifest import PROBABILITY, Datatype, Signature, TensorSpec

_CONVERTER_TYPES = {"BYTES": StringTensorType, "INT64": Int64TensorType, "FP32": FloatTensorType}
_ONNX_TYPES = {"BYTES": TensorProto.STRING, "INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}
_OPSET = {"": 18, "ai.onnx.ml": 3}


def convert_classifier(model: Any, signature: Signature, *, name: str) -> onnx.ModelProto:
    """Return the ONNX graph of a fitted binary classifier.

    Each input of the signature is a graph input of shape [-1, 1], used or not; the only output is `probability`, float32 of
    shape [-1]: the probability of class 1.

    Raises:
        PackageError: The model is not a fitted classifier of classes 0 and 1, or skl2onnx has no converter for a part of it.
    """
    _check_classifier(model, name)
    _check_columns(model, signature, name)
    converted = _convert(_reading_columns(model, signature), signature, name)
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


def _check_columns(model: Any, signature: Signature, name: str) -> None:
    given = [spec.name for spec in signature.inputs]
    for column in getattr(model, "feature_names_in_", ()):
        if column not in given:
            raise PackageError(f"model {name}: it reads column {str(column)!r}, which is not among {', '.join(given)}")


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
