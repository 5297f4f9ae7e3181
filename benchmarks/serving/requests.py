"""What is sent: the same rows as an Open Inference Protocol request in JSON, in binary and over gRPC, and what comes back."""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.serving.models import SERVED_AS, Case

Array = np.ndarray[Any, np.dtype[Any]]

REST_PATH = f"/v2/models/{SERVED_AS}/infer"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
_ID = "benchmark-request"  # KServe's server does not answer without one
_LENGTH_PREFIX = 5


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request: `json`, `binary` or `grpc`, and its rows."""

    kind: str
    rows: int

    def __str__(self) -> str:
        return f"{self.rows} row{'s' * (self.rows > 1)}, {self.kind}"


LOADS = (Load("json", 1), Load("json", 64), Load("binary", 64), Load("grpc", 1))


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it goes over the wire, the same every time.

    Attributes:
        path: Where it goes.
        body: What is sent; of gRPC with its length before it.
        headers: Beside those that the client makes itself.
        read: Returns the compared output from a raw answer and its headers.
        is_grpc: It goes over HTTP/2.
    """

    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Callable[[bytes, Mapping[str, str]], Array]
    is_grpc: bool = field(default=False)


def open_inference_request(case: Case, load: Load) -> Request:
    """Return the protocol's own request of a kind."""
    return {"json": _json_request, "binary": _binary_request, "grpc": _grpc_request}[load.kind](case, load.rows)


def json_body(case: Case, rows: int) -> bytes:
    """Return the JSON request: numbers in full, as `numpy.tolist` and so every client writes them."""
    inputs = [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in case.tensors(rows).items()
    ]
    return json.dumps({"id": _ID, "inputs": inputs}, separators=(",", ":")).encode()


def read_json(output: str, body: bytes, _headers: Mapping[str, str] | None = None) -> Array:
    """Return an output of a JSON answer."""
    found = next(tensor for tensor in json.loads(body)["outputs"] if tensor["name"] == output)
    return np.array(found["data"], np.float32).ravel()


def _json_request(case: Case, rows: int) -> Request:
    return Request(REST_PATH, json_body(case, rows), {"content-type": "application/json"}, partial(read_json, case.output))


def _binary_request(case: Case, rows: int) -> Request:
    tensors = case.tensors(rows)
    inputs = [
        {
            "name": name,
            "datatype": "FP32",
            "shape": list(array.shape),
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in tensors.items()
    ]
    outputs = [{"name": case.output, "parameters": {"binary_data": True}}]
    header = json.dumps({"id": _ID, "inputs": inputs, "outputs": outputs}, separators=(",", ":")).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
    body = header + b"".join(array.tobytes() for array in tensors.values())
    return Request(REST_PATH, body, headers, partial(_read_binary, case.output))


def _read_binary(output: str, body: bytes, headers: Mapping[str, str]) -> Array:
    length = int(headers["inference-header-content-length"])
    position = length
    for tensor in json.loads(body[:length])["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        if tensor["name"] == output:
            return np.frombuffer(body[position : position + size], np.float32)
        position += size
    raise SystemExit(f"a binary answer lacks {output}")


def _grpc_request(case: Case, rows: int) -> Request:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=SERVED_AS, id=_ID)
    for name, array in case.tensors(rows).items():
        message.inputs.add(name=name, datatype="FP32", shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    payload = message.SerializeToString()
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Request(GRPC_PATH, _prefixed(payload), headers, partial(_read_grpc, case.output), is_grpc=True)


def _read_grpc(output: str, body: bytes, _headers: Mapping[str, str]) -> Array:
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferResponse.FromString(body)
    index = next(index for index, tensor in enumerate(message.outputs) if tensor.name == output)
    if message.raw_output_contents:
        return np.frombuffer(message.raw_output_contents[index], np.float32)
    return np.array(message.outputs[index].contents.fp32_contents, np.float32)


def _prefixed(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def answer(request: Request, port: int) -> tuple[Array, int]:
    """Send one request, and return the compared output and how long the answer's body is.

    Raises:
        SystemExit: The answer is an error.
    """
    if request.is_grpc:
        return _answer_grpc(request, port)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise SystemExit(f"{request.path}: {response.status}: {body[:300]!r}")
    return request.read(body, {name.lower(): value for name, value in response.getheaders()}), len(body)


def _answer_grpc(request: Request, port: int) -> tuple[Array, int]:
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(request.path)
        body: bytes = call(request.body[_LENGTH_PREFIX:], timeout=30)
    return request.read(body, {}), len(body) + _LENGTH_PREFIX
