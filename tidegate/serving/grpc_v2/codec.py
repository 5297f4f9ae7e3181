"""Open Inference Protocol v2 over gRPC: messages to requests, answers to messages."""

from typing import Any

import numpy as np

from tidegate.packaging.format.datatypes import DATATYPES
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, InferAnswer, InferRequest, new_request_id
from tidegate.serving.protocol.tensors import Array, dtype_of, element_count, from_binary, strings, to_binary

_Response = message_class("inference.ModelInferResponse")
_Output = message_class("inference.ModelInferResponse.InferOutputTensor")

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


def decode(message: Any) -> InferRequest:
    """Read a `ModelInferRequest`; raises RequestError (400)."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise bad_request(f"raw_input_contents holds {len(raw)} tensors, but there are {len(message.inputs)} inputs")
    tensors: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        name = tensor.name
        if name in tensors:
            raise bad_request(f"tensor {name!r} is given twice")
        if not raw:
            tensors[name] = _from_contents(tensor)
        elif tensor.HasField("contents"):
            raise bad_request(f"tensor {name!r} has contents besides raw_input_contents; give one")
        else:
            tensors[name] = from_binary(memoryview(raw[index]), tensor.datatype, tensor.shape, name)
    request_id = message.id or new_request_id()
    if len(request_id) > MAX_ID_LENGTH:
        raise bad_request(f"id is {len(request_id)} characters long; at most {MAX_ID_LENGTH} are allowed")
    return InferRequest(request_id, tensors, tuple(output.name for output in message.outputs) or None)


def encode(answer: InferAnswer, model: str, version: str) -> Any:
    """Return the `ModelInferResponse`, with raw contents."""
    message = _Response(model_name=model, model_version=version, id=answer.id)
    for name, array in answer.outputs.items():
        message.outputs.append(_Output(name=name, datatype=DATATYPES[array.dtype], shape=array.shape))
        message.raw_output_contents.append(to_binary(array))
    return message


def _from_contents(tensor: Any) -> Array:
    name, datatype = tensor.name, tensor.datatype
    dtype = dtype_of(datatype, name)
    if datatype not in _CONTENTS:
        raise bad_request(f"tensor {name!r}: {datatype} has no typed contents; send raw_input_contents")
    values = getattr(tensor.contents, _CONTENTS[datatype])
    count = element_count(tensor.shape, name)
    if len(values) != count:
        raise bad_request(
            f"tensor {name!r}: {_CONTENTS[datatype]} holds {len(values)} values, but shape {list(tensor.shape)} needs {count}"
        )
    if datatype == "BYTES":
        return strings(values, tensor.shape, name)
    try:
        return np.array(values, dtype).reshape(tensor.shape)
    except OverflowError as error:
        raise bad_request(f"tensor {name!r}: a value lies outside {datatype}: {error}") from error
