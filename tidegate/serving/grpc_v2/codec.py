"""Open Inference Protocol v2 over gRPC: `ModelInferRequest` to a request, an answer to the bytes of a `ModelInferResponse`.

Callers that send tensors raw say the same of them in each request, names and datatypes and shapes, in the same bytes, and only
the values differ. So these bytes are compared with those of earlier requests and read only if they are new: see `Outline`.
Whatever is not so, or not as a protobuf library would write it, is parsed by protobuf.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from google.protobuf.message import DecodeError

from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.grpc_v2.outline import Outlines, value_reader
from tidegate.serving.grpc_v2.wire import field, varint
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, InferAnswer, InferRequest, nanoseconds, new_request_id
from tidegate.serving.protocol.tensors import Tensor, to_binary

_parse = message_class("inference.ModelInferRequest").FromString
_describe = message_class("inference.ModelInferResponse.InferOutputTensor")

_RAW_OUTPUT = 6 << 3 | 2
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_outlines = Outlines()


def decode(message: bytes) -> tuple[str, str, InferRequest]:
    """Read a `ModelInferRequest`: the model's name, its version if one was asked for, and the request itself.

    Raises:
        RequestError: The message is no such request (status 400).
    """
    found = _outlines.read(message)
    if found is not None:
        name, version, given, outputs, timeout, tensors = found
    else:
        sent = _parsed(message)
        name, version, given = sent.model_name, sent.model_version, sent.id
        outputs = tuple([output.name for output in sent.outputs]) or None
        timeout = _timeout(sent.parameters)
        if sent.raw_input_contents:
            tensors = _from_raw(sent.inputs, sent.raw_input_contents)
            _outlines.learn(message, tensors, outputs, timeout)
        else:
            tensors = [_from_contents(tensor) for tensor in sent.inputs]
    if len(given) > MAX_ID_LENGTH:
        raise bad_request(f"id is {len(given)} characters long; at most {MAX_ID_LENGTH} are allowed")
    return name, version, InferRequest(given or new_request_id(), tensors, outputs, timeout)


def encode(answer: InferAnswer, model: str, version: str, datatypes: Mapping[str, str]) -> bytes:
    """Return the `ModelInferResponse`, with raw contents; `datatypes` are those of the model's outputs."""
    parts = [_addressed(model, version), field(3, answer.id.encode())]
    contents: list[bytes] = []
    for name, array in answer.outputs.items():
        datatype = datatypes[name]
        raw = to_binary(array, datatype)
        parts.append(_described(name, datatype, array.shape))
        contents += (_raw_output(len(raw)), raw)
    parts += contents
    return b"".join(parts)


def _timeout(parameters: Any) -> int:
    if "timeout" not in parameters:
        return 0
    parameter = parameters["timeout"]
    kind = parameter.WhichOneof("parameter_choice")
    return nanoseconds(None if kind is None else getattr(parameter, kind))


def _parsed(message: bytes) -> Any:
    try:
        return _parse(message)
    except DecodeError:
        raise bad_request("message is no inference.ModelInferRequest") from None


@lru_cache(maxsize=8)
def _addressed(model: str, version: str) -> bytes:
    return field(1, model.encode()) + field(2, version.encode())


@lru_cache(maxsize=4096)
def _described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    described: bytes = _describe(name=name, datatype=datatype, shape=shape).SerializeToString()
    return field(5, described)


@lru_cache(maxsize=4096)
def _raw_output(size: int) -> bytes:
    return bytes((_RAW_OUTPUT,)) + varint(size)


def _from_raw(inputs: Any, raw: Any) -> list[Tensor]:
    if len(raw) != len(inputs):
        raise bad_request(f"raw_input_contents holds {len(raw)} tensors, but there are {len(inputs)} inputs")
    tensors = []
    for tensor, data in zip(inputs, raw, strict=True):
        name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
        if tensor.HasField("contents"):
            raise bad_request(f"tensor {name!r} has contents besides raw_input_contents; give one")
        tensors.append(Tensor(name, datatype, shape, value_reader(datatype, shape)(data)))
    return tensors


def _from_contents(tensor: Any) -> Tensor:
    name, datatype = tensor.name, tensor.datatype
    if datatype not in _CONTENTS:
        raise bad_request(f"tensor {name!r}: {datatype} has no typed contents; send raw_input_contents")
    values = list(getattr(tensor.contents, _CONTENTS[datatype]))
    if datatype == "BYTES":
        values = [_text(value, name, index) for index, value in enumerate(values)]
    return Tensor(name, datatype, list(tensor.shape), values)


def _text(value: bytes, name: str, index: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise bad_request(f"tensor {name!r}: value {index} is not UTF-8: {error.reason}") from error
