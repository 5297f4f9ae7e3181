"""Infers a model's inputs from the rows it was trained on, and reads its outputs from its graph."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError, PackageError
from tidegate.packaging.bfloat16_graphs import signature_datatype
from tidegate.packaging.format.manifest import LABEL, SCORE_OUTPUTS, Datatype, FeatureContract, FeatureField, TensorSpec
from tidegate.packaging.inputs import input_datatype, is_tensor, missing_values, tensor_rows

_MAX_CATEGORIES = 1_000


def infer_inputs(
    rows: pa.Table, request_inputs: Sequence[str], contract: FeatureContract | None, *, label: str | None = None
) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model that was trained on `rows`.

    Args:
        rows: Training rows; at least the request inputs and one column `<view>__<feature>` for each feature.
        request_inputs: Columns that the caller of the model sends.
        contract: The looked-up features, or None if there are none.
        label: Column that holds the label, if there is one.

    Returns:
        Inputs in the order request inputs, then features as in the contract, with the ranges, categories and missing
        values that `rows` held. An optional integer feature without a default is FP32, since online it may be missing.

    Raises:
        DataError: There are no rows or inputs, one is the label, a column is missing, or it has a type that no model reads.
    """
    if rows.num_rows == 0:
        raise DataError("the sample holds no rows; a signature needs at least one")
    inputs = [_request_spec(rows, name) for name in request_inputs]
    inputs += [_feature_spec(rows, view, field) for view, field in _fields(contract)]
    if not inputs:
        raise DataError("the model has no inputs; the sample needs at least one column beside the label")
    for spec in inputs:
        if spec.name == label:
            raise DataError(f"input {spec.name!r} is the label column, which is not known when a model is asked; leave it out")
        if spec.name in (*SCORE_OUTPUTS.values(), LABEL):
            raise DataError(f"input {spec.name!r} has the name of a column of the reference; rename it")
    return tuple(inputs)


def output_specs(graph: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return a graph's outputs; an axis of unknown or varying length is -1. Raises PackageError for an unknown datatype."""
    return tuple(
        TensorSpec(name=value.name, datatype=_graph_datatype(value), shape=_graph_shape(value)) for value in graph.graph.output
    )


def _graph_datatype(value: onnx.ValueInfoProto) -> Datatype:
    datatype = signature_datatype(value)
    if datatype is None:
        name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        raise PackageError(f"{value.name!r} of the graph is {name}, which no signature can say")
    return datatype


def _graph_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim)


def _fields(contract: FeatureContract | None) -> Iterator[tuple[str, FeatureField]]:
    for view in contract.views if contract else ():
        for field in view.features:
            yield view.name, field


def _request_spec(rows: pa.Table, name: str) -> TensorSpec:
    column = _column(rows, name)
    return _spec(name, column, input_datatype(name, column), nullable=missing_values(column) > 0, source_of=None)


def _feature_spec(rows: pa.Table, view: str, field: FeatureField) -> TensorSpec:
    name = f"{view}__{field.name}"
    column = _column(rows, name)
    datatype = input_datatype(name, column)
    optional = not field.required and field.default is None
    if datatype == "INT64" and optional:
        datatype = "FP32"
    return _spec(name, column, datatype, nullable=optional or missing_values(column) > 0, source_of=f"{view}:{field.name}")


def _spec(name: str, column: pa.ChunkedArray, datatype: Datatype, *, nullable: bool, source_of: str | None) -> TensorSpec:
    if is_tensor(column):
        return _tensor_spec(name, tensor_rows(name, column), datatype)
    low, high = (None, None) if datatype == "BYTES" else _range(column)
    return TensorSpec(
        name=name,
        datatype=datatype,
        shape=(-1, 1),
        source="request" if source_of is None else "feature",
        feature=source_of,
        nullable=nullable,
        minimum=low,
        maximum=high,
        categories=_categories(column) if datatype == "BYTES" else None,
    )


def _tensor_spec(name: str, array: np.ndarray, datatype: Datatype) -> TensorSpec:
    numbers = array.dtype.kind in "iuf" and array.size > 0
    return TensorSpec(
        name=name,
        datatype=datatype,
        shape=(-1, *array.shape[1:]),
        nullable=bool(array.dtype.kind == "f" and np.isnan(array).any()),
        minimum=float(np.nanmin(array)) if numbers else None,
        maximum=float(np.nanmax(array)) if numbers else None,
    )


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise DataError(f"column {name!r} is missing in the training rows, which have {', '.join(rows.column_names)}")
    return rows.column(name)


def _range(column: pa.ChunkedArray) -> tuple[float | None, float | None]:
    values = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    floats = values.cast(pa.float64(), safe=False)  # a range may be rounded
    ends = pc.min_max(floats.filter(pc.is_finite(floats))).as_py()
    return ends["min"], ends["max"]


def _categories(column: pa.ChunkedArray) -> tuple[str, ...] | None:
    values = pc.unique(column.cast(pa.string())).drop_null()
    return tuple(sorted(values.to_pylist())) if len(values) <= _MAX_CATEGORIES else None
