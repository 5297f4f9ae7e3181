"""Open Inference Protocol v2 over REST: JSON bodies, and the binary tensor data extension, both ways."""

from typing import Any

import msgspec

from tidegate.errors import in_one_line
from tidegate.packaging.format.datatypes import DATATYPES
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, InferAnswer, InferRequest, new_request_id
from tidegate.serving.protocol.tensors import Array, from_binary, from_json, to_binary

INFERENCE_HEADER = "inference-header-content-length"


class _TensorIn(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    parameters: dict[str, Any] | None = None


class _OutputIn(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _RequestIn(msgspec.Struct, gc=False):
    inputs: list[_TensorIn]
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


def decode(body: bytes, header_length: str | None = None) -> tuple[InferRequest, WantedBinary]:
    """Read a request body.

    Args:
        body: JSON, or with the binary extension JSON followed by the tensors' data.
        header_length: Value of the `Inference-Header-Content-Length` header, if there was one.

    Raises:
        RequestError: The body is no well-formed request (status 400).
    """
    document: bytes | memoryview = body
    rest = memoryview(b"")
    if header_length is not None:
        length = _header_length(header_length, len(body))
        document, rest = memoryview(body)[:length], memoryview(body)[length:]
    try:
        parsed = _decoder.decode(document)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise bad_request(f"request body: {in_one_line(error)}") from error
    tensors: dict[str, Array] = {}
    position = 0
    for tensor in parsed.inputs:
        if tensor.name in tensors:
            raise bad_request(f"tensor {tensor.name!r} is given twice")
        size = _binary_size(tensor)
        if size is None:
            if not memoryview(tensor.data):
                raise bad_request(f"tensor {tensor.name!r} has no data")
            tensors[tensor.name] = from_json(tensor.data, tensor.datatype, tensor.shape, tensor.name)
            continue
        if size > len(rest) - position:
            raise bad_request(
                f"tensor {tensor.name!r}: binary_data_size {size}, but {len(rest) - position} bytes follow the JSON header"
            )
        tensors[tensor.name] = from_binary(rest[position : position + size], tensor.datatype, tensor.shape, tensor.name)
        position += size
    if position != len(rest):
        raise bad_request(f"request body: {len(rest) - position} bytes after the last binary tensor belong to none")
    return InferRequest(_request_id(parsed.id), tensors, _output_names(parsed.outputs)), _wanted_binary(parsed)


def encode(answer: InferAnswer, model: str, version: str, wanted_binary: WantedBinary) -> tuple[bytes, int | None]:
    """Return the response body, and the length of its JSON header if binary data follows it (else None)."""
    outputs = []
    blobs = []
    for name, array in answer.outputs.items():
        tensor = _TensorOut(name, DATATYPES[array.dtype], array.shape)
        if name in wanted_binary:
            blob = to_binary(array)
            tensor.parameters = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            tensor.data = array.ravel().tolist()
        outputs.append(tensor)
    header = _encoder.encode(_ResponseOut(model, version, answer.id, outputs))
    if not blobs:
        return header, None
    return b"".join((header, *blobs)), len(header)


def encode_error(message: str) -> bytes:
    """Return the protocol's error body."""
    return _encoder.encode({"error": message})


def _header_length(text: str, body_length: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > body_length:
        raise bad_request(f"{INFERENCE_HEADER}: {text[:40]!r} is not a length within the body's {body_length} bytes")
    return int(text)


def _binary_size(tensor: _TensorIn) -> int | None:
    if tensor.parameters is None or "binary_data_size" not in tensor.parameters:
        return None
    size = tensor.parameters["binary_data_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise bad_request(f"tensor {tensor.name!r}: binary_data_size {size!r} is not a number of bytes")
    if memoryview(tensor.data):
        raise bad_request(f"tensor {tensor.name!r} has both data and binary_data_size; give one")
    return size


def _request_id(given: str | None) -> str:
    if not given:
        return new_request_id()
    if len(given) > MAX_ID_LENGTH:
        raise bad_request(f"id is {len(given)} characters long; at most {MAX_ID_LENGTH} are allowed")
    return given


def _output_names(outputs: list[_OutputIn] | None) -> tuple[str, ...] | None:
    return tuple(output.name for output in outputs) if outputs else None


def _wanted_binary(parsed: _RequestIn) -> WantedBinary:
    if parsed.outputs is None and parsed.parameters is None:
        return _NO_BINARY
    default = bool((parsed.parameters or {}).get("binary_data_output", False))
    chosen = {
        output.name: bool(output.parameters["binary_data"])
        for output in parsed.outputs or ()
        if output.parameters and "binary_data" in output.parameters
    }
    return WantedBinary(default, chosen)
