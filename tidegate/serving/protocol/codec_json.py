"""Open Inference Protocol v2 over REST: JSON bodies, and the binary tensor data extension, both ways."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.errors import in_one_line
from tidegate.serving.protocol import large_json
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, InferAnswer, InferRequest, nanoseconds, new_request_id
from tidegate.serving.protocol.tensors import Tensor, to_binary

INFERENCE_HEADER = "inference-header-content-length"


class _OutputIn(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _RequestIn(msgspec.Struct, gc=False):
    inputs: list[Tensor]
    id: str | None = None
    outputs: list[_OutputIn] | None = None
    parameters: dict[str, Any] | None = None


class _TensorOut(msgspec.Struct, gc=False, omit_defaults=True):
    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: list[Any] | None = None


class _ResponseOut(msgspec.Struct, gc=False):
    model_name: str
    model_version: str
    id: str
    outputs: list[_TensorOut]


_decoder = msgspec.json.Decoder(_RequestIn)
_encoder = msgspec.json.Encoder()


class WantedBinary:
    """Which outputs the caller wants as binary data: some by name, the rest by a default."""

    __slots__ = ("_by_name", "_default")

    def __init__(self, default: bool, by_name: dict[str, bool]) -> None:
        self._default = default
        self._by_name = by_name

    def __contains__(self, name: str) -> bool:
        return self._by_name.get(name, self._default)


_NO_BINARY = WantedBinary(False, {})


def decode(body: bytes, header_length: bytes | None = None) -> tuple[InferRequest, WantedBinary]:
    """Read a request body.

    Args:
        body: JSON, or with the binary extension JSON followed by the tensors' data.
        header_length: Value of the `Inference-Header-Content-Length` header, if there was one.

    Returns:
        The request, and which outputs are to be binary.

    Raises:
        RequestError: The body is no well-formed request (status 400).
    """
    if header_length is not None:
        length = _header_length(header_length, len(body))
        parsed = _parsed(memoryview(body)[:length])
        _attach_binary(parsed.inputs, memoryview(body)[length:])
    else:
        parsed = (_parsed_large(body) if len(body) >= large_json.AT_LEAST else None) or _parsed(body)
        _check_data(parsed.inputs)
    request = InferRequest(_request_id(parsed.id), parsed.inputs)
    if parsed.outputs is None and parsed.parameters is None:
        return request, _NO_BINARY
    if parsed.outputs:
        request.outputs = tuple(output.name for output in parsed.outputs)
    request.timeout = nanoseconds((parsed.parameters or {}).get("timeout", 0))
    return request, _wanted_binary(parsed)


def encode(
    answer: InferAnswer, model: str, version: str, datatypes: Mapping[str, str], wanted_binary: WantedBinary
) -> tuple[bytes, int | None]:
    """Return the response body, and the length of its JSON header if binary data follows it (else None).

    An output of datatype BF16 is always sent in binary.
    """
    outputs = []
    blobs = []
    for name, array in answer.outputs.items():
        datatype = datatypes[name]
        if name in wanted_binary or datatype == "BF16":
            blob = to_binary(array, datatype)
            outputs.append(_TensorOut(name, datatype, array.shape, {"binary_data_size": len(blob)}))
            blobs.append(blob)
        else:
            values = array.tolist() if array.ndim == 1 else array.ravel().tolist()
            outputs.append(_TensorOut(name, datatype, array.shape, None, values))
    header = _encoder.encode(_ResponseOut(model, version, answer.id, outputs))
    if not blobs:
        return header, None
    return b"".join((header, *blobs)), len(header)


def encode_error(message: str) -> bytes:
    """Return the protocol's error body."""
    return _encoder.encode({"error": message})


def _parsed(document: bytes | memoryview) -> _RequestIn:
    try:
        return _decoder.decode(document)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise bad_request(f"request body: {in_one_line(error)}") from error


def _parsed_large(body: bytes) -> _RequestIn | None:
    """Read what is usual in a large body; anything else is for `_parsed`."""
    found = large_json.read(body)
    if found is None:
        return None
    tensors, fields = found
    try:
        parsed = msgspec.convert({"inputs": [], **fields}, _RequestIn)
    except msgspec.ValidationError:
        return None
    parsed.inputs = tensors
    return parsed


def _header_length(text: bytes, body_length: int) -> int:
    if not text.isdigit() or len(text) > 18 or int(text) > body_length:
        shown = text[:40].decode("latin-1")
        raise bad_request(f"{INFERENCE_HEADER}: {shown!r} is not a length within the body's {body_length} bytes")
    return int(text)


def _check_data(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if type(tensor.data) is not list and type(tensor.data) is not np.ndarray:
            size = _binary_size(tensor)
            if size is not None:
                raise bad_request(f"tensor {tensor.name!r}: binary_data_size {size}, but there is no {INFERENCE_HEADER} header")
            raise _no_data(tensor)
        if tensor.parameters is not None:
            _binary_size(tensor)


def _attach_binary(tensors: list[Tensor], rest: memoryview) -> None:
    position = 0
    for tensor in tensors:
        size = _binary_size(tensor)
        if size is None:
            if type(tensor.data) is not list:
                raise _no_data(tensor)
            continue
        if size > len(rest) - position:
            raise bad_request(
                f"tensor {tensor.name!r}: binary_data_size {size}, but {len(rest) - position} bytes follow the JSON header"
            )
        tensor.data = rest[position : position + size]
        position += size
    if position != len(rest):
        raise bad_request(f"request body: {len(rest) - position} bytes after the last binary tensor belong to none")


def _no_data(tensor: Tensor) -> Exception:
    if tensor.data is None:
        return bad_request(f"tensor {tensor.name!r} has no data")
    return bad_request(f"tensor {tensor.name!r}: data must be a list, not {type(tensor.data).__name__}")


def _binary_size(tensor: Tensor) -> int | None:
    if tensor.parameters is None or "binary_data_size" not in tensor.parameters:
        return None
    size = tensor.parameters["binary_data_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise bad_request(f"tensor {tensor.name!r}: binary_data_size {size!r} is not a number of bytes")
    if tensor.data is not None:
        raise bad_request(f"tensor {tensor.name!r} has both data and binary_data_size; give one")
    return size


def _request_id(given: str | None) -> str:
    if not given:
        return new_request_id()
    if len(given) > MAX_ID_LENGTH:
        raise bad_request(f"id is {len(given)} characters long; at most {MAX_ID_LENGTH} are allowed")
    return given


def _wanted_binary(parsed: _RequestIn) -> WantedBinary:
    default = _flag(parsed.parameters or {}, "binary_data_output")
    chosen = {
        output.name: _flag(output.parameters, "binary_data")
        for output in parsed.outputs or ()
        if output.parameters and "binary_data" in output.parameters
    }
    return WantedBinary(default, chosen)


def _flag(parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise bad_request(f"parameter {name}: {value!r} is neither true nor false")
    return value
