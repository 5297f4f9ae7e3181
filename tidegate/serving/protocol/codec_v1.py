"""The v1 (TensorFlow Serving) protocol: `instances` as a list of rows, or `inputs` as a dict of columns."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tidegate.errors import in_one_line
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import Tensor

_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def decode(body: bytes, datatypes: Mapping[str, str], request_id: str) -> tuple[InferRequest, bool]:
    """Read a v1 request body, and tell whether it is by rows (`instances`) rather than by columns (`inputs`).

    A model of one input may be sent its values bare, as TensorFlow Serving allows: `"instances": [[0.1, 0.2], …]`.

    Args:
        body: The JSON document.
        datatypes: Datatype of each model input; v1 itself states none. Other columns are entity keys: text or integers.
        request_id: The request's id; v1 bodies carry none.

    Raises:
        RequestError: The body is no well-formed request (status 400).
    """
    try:
        document = _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise bad_request(f"request body: {in_one_line(error)}") from error
    by_rows = "instances" in document
    if by_rows == ("inputs" in document):
        raise bad_request("request body: give either 'instances' (a list of rows) or 'inputs' (a dict of columns)")
    given = document["instances" if by_rows else "inputs"]
    if len(datatypes) == 1 and _is_bare(given):
        columns = {next(iter(datatypes)): given}
    else:
        columns = _columns_of_rows(given) if by_rows else _columns(given)
    tensors = [
        Tensor(name, datatypes.get(name) or _key_datatype(values), _shape(values), values) for name, values in columns.items()
    ]
    return InferRequest(request_id, tensors), by_rows


def encode(answer: InferAnswer, by_rows: bool) -> bytes:
    """Return the response body: `predictions`, one dict a row, or `outputs`, one list a column.

    Of a model with a single output they are its values themselves, as TensorFlow Serving answers (its RESTful API, "Predict").
    """
    columns = {name: array.tolist() for name, array in answer.outputs.items()}
    if len(columns) == 1:
        (values,) = columns.values()
        return _encoder.encode({"predictions" if by_rows else "outputs": values})
    if not by_rows:
        return _encoder.encode({"outputs": columns})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _encoder.encode({"predictions": rows})


def _is_bare(given: Any) -> bool:
    """Return whether rows are values themselves, not objects of input names and values."""
    return isinstance(given, list) and bool(given) and not isinstance(given[0], dict)


def _columns_of_rows(rows: Any) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise bad_request("'instances' must be a list of at least one row")
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise bad_request(f"instances[{index}] must be an object of input names and values, not {type(row).__name__}")
        if index == 0:
            columns = {name: [] for name in row}
        if row.keys() != columns.keys():
            differing = ", ".join(sorted(row.keys() ^ columns.keys()))
            raise bad_request(f"instances[{index}] and instances[0] differ in these names: {differing}")
        for name, value in row.items():
            columns[name].append(value)
    return columns


def _columns(columns: Any) -> dict[str, list[Any]]:
    if not isinstance(columns, dict) or not columns:
        raise bad_request("'inputs' must be an object of input names and lists of values")
    for name, values in columns.items():
        if not isinstance(values, list) or not values:
            raise bad_request(f"inputs[{name!r}] must be a list of at least one value")
    return columns


def _shape(values: list[Any]) -> list[int]:
    """Return the shape that nested lists have if they are not ragged, which the first of each tells."""
    shape = [len(values)]
    first = values[0]
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    return shape


def _key_datatype(values: list[Any]) -> str:
    first = values[0]
    while isinstance(first, list) and first:
        first = first[0]
    return "INT64" if isinstance(first, int) and not isinstance(first, bool) else "BYTES"
