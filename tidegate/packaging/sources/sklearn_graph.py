"""Converts an estimator of scikit-learn's kind to ONNX: one graph input a column, standard outputs, and as exact as it gets."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn, update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, RobustScaler, StandardScaler

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import SCORE_OUTPUTS, Datatype, Runtime, Task, TensorSpec
from tidegate.packaging.onnx_graphs import drop_unread, rename_reads
from tidegate.packaging.running.session import open_session
from tidegate.packaging.sources import forests, histogram_boosting, scalers
from tidegate.packaging.sources.sklearn_parts import known_wrong, knows_missing_text, parts, readable
from tidegate.packaging.sources.source import Array

_CONVERTER_TYPES = {
    "BYTES": StringTensorType,
    "INT64": Int64TensorType,
    "FP32": FloatTensorType,
    "FP64": DoubleTensorType,
}
_ONNX_TYPES = {"BYTES": TensorProto.STRING, "INT64": TensorProto.INT64, "FP32": TensorProto.FLOAT}
_OPSET = {"": 18, "ai.onnx.ml": 3}
_SCALERS = (StandardScaler, RobustScaler, MaxAbsScaler)
_LOCALE = "C.UTF-8"  # of lower case; skl2onnx's default, en_US, is seldom installed where a model is served
_TOLERANCE = 1e-5  # absolute and relative: what 32-bit arithmetic may differ by


@dataclass(frozen=True, slots=True)
class _Reading:
    """How a graph reads numbers: integers and floats as which datatype, and whether scalers divide, as scikit-learn's do.

    Else they are the faster operator Scaler, which multiplies by the reciprocal.
    """

    integers: Datatype = "INT64"
    floats: Datatype = "FP32"
    divides: bool = False

    def datatype(self, own: Datatype) -> Datatype:
        return {"INT64": self.integers, "FP32": self.floats}.get(own, own)


def closest_graph(
    model: Any,
    name: str,
    task: Task,
    inputs: tuple[TensorSpec, ...],
    example: Mapping[str, Array],
    expected: Mapping[str, Array],
) -> onnx.ModelProto:
    """Return the graph whose outputs lie nearest to the model's own on the example.

    The inputs are read as they are; where that fails or is not exact, integers as 32-bit floats; then with scikit-learn's own
    division in scalers, whose last bit decides at a tree's split; and at last, as for large integers, all numbers as 64-bit
    floats. So speed is given up only for exactness. See https://onnx.ai/sklearn-onnx/auto_tutorial/plot_ebegin_float_double.html.

    Raises:
        PackageError: skl2onnx has no converter for a part of the model; the message names it.
    """
    if knows_missing_text(model):
        raise PackageError(
            f"model {name}: its encoder knows missing texts as None or NaN, but a served text that is missing is empty; "
            "fit it with '' in their place (fillna(''))"
        )
    _register_boosters(model)
    scores = expected[SCORE_OUTPUTS[task]]
    targets = scores.shape[1] if scores.ndim > 1 else None
    closest, smallest = None, np.inf
    failure: Exception | None = None
    for reading in _readings(model, inputs):
        try:
            graph = _with_standard_output(_converted(model, name, task, inputs, reading), task, targets)
            gap = _gap(graph, example, expected)
        except PackageError as error:
            failure = failure or error
            if error.__cause__ is None:
                raise
            continue
        if gap < smallest:
            closest, smallest = graph, gap
        if gap == 0:
            break
    if closest is None:
        raise PackageError(str(failure)) from failure
    if smallest > 0 and known_wrong(model):
        raise PackageError(f"model {name}: its graph disagrees on {smallest:.1%} of the sample's rows: {known_wrong(model)}")
    return closest


def _readings(model: Any, inputs: Sequence[TensorSpec]) -> Iterator[_Reading]:
    """Yield ways to read, the fastest first."""
    kinds = {spec.datatype for spec in inputs}
    scales = any(isinstance(part, _SCALERS) for part in parts(model))
    integers: tuple[Datatype, ...] = ("INT64", "FP32") if "INT64" in kinds else ("INT64",)
    for kind in integers:
        yield _Reading(integers=kind)
    for kind in integers if scales else ():
        yield _Reading(integers=kind, divides=True)
    if kinds & {"INT64", "FP32"}:
        yield _Reading(integers="FP64", floats="FP64", divides=True)


def _gap(graph: onnx.ModelProto, example: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Return the share of outputs that lie further from the expected than the tolerance, or infinity without a likeness."""
    names = list(expected)
    try:
        onnx.checker.check_model(graph)
    except onnx.checker.ValidationError as error:
        raise PackageError(f"the converted graph is malformed: {in_one_line(error)}") from error
    session = open_session(graph.SerializeToString(), Runtime())
    try:
        found = session.run(names, dict(example))
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        raise PackageError(f"the converted graph cannot run: {in_one_line(error)}") from error
    shares = [0.0]
    for name, array in zip(names, found, strict=True):
        if array.shape != expected[name].shape:
            return float(np.finfo(np.float64).max)
        near = np.isclose(array, expected[name], rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
        shares.append(1 - float(near.mean()))
    return max(shares)


def _converted(model: Any, name: str, task: Task, inputs: tuple[TensorSpec, ...], reading: _Reading) -> onnx.ModelProto:
    types = [(spec.name, _CONVERTER_TYPES[reading.datatype(spec.datatype)]([None, *spec.shape[1:]])) for spec in inputs]
    whole = _reading_columns(readable(model), inputs)
    options: dict[int, dict[str, Any]] = {} if task == "regression" else {id(whole): {"zipmap": False}}
    options |= {id(part): _text_options(part) for part in parts(model) if isinstance(part, CountVectorizer)}
    if reading.divides:
        options |= {id(part): {"div": "div"} for part in parts(model) if isinstance(part, _SCALERS)}
    exact_scalers = scalers.converters() if reading.divides and reading.floats == "FP32" else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = convert_sklearn(
                whole,
                name=_graph_name(name),
                initial_types=types,
                options=options or None,
                target_opset=_OPSET,
                custom_conversion_functions=forests.converters() | histogram_boosting.converters() | exact_scalers,
            )
    except PackageError as error:
        raise PackageError(f"model {name}: {error}") from None
    except Exception as error:  # the converter raises whatever its parts raise
        raise PackageError(f"model {name}: {_why_unconvertible(error)}") from error
    if reading.floats == "FP64":
        _widen_imputers(graph.graph)
    return _with_exact_inputs(graph, inputs)


def _text_options(vectorizer: CountVectorizer) -> dict[str, Any]:
    """Return how to split text: skl2onnx takes the words of the default pattern to be of a to z alone."""
    default = vectorizer.analyzer == "word" and vectorizer.token_pattern == CountVectorizer().token_pattern
    return {"locale": _LOCALE, **({"tokenexp": r"[\p{L}\p{N}_]+"} if default else {})}


def _graph_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "model"


def _why_unconvertible(error: Exception) -> str:
    reason = " ".join(str(error).split())
    part = re.search(r"type '<class '([\w.]+)'>'", reason)
    if part and "Unable to find" in reason:
        return (
            f"skl2onnx cannot convert it: it has no converter for {part[1].rsplit('.', 1)[-1]}; "
            "replace that part by one that it has (https://onnx.ai/sklearn-onnx/supported.html)"
        )
    if ("StringTensorType" in reason and "wrong type" in reason) or "Unable to find column name" in reason:
        return (
            "skl2onnx cannot convert it: columns by name, or of text, reach a part that reads numbers; "
            "choose and encode them in a ColumnTransformer that is the first step of one Pipeline around the whole model"
        )
    return f"skl2onnx cannot convert it: {reason[:300] or type(error).__name__}"


def _reading_columns(model: Any, inputs: tuple[TensorSpec, ...]) -> Any:
    """Put a step in front of a model that reads one matrix, which joins the columns."""
    if isinstance(model, ColumnTransformer) or any(
        isinstance(step, ColumnTransformer) for _, step in getattr(model, "steps", ())[:1]
    ):
        return model
    names = [spec.name for spec in inputs]
    names = [str(column) for column in getattr(model, "feature_names_in_", names)]
    if len(inputs) == 1:
        return model
    joiner = ColumnTransformer([("columns", "passthrough", names)])
    joiner.fit(pd.DataFrame({column: np.zeros(1, dtype=np.float32) for column in names}))
    return Pipeline([("columns", joiner), ("model", model)])


def _register_boosters(model: Any) -> None:
    """Make skl2onnx know the classes of XGBoost and LightGBM, if the model has one of them as a part."""
    found = list(parts(model))
    libraries = {type(part).__module__.split(".")[0] for part in found}
    converters: dict[type, tuple[bool, Any]] = {}
    if "xgboost" in libraries:
        from tidegate.packaging.sources import xgboost_model

        converters |= xgboost_model.converters()
    if "lightgbm" in libraries or any(type(part).__name__.startswith("Booster") for part in found):
        from tidegate.packaging.sources import lightgbm_model

        converters |= lightgbm_model.converters()
    for kind, (classifies, convert) in converters.items():
        update_registered_converter(
            kind,
            f"Tidegate{kind.__name__}",
            calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes,
            convert,
            options=_options(kind) if classifies else None,
        )


def _options(kind: type) -> dict[str, list[bool | str]]:
    """Return the options of a classifier's converter; where it has raw scores, CalibratedClassifierCV asks for them."""
    options: dict[str, list[bool | str]] = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    return {**options, "raw_scores": [True, False]} if hasattr(kind, "decision_function") else options


def _with_exact_inputs(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> onnx.ModelProto:
    """Make every input of the signature a graph input of its own name and datatype, cast to what the graph reads."""
    graph = model.graph
    if len(graph.input) == len(inputs):  # skl2onnx gives names with spaces and the like others, in the same order
        rename_reads(graph, {value.name: spec.name for value, spec in zip(graph.input, inputs, strict=True)})
        for value, spec in zip(graph.input, inputs, strict=True):
            value.name = spec.name
    read_as = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    casts = [spec for spec in inputs if read_as.get(spec.name, _ONNX_TYPES[spec.datatype]) != _ONNX_TYPES[spec.datatype]]
    rename_reads(graph, {spec.name: f"{spec.name} cast" for spec in casts})
    for spec in reversed(casts):
        cast = helper.make_node("Cast", [spec.name], [f"{spec.name} cast"], f"cast {spec.name}", to=read_as[spec.name])
        graph.node.insert(0, cast)
    del graph.input[:]
    graph.input.extend(
        helper.make_tensor_value_info(
            spec.name, _ONNX_TYPES[spec.datatype], [None, *(size if size > 0 else None for size in spec.shape[1:])]
        )
        for spec in inputs
    )
    return model


def _widen_imputers(graph: onnx.GraphProto) -> None:
    """Fill in missing 64-bit floats by comparison, since ONNX Runtime has no Imputer of them."""
    for place, node in reversed(list(enumerate(graph.node))):
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Imputer" or "imputed_value_floats" not in given:
            continue
        filling, missing = f"{node.output[0]} filling", f"{node.output[0]} is missing"
        replaced = given.get("replaced_value_float", np.nan)
        values = {filling: np.asarray(given["imputed_value_floats"]), f"{missing} as": np.asarray([replaced])}
        graph.initializer.extend(numpy_helper.from_array(array.astype(np.float64), name) for name, array in values.items())
        finds = ("IsNaN", [node.input[0]]) if np.isnan(replaced) else ("Equal", [node.input[0], f"{missing} as"])
        comparison = helper.make_node(*finds, [missing], f"find {missing}")
        choice = helper.make_node("Where", [missing, filling, node.input[0]], [node.output[0]], f"fill {node.output[0]}")
        del graph.node[place]
        graph.node.insert(place, choice)
        graph.node.insert(place, comparison)


def _with_standard_output(model: onnx.ModelProto, task: Task, targets: int | None) -> onnx.ModelProto:
    """Keep the task's output alone, under its standard name, in 32 bits, and no node that serves another.

    `targets` is the length of its second axis, or None if it has none.
    """
    graph, output = model.graph, SCORE_OUTPUTS[task]
    scores = graph.output[0 if task == "regression" else 1].name
    graph.node.append(helper.make_node("Cast", [scores], ["scores of all"], "cast scores", to=TensorProto.FLOAT))
    if task == "binary-classification":
        graph.initializer.append(numpy_helper.from_array(np.asarray(1, dtype=np.int64), "class 1"))
        graph.node.append(helper.make_node("Gather", ["scores of all", "class 1"], ["scores"], "take class 1", axis=1))
    else:
        shape = np.asarray([-1] if targets is None else [-1, targets], dtype=np.int64)
        graph.initializer.append(numpy_helper.from_array(shape, "shape of scores"))
        graph.node.append(helper.make_node("Reshape", ["scores of all", "shape of scores"], ["scores"], "shape scores"))
    _rename_values(graph, {output: f"{output} inside", "scores": output})
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, *([targets] if targets else [])]))
    drop_unread(graph)
    return model


def _rename_values(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    rename_reads(graph, names)
    for node in graph.node:
        for position, name in enumerate(node.output):
            node.output[position] = names.get(name, name)
