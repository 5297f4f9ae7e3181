"""Infers a model's signature from the rows it was trained on."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tidegate.errors import DataError
from tidegate.packaging.inputs import input_datatype
from tidegate.packaging.manifest import LABEL, PROBABILITY, Datatype, FeatureContract, FeatureField, Signature, TensorSpec

_MAX_CATEGORIES = 1_000


def infer_signature(rows: pa.Table, request_inputs: Sequence[str], contract: FeatureContract | None) -> Signature:
    """Return the signature of a model that was trained on `rows`.

    Args:
        rows: Training rows; at least the request inputs and one column `<view>__<feature>` for each feature.
        request_inputs: Columns that the caller of the model sends.
        contract: The looked-up features, or None if there are none.

    Returns:
        Inputs in the order request inputs, then features as in the contract, with the ranges, categories and missing
        values that `rows` held; and the output `probability`. An optional integer feature without a default is FP32,
        since online it may be missing.

    Raises:
        DataError: There are no rows, a column is missing, or it has a type that no model input can have.
    """
    if rows.num_rows == 0:
        raise DataError("the sample holds no rows; a signature needs at least one")
    inputs = [_request_spec(rows, name) for name in request_inputs]
    inputs += [_feature_spec(rows, view, field) for view, field in _fields(contract)]
    for spec in inputs:
        if spec.name in (PROBABILITY, LABEL):
            raise DataError(f"input {spec.name!r} has the name of a column of the reference; rename it")
    return Signature(inputs=tuple(inputs), outputs=(TensorSpec(name=PROBABILITY, datatype="FP32", shape=(-1,)),))


def _fields(contract: FeatureContract | None) -> Iterator[tuple[str, FeatureField]]:
    for view in contract.views if contract else ():
        for field in view.features:
            yield view.name, field


def _request_spec(rows: pa.Table, name: str) -> TensorSpec:
    column = _column(rows, name)
    return _spec(name, column, input_datatype(name, column), nullable=column.null_count > 0, source_of=None)


def _feature_spec(rows: pa.Table, view: str, field: FeatureField) -> TensorSpec:
    name = f"{view}__{field.name}"
    column = _column(rows, name)
    datatype = input_datatype(name, column)
    optional = not field.required and field.default is None
    if datatype == "INT64" and optional:
        datatype = "FP32"
    return _spec(name, column, datatype, nullable=optional or column.null_count > 0, source_of=f"{view}:{field.name}")


def _spec(name: str, column: pa.ChunkedArray, datatype: Datatype, *, nullable: bool, source_of: str | None) -> TensorSpec:
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


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise DataError(f"column {name!r} is missing in the training rows, which have {', '.join(rows.column_names)}")
    return rows.column(name)


def _range(column: pa.ChunkedArray) -> tuple[float | None, float | None]:
    floats = column.cast(pa.float64())
    ends = pc.min_max(floats.filter(pc.is_finite(floats))).as_py()
    return ends["min"], ends["max"]


def _categories(column: pa.ChunkedArray) -> tuple[str, ...] | None:
    values = pc.unique(column.cast(pa.string())).drop_null()
    return tuple(sorted(values.to_pylist())) if len(values) <= _MAX_CATEGORIES else None
