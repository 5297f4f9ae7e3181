"""REST: the Open Inference Protocol v2 and v1 paths, and metrics, as a Granian RSGI application."""

from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any

import msgspec

import tidegate
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol import codec_json, codec_v1
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, new_request_id

Headers = list[tuple[str, str]]
Reply = tuple[int, Headers, bytes]
Infer = Callable[[Any, bytes, int], Awaitable[Reply]]

_JSON: Headers = [("content-type", "application/json")]
_METRICS: Headers = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_CONTENT_TYPES = ("application/json", "application/octet-stream")
_UNASKED = "application/x-www-form-urlencoded"  # what `curl -d` says of any body unless it is told otherwise
_REQUEST_ID = "x-request-id"


class HttpApplication:
    """Answers HTTP requests for one served model."""

    def __init__(self, model: ServedModel, scrape: Callable[[], bytes], *, max_body_bytes: int) -> None:
        """Lay out the routes."""
        self._model = model
        self._scrape = scrape
        self._max_body_bytes = max_body_bytes
        self._datatypes = {spec.name: spec.datatype for spec in model.manifest.signature.inputs}
        self._reads, self._infers = self._routes()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        infer = self._infers.get(scope.path)
        if infer is not None and scope.method == "POST":
            status, headers, body = await self._infer(infer, scope, protocol)
        else:
            status, headers, body = self._read(scope.path, scope.method)
        protocol.response_bytes(status, headers, body)

    def _routes(self) -> tuple[dict[str, Callable[[], Reply]], dict[str, Infer]]:
        name, version = self._model.identity.name, self._model.identity.version
        v2, v1 = f"/v2/models/{name}", f"/v1/models/{name}"
        reads: dict[str, Callable[[], Reply]] = {
            "/v2": self._server_metadata,
            "/v2/health/live": lambda: (200, _JSON, b'{"live":true}'),
            "/v2/health/ready": self._server_ready,
            "/metrics": lambda: (200, _METRICS, self._scrape()),
            v1: self._v1_status,
        }
        infers: dict[str, Infer] = {f"{v1}:predict": self._predict_v1}
        for base in (v2, f"{v2}/versions/{version}"):
            reads[base] = self._model_metadata
            reads[f"{base}/ready"] = self._model_ready
            infers[f"{base}/infer"] = self._infer_v2
        return reads, infers

    async def _infer(self, infer: Infer, scope: Any, protocol: Any) -> Reply:
        started = perf_counter_ns()
        try:
            body = await self._body(scope, protocol)
            reply = await infer(scope, body, started)
        except RequestError as error:
            reply = error.status, _JSON, codec_json.encode_error(str(error))
        self._model.metrics.count_request(reply[0], perf_counter_ns() - started)
        return reply

    async def _body(self, scope: Any, protocol: Any) -> bytes:
        headers = scope.headers
        _check_content(headers)
        length = headers.get("content-length")
        if length is not None and length.isdecimal():
            if int(length) > self._max_body_bytes:
                raise self._too_large(f"{length} bytes")
            whole: bytes = await protocol()
            return whole
        parts: list[bytes] = []
        size = 0
        async for part in protocol:
            size += len(part)
            if size > self._max_body_bytes:
                raise self._too_large(f"more than {self._max_body_bytes} bytes")
            parts.append(part)
        return b"".join(parts)

    def _too_large(self, found: str) -> RequestError:
        return RequestError(413, f"request body: {found}, but at most {self._max_body_bytes} are allowed; split the request")

    async def _infer_v2(self, scope: Any, body: bytes, started: int) -> Reply:
        request, wanted_binary = codec_json.decode(body, scope.headers.get(codec_json.INFERENCE_HEADER))
        answer = await self._model.answer(request, started)
        identity = self._model.identity
        payload, header_length = codec_json.encode(answer, identity.name, identity.version, wanted_binary)
        if header_length is None:
            return 200, _JSON, payload
        binary = [("content-type", "application/octet-stream"), (codec_json.INFERENCE_HEADER, str(header_length))]
        return 200, binary, payload

    async def _predict_v1(self, scope: Any, body: bytes, started: int) -> Reply:
        request_id = scope.headers.get(_REQUEST_ID) or new_request_id()
        if len(request_id) > MAX_ID_LENGTH:
            raise bad_request(f"{_REQUEST_ID} is {len(request_id)} characters long; at most {MAX_ID_LENGTH} are allowed")
        request, by_rows = codec_v1.decode(body, self._datatypes, request_id)
        answer = await self._model.answer(request, started)
        return 200, [*_JSON, (_REQUEST_ID, request_id)], codec_v1.encode(answer, by_rows)

    def _read(self, path: str, method: str) -> Reply:
        if path in self._infers:
            return _refusal(405, f"{method} {path}: use POST", ("allow", "POST"))
        read = self._reads.get(path)
        if read is None:
            return _refusal(404, self._unknown(path))
        if method not in ("GET", "HEAD"):
            return _refusal(405, f"{method} {path}: use GET", ("allow", "GET"))
        return read()

    def _unknown(self, path: str) -> str:
        identity = self._model.identity
        protocol, _, rest = path.removeprefix("/").partition("/models/")
        if protocol in ("v1", "v2") and rest:
            name = rest.partition("/")[0].partition(":")[0]
            if name != identity.name:
                return f"unknown model {name!r}; this server serves {identity.name!r}"
            version = rest.partition("/versions/")[2].partition("/")[0]
            if version and version != identity.version:
                return f"unknown version {version!r} of model {name!r}; this server serves version {identity.version!r}"
        return f"unknown path {path!r}"

    def _server_metadata(self) -> Reply:
        document = {"name": "tidegate", "version": tidegate.__version__, "extensions": ["binary_tensor_data"]}
        return 200, _JSON, msgspec.json.encode(document)

    def _server_ready(self) -> Reply:
        ready = self._model.ready
        return (200 if ready else 503), _JSON, msgspec.json.encode({"ready": ready})

    def _model_ready(self) -> Reply:
        ready = self._model.ready
        return (200 if ready else 503), _JSON, msgspec.json.encode({"name": self._model.identity.name, "ready": ready})

    def _v1_status(self) -> Reply:
        document = {"name": self._model.identity.name, "ready": self._model.ready}
        return 200, _JSON, msgspec.json.encode(document)

    def _model_metadata(self) -> Reply:
        identity = self._model.identity
        document = {
            "name": identity.name,
            "versions": [identity.version],
            "platform": "onnxruntime_onnx",
            "inputs": [_tensor_metadata(spec) for spec in self._model.inputs],
            "outputs": [_tensor_metadata(spec) for spec in self._model.outputs],
        }
        return 200, _JSON, msgspec.json.encode(document)


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _check_content(headers: Any) -> None:
    content_type = headers.get("content-type")
    if content_type is not None and content_type.partition(";")[0].strip().lower() not in (*_CONTENT_TYPES, _UNASKED):
        raise RequestError(415, f"content-type {content_type!r} is not supported; use {' or '.join(_CONTENT_TYPES)}")
    encoding = headers.get("content-encoding")
    if encoding not in (None, "identity"):
        raise RequestError(415, f"content-encoding {encoding!r} is not supported; send the body as it is")


def _refusal(status: int, message: str, *headers: tuple[str, str]) -> Reply:
    return status, [*_JSON, *headers], codec_json.encode_error(message)
