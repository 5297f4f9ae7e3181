"""REST: the paths of the Open Inference Protocol v2 and v1, metrics, and the server's own description."""

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
import msgspec

from tidegate.serving.access_log import open_access_log
from tidegate.serving.internal_errors import internal_error
from tidegate.serving.metrics.text import CONTENT_TYPE
from tidegate.serving.model.description import model_metadata, server_metadata, unknown_model, unknown_version
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol import codec_json, codec_v1
from tidegate.serving.protocol.codec_json import WantedBinary
from tidegate.serving.protocol.compression import decompressed
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.request import MAX_ID_LENGTH, InferAnswer, InferRequest, new_request_id
from tidegate.serving.rest.exchange import Exchange
from tidegate.serving.settings import ServeSettings

_BINARY = b"application/octet-stream"
_CONTENT_TYPES = (b"application/json", _BINARY)
_UNASKED = b"application/x-www-form-urlencoded"  # what `curl -d` says of any body unless it is told otherwise
_INFERENCE_HEADER = codec_json.INFERENCE_HEADER.encode()
_REQUEST_ID = b"x-request-id"
_TRACE_PARENT, _TRACE_STATE = b"traceparent", b"tracestate"
_ENVOY_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
_REPOSITORY = b"/v2/repository/"
_LONGEST_PATH_SHOWN = 200

Read = Callable[[Exchange], None]
Infer = Callable[[Exchange, ServedModel], None]


class RestApplication:
    """Answers the exchanges of one worker."""

    def __init__(self, endpoint: Endpoint, settings: ServeSettings, scrape: Callable[[], bytes]) -> None:
        """Lay out the paths; `scrape` returns the metrics of the whole pod."""
        self._endpoint = endpoint
        self._settings = settings
        self._scrape = scrape
        self._longest = int(settings.request_seconds * 1e9)
        self._access_log = open_access_log(settings)
        self._traces = settings.traces != "off"
        name = endpoint.name.encode()
        v2, v1 = b"/v2/models/" + name, b"/v1/models/" + name
        self._infers: dict[bytes, Infer] = {v2 + b"/infer": self._infer_v2, v1 + b":predict": self._predict_v1}
        self._versions = v2 + b"/versions/"
        self._reads: dict[bytes, Read] = {
            b"/": self._alive,
            b"/v2": self._server_metadata,
            b"/v2/": self._server_metadata,  # as the protocol's own OpenAPI document has it
            b"/v2/health/live": self._live,
            b"/v2/health/ready": self._server_ready,
            v2: self._model_metadata,
            v2 + b"/ready": self._model_ready,
            b"/v1/models": self._v1_models,
            v1: self._model_ready,
            b"/metrics": self._metrics,
            b"/openapi.json": self._openapi,
        }
        self._described: tuple[ServedModel | None, bytes] = None, b""

    def handle(self, exchange: Exchange) -> None:
        """Answer one request, now or later; never raises."""
        try:
            infer = self._infers.get(exchange.target)
            if infer is not None and exchange.method == b"POST":
                self._infer(infer, exchange)
            else:
                self._route(exchange)
        except RequestError as error:
            self._turn_away(exchange, error)
        except Exception as error:  # whatever a request can bring about, the server outlives it
            self._turn_away(exchange, internal_error(error))

    def _turn_away(self, exchange: Exchange, error: RequestError) -> None:
        """Refuse what no model could be asked."""
        _refuse(exchange, error)
        if self._access_log is not None:
            self._access_log.note("http", perf_counter_ns() - exchange.started, exchange.request, error)

    def _infer(self, infer: Infer, exchange: Exchange) -> None:
        model = self._endpoint.model
        if model is None:
            raise self._endpoint.refusal()
        try:
            infer(exchange, model)
        except RequestError as error:
            self._refused(exchange, model, error)
        except Exception as error:
            self._refused(exchange, model, internal_error(error))

    def _infer_v2(self, exchange: Exchange, model: ServedModel) -> None:
        headers = exchange.headers
        request, wanted = codec_json.decode(self._body(exchange), headers.get(_INFERENCE_HEADER))
        self._submit(exchange, model, request, partial(self._answered_v2, exchange, model, wanted))

    def _answered_v2(
        self, exchange: Exchange, model: ServedModel, wanted: WantedBinary, outcome: InferAnswer | RequestError
    ) -> None:
        if isinstance(outcome, RequestError):
            self._refused(exchange, model, outcome)
            return
        identity = model.identity
        body, header_length = codec_json.encode(outcome, identity.name, identity.version, model.output_datatypes, wanted)
        if header_length is None:
            exchange.respond(200, body)
        else:
            exchange.respond(200, body, _BINARY, b"%b: %d\r\n" % (_INFERENCE_HEADER, header_length))
        self._count(exchange, model, outcome)

    def _predict_v1(self, exchange: Exchange, model: ServedModel) -> None:
        given = exchange.headers.get(_REQUEST_ID, b"").decode("latin-1")
        if len(given) > MAX_ID_LENGTH:
            raise bad_request(f"x-request-id is {len(given)} characters long; at most {MAX_ID_LENGTH} are allowed")
        request, by_rows = codec_v1.decode(self._body(exchange), model.input_datatypes, given or new_request_id())
        self._submit(exchange, model, request, partial(self._answered_v1, exchange, model, by_rows))

    def _answered_v1(self, exchange: Exchange, model: ServedModel, by_rows: bool, outcome: InferAnswer | RequestError) -> None:
        if isinstance(outcome, RequestError):
            self._refused(exchange, model, outcome)
            return
        exchange.respond(200, codec_v1.encode(outcome, by_rows), headers=b"x-request-id: %b\r\n" % outcome.id.encode("latin-1"))
        self._count(exchange, model, outcome)

    def _submit(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: InferRequest,
        reply: Callable[[InferAnswer | RequestError], None],
    ) -> None:
        headers = exchange.headers
        if _ENVOY_TIMEOUT in headers:
            _shorten(request, headers[_ENVOY_TIMEOUT])
        if _TRACE_PARENT in headers:
            request.trace_parent = headers[_TRACE_PARENT].decode("latin-1")
        if self._traces:
            request.path = exchange.target.decode("latin-1")
            request.trace_state = headers.get(_TRACE_STATE, b"").decode("latin-1") or None
        request.arrived(exchange.started, self._longest)
        exchange.request = request
        model.submit(request, reply)

    def _body(self, exchange: Exchange) -> bytes:
        headers = exchange.headers
        content_type = headers.get(b"content-type")
        if content_type is not None and content_type not in _CONTENT_TYPES:
            _check_content_type(content_type)
        encoding = headers.get(b"content-encoding")
        if encoding is None:
            return exchange.body
        return decompressed(exchange.body, encoding.decode("latin-1"), self._settings.max_body_bytes)

    def _refused(self, exchange: Exchange, model: ServedModel, error: RequestError) -> None:
        _refuse(exchange, error)
        self._count(exchange, model, error)

    def _count(self, exchange: Exchange, model: ServedModel, outcome: InferAnswer | RequestError) -> None:
        nanoseconds = perf_counter_ns() - exchange.started
        model.metrics.count_request(outcome.status, nanoseconds)
        if self._access_log is not None:
            self._access_log.note("http", nanoseconds, exchange.request, outcome)

    def _route(self, exchange: Exchange) -> None:
        path = _path(exchange.target)
        infer = self._infers.get(path) or (self._infer_v2 if self._is_versioned(path, b"/infer") else None)
        if infer is not None:
            _check_method(exchange, path, b"POST")
            self._infer(infer, exchange)
        elif path.startswith(_REPOSITORY):
            self._ask_repository(exchange, path)
        else:
            read = self._reads.get(path) or self._versioned_read(path)
            if read is None:
                raise self._unknown(path)
            _check_method(exchange, path, b"GET")
            read(exchange)

    def _is_versioned(self, path: bytes, action: bytes) -> bool:
        model = self._endpoint.model
        return model is not None and path == self._versions + model.identity.version.encode() + action

    def _versioned_read(self, path: bytes) -> Read | None:
        if self._is_versioned(path, b""):
            return self._model_metadata
        return self._model_ready if self._is_versioned(path, b"/ready") else None

    def _ask_repository(self, exchange: Exchange, path: bytes) -> None:
        repository = self._endpoint.repository
        if repository is None:
            raise RequestError(404, f"{_shown(path)}: loading and unloading is turned off; start the server with --repository")
        _check_method(exchange, path, b"POST")
        from tidegate.serving.repository import rest

        rest.answer(repository, path.decode("latin-1"), self._body(exchange), exchange.respond)

    def _unknown(self, path: bytes) -> RequestError:
        protocol, _, rest = path.decode("utf-8", "replace").removeprefix("/").partition("/models/")
        if protocol in ("v1", "v2") and rest:
            name = rest.partition("/")[0].partition(":")[0][:MAX_ID_LENGTH]
            if name != self._endpoint.name:
                return unknown_model(name, self._endpoint)
            version = rest.partition("/versions/")[2].partition("/")[0][:MAX_ID_LENGTH]
            model = self._endpoint.model
            if version and model is not None and version != model.identity.version:
                return unknown_version(version, name, model)
        return RequestError(404, f"unknown path {_shown(path)}")

    def _alive(self, exchange: Exchange) -> None:
        exchange.respond(200, b'{"status":"alive"}')  # what KServe's v1 asks for at the root

    def _live(self, exchange: Exchange) -> None:
        exchange.respond(200, b'{"live":true}')

    def _server_ready(self, exchange: Exchange) -> None:
        self._respond_ready(exchange, {})

    def _model_ready(self, exchange: Exchange) -> None:
        self._respond_ready(exchange, {"name": self._endpoint.name})

    def _respond_ready(self, exchange: Exchange, document: dict[str, Any]) -> None:
        document["ready"] = self._endpoint.ready
        model = self._endpoint.model
        if model is not None and model.fallback is not None:
            document["fallback"] = model.fallback
        _respond_json(exchange, document, 200 if self._endpoint.ready else 503)

    def _server_metadata(self, exchange: Exchange) -> None:
        from tidegate.serving.rest.openapi import LINK

        document = server_metadata(self._endpoint)
        exchange.respond(200, msgspec.json.encode(document), headers=f"link: {LINK}\r\n".encode())

    def _model_metadata(self, exchange: Exchange) -> None:
        _respond_json(exchange, model_metadata(self._model()))

    def _v1_models(self, exchange: Exchange) -> None:
        _respond_json(exchange, {"models": [self._endpoint.name]})

    def _metrics(self, exchange: Exchange) -> None:
        exchange.respond(200, self._scrape(), CONTENT_TYPE.encode())

    def _openapi(self, exchange: Exchange) -> None:
        model = self._model()
        if self._described[0] is not model:
            from tidegate.serving.rest.openapi import openapi_document

            self._described = model, openapi_document(model, self._settings)
        exchange.respond(200, self._described[1])

    def _model(self) -> ServedModel:
        if self._endpoint.model is None:
            raise self._endpoint.refusal()
        return self._endpoint.model


def _refuse(exchange: Exchange, error: RequestError) -> None:
    exchange.respond(error.status, codec_json.encode_error(str(error)), headers=error.headers)


def _respond_json(exchange: Exchange, document: dict[str, Any], status: int = 200) -> None:
    exchange.respond(status, msgspec.json.encode(document))


def _path(target: bytes) -> bytes:
    """Return the path of a request's target without its query, percent-decoded; raises RequestError (400)."""
    try:
        path = httptools.parse_url(target).path or b"/"
    except httptools.HttpParserInvalidURLError as error:
        raise bad_request(f"{_shown(target)} is no request target") from error
    return unquote_to_bytes(path) if b"%" in path else path


def _check_method(exchange: Exchange, path: bytes, wanted: bytes) -> None:
    if exchange.method == wanted or (wanted == b"GET" and exchange.method == b"HEAD"):
        return
    allowed = b"GET, HEAD" if wanted == b"GET" else wanted
    message = f"{exchange.method.decode('latin-1')} {_shown(path)}: use {wanted.decode()}"
    raise RequestError(405, message, b"allow: %b\r\n" % allowed)


def _check_content_type(content_type: bytes) -> None:
    if content_type.partition(b";")[0].strip().lower() not in (*_CONTENT_TYPES, _UNASKED):
        allowed = " or ".join(known.decode() for known in _CONTENT_TYPES)
        raise RequestError(415, f"content-type {_shown(content_type)} is not supported; use {allowed}")


def _shorten(request: InferRequest, milliseconds: bytes) -> None:
    """Take the proxy's timeout for the request's, if it is the shorter one."""
    if milliseconds.isdigit() and len(milliseconds) < 12 and int(milliseconds):
        timeout = int(milliseconds) * 1_000_000
        request.timeout = min(request.timeout, timeout) if request.timeout else timeout


def _shown(text: bytes) -> str:
    shown = text.decode("utf-8", "replace")
    return repr(shown if len(shown) <= _LONGEST_PATH_SHOWN else f"{shown[:_LONGEST_PATH_SHOWN]}…")
