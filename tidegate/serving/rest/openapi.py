"""The server's own OpenAPI 3.1 document: every route, with the schemas of the very model that is served.

It is at `GET /openapi.json`, and `GET /v2` links to it (`Link: …; rel="service-desc"`, RFC 8631).
"""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

import tidegate
from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.serving.rest.openapi_tensors import Schema, TensorSchemas
from tidegate.serving.settings import ServeSettings

OPENAPI_PATH = "/openapi.json"
LINK = f'<{OPENAPI_PATH}>; rel="service-desc"; type="application/json"'

_JSON = "application/json"
_BINARY = "application/octet-stream"
_HEADER_LENGTH = "Inference-Header-Content-Length"
_REFUSALS = {
    400: "The request is malformed or does not fit the model; the message names tensor, row, value and bound.",
    408: "The request did not arrive whole in time.",
    404: "There is no such model or version in the repository.",
    409: "The version is damaged, not signed as demanded, or does not do here what it did where it was packaged.",
    413: "The body is longer than this server allows.",
    415: "The content type or encoding is none that this server reads.",
    429: "Too much is waiting already; try again after the seconds in Retry-After.",
    500: "The model failed on this input.",
    503: "The server is not ready, a required feature is missing, or the answer could not be recorded.",
    504: "The request's deadline passed before it was computed; or a worker did not follow in time.",
}
_INFER_REFUSALS = (400, 408, 413, 415, 429, 500, 503, 504)
_REPOSITORY_REFUSALS = (400, 404, 408, 409, 413, 415, 429, 503, 504)
_BINARY_IN_WORDS = (
    "Tensors may travel in binary, both ways (the binary tensor data extension): the body is then the JSON, "
    f"{_HEADER_LENGTH} bytes of it, followed by the data of all tensors that have `binary_data_size` instead of `data`, in "
    "their order: little-endian, row-major; each BYTES element after its length in 4 bytes. Ask for binary outputs with "
    "`binary_data_output` for all, or `binary_data` for one. "
)


class Identity(Protocol):
    """What a model is served as."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def version(self) -> str: ...  # noqa: D102


class Described(Protocol):
    """What the document says of a model; `tidegate.serving.model.served.ServedModel` is one."""

    @property
    def manifest(self) -> Manifest: ...  # noqa: D102

    @property
    def identity(self) -> Identity: ...  # noqa: D102

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102


def openapi_document(model: Described, settings: ServeSettings) -> bytes:
    """Return the document, JSON in UTF-8, for a server that serves `model` as `settings` say."""
    return msgspec.json.encode(_Document(model, settings).whole())


class _Document:
    def __init__(self, model: Described, settings: ServeSettings) -> None:
        self._manifest = model.manifest
        self._name, self._version = model.identity.name, model.identity.version
        self._settings = settings
        self._tensors = TensorSchemas(model.manifest, inputs=model.inputs, outputs=model.outputs, max_rows=settings.max_rows)

    def whole(self) -> Schema:
        variant = self._manifest.variant
        return {
            "openapi": "3.1.0",
            "info": {
                "title": f"Model {self._name}",
                "version": self._version,
                "description": f"{self._manifest.task}, {variant.candidate}/{variant.name}, served by Tidegate "
                f"{tidegate.__version__} in the Open Inference Protocol, versions 2 and 1. This document is of version "
                f"{self._version}, which answers now.",
            },
            "paths": self._server() | self._v2() | self._v1() | (self._repository() if self._settings.repository else {}),
            "components": {
                "schemas": self._schemas(),
                "responses": {f"Refusal{status}": _refusal(status) for status in _REFUSALS},
            },
        }

    def _server(self) -> Schema:
        name, version, extensions = {"type": "string"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}
        metadata = _object(name=name, version=version, extensions=extensions)
        ready = _object(ready={"type": "boolean"})
        return {
            "/v2": _get("serverMetadata", "Name, version and extensions of the server", metadata),
            "/": _get("alive", "Whether the server runs, in version 1's words", _object(status={"const": "alive"})),
            "/v2/health/live": _get("serverLive", "Whether the server runs", _object(live={"const": True})),
            "/v2/health/ready": _get("serverReady", "Whether the server takes requests", ready, unready=ready),
            "/metrics": _get("metrics", "All workers' metrics, in Prometheus's text format", {"type": "string"}, "text/plain"),
            OPENAPI_PATH: _get("openapi", "This document", {"type": "object", "required": ["openapi"]}, refusals=(503,)),
        }

    def _v2(self) -> Schema:
        ready = _object(name={"const": self._name}, ready={"type": "boolean"})
        paths: Schema = {}
        for base, suffix in (
            (f"/v2/models/{self._name}", ""),
            (f"/v2/models/{self._name}/versions/{self._version}", "Version"),
        ):
            paths[base] = _get(f"metadata{suffix}", "Inputs and outputs of the model", _ref("Metadata"), refusals=(503,))
            paths[f"{base}/ready"] = _get(f"ready{suffix}", "Whether the model takes requests", ready, unready=ready)
            paths[f"{base}/infer"] = {"post": self._infer(f"infer{suffix}")}
        return paths

    def _infer(self, operation: str) -> Schema:
        example = self._tensors.example()
        shown = {} if example is None else {"example": example[0]}
        length = {"schema": {"type": "integer", "minimum": 1}, "description": "Bytes of JSON that the body begins with."}
        return {
            "operationId": operation,
            "summary": "Answer rows",
            "description": _BINARY_IN_WORDS + self._limits_in_words(),
            "parameters": [{"name": _HEADER_LENGTH, "in": "header", "required": False, **length}],
            "requestBody": {
                "required": True,
                "content": {_JSON: {"schema": _ref("InferenceRequest"), **shown}, _BINARY: {}},
            },
            "responses": {
                "200": {
                    "description": "The answer; JSON and binary data if any output was asked for in binary, else JSON",
                    "headers": {_HEADER_LENGTH: {**length, "required": False}},
                    "content": {_JSON: {"schema": _ref("InferenceResponse")}, _BINARY: {}},
                },
                **_refusals(_INFER_REFUSALS),
            },
        }

    def _v1(self) -> Schema:
        listed = _object(models={"type": "array", "items": {"const": self._name}})
        ready = _object(name={"const": self._name}, ready={"type": "boolean"})
        base, example = f"/v1/models/{self._name}", self._tensors.example()
        shown = {} if example is None else {"example": {"instances": [example[1]]}}
        predict = {
            "operationId": "predict",
            "summary": "Answer rows",
            "description": "Rows as `instances`, or columns as `inputs`. " + self._limits_in_words(),
            "parameters": [
                {"name": "X-Request-Id", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 256}}
            ],
            "requestBody": {"required": True, "content": {_JSON: {"schema": _ref("PredictRequest"), **shown}}},
            "responses": {
                "200": {
                    "description": "The answer",
                    "headers": {"X-Request-Id": {"required": True, "schema": {"type": "string"}}},
                    "content": {_JSON: {"schema": _ref("PredictResponse")}},
                },
                **_refusals(_INFER_REFUSALS),
            },
        }
        paths: Schema = {
            "/v1/models": _get("v1Models", "The model's name", listed),
            base: _get("v1Ready", "Whether the model takes requests", ready, unready=ready),
        }
        if all(spec.datatype != "BF16" for spec in self._manifest.signature.inputs):  # which has no JSON form
            paths[f"{base}:predict"] = {"post": predict}
        return paths

    def _repository(self) -> Schema:
        text = {"type": "string"}
        state = _object(name=text, version=text, state={"enum": ["READY", "LOADING", "UNAVAILABLE"]}, reason=text)
        states = {"type": "array", "items": state}
        ready = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
        version = {"type": ["integer", "string"], "description": "A version's number."}
        which = {"alias": {**text, "description": "Such as champion, which is meant without either."}, "version": version}
        given = {"type": "object", "properties": which, "additionalProperties": False, "maxProperties": 1}
        load = {"type": "object", "properties": {"parameters": given}}
        unload = {"type": "object", "properties": {"parameters": {"type": "object"}}}
        name, base = {"const": self._name}, f"/v2/repository/models/{self._name}"
        loaded, unloaded = (_object(name=name, version=text, **{action: {"const": True}}) for action in ("load", "unload"))
        return {
            "/v2/repository/index": _post("repositoryIndex", "The versions in the repository", ready, states),
            f"{base}/load": _post("repositoryLoad", "Let another version answer", load, loaded),
            f"{base}/unload": _post("repositoryUnload", "Let no version answer", unload, unloaded),
        }

    def _schemas(self) -> Schema:
        tensors, text = self._tensors, {"type": "string"}
        described = _object(name=text, datatype=text, shape={"type": "array", "items": {"type": "integer"}})
        many = {"type": "array", "items": described}
        timeout = {"type": "integer", "minimum": 0, "description": "Microseconds after which nobody waits for the answer."}
        wants = {"type": "object", "properties": {"timeout": timeout, "binary_data_output": {"type": "boolean"}}}
        return {
            "Metadata": _object(
                name={"const": self._name},
                versions={"type": "array", "items": text},
                platform=text,
                inputs=many,
                outputs=many,
            ),
            "InferenceRequest": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string", "maxLength": 256, "description": "Returned as it is; one is issued if left out."},
                    "parameters": wants,
                    "inputs": tensors.request_tensors(),
                    "outputs": tensors.wanted_outputs(),
                },
            },
            "InferenceResponse": _object(
                model_name={"const": self._name},
                model_version={"const": self._version},
                id=text,
                outputs=tensors.answer_tensors(),
            ),
            "PredictRequest": {
                "type": "object",
                "oneOf": [
                    _object(instances={"type": "array", "items": tensors.row(), "minItems": 1}),
                    _object(inputs=tensors.columns()),
                ],
            },
            "PredictResponse": {
                "type": "object",
                "oneOf": [
                    _object(predictions={"type": "array", "items": tensors.answer_row()}),
                    _object(outputs=tensors.answer_columns()),
                ],
            },
            "Error": _object(error=text),
        }

    def _limits_in_words(self) -> str:
        settings = self._settings
        return (
            f"At most {settings.max_rows} rows and {settings.max_body_bytes} bytes, answered within "
            f"{settings.request_seconds:g} s or not at all."
        )


def _get(
    operation: str,
    summary: str,
    schema: Schema,
    content_type: str = _JSON,
    *,
    unready: Schema | None = None,
    refusals: Iterable[int] = (),
) -> Schema:
    responses: Schema = {"200": {"description": summary, "content": {content_type: {"schema": schema}}}}
    if unready is not None:
        responses["503"] = {"description": "Not now", "content": {_JSON: {"schema": {"anyOf": [unready, _ref("Error")]}}}}
    return {"get": {"operationId": operation, "summary": summary, "responses": responses | _refusals(refusals)}}


def _post(operation: str, summary: str, asked: Schema, answered: Schema) -> Schema:
    responses: Schema = {"200": {"description": summary, "content": {_JSON: {"schema": answered}}}}
    body = {"required": False, "content": {_JSON: {"schema": asked}}}
    told = {"operationId": operation, "summary": summary, "requestBody": body}
    return {"post": {**told, "responses": responses | _refusals(_REPOSITORY_REFUSALS)}}


def _object(**properties: Any) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _refusals(statuses: Iterable[int]) -> Schema:
    return {str(status): {"$ref": f"#/components/responses/Refusal{status}"} for status in statuses}


def _refusal(status: int) -> Schema:
    refusal: Schema = {"description": _REFUSALS[status], "content": {_JSON: {"schema": _ref("Error")}}}
    if status == 429:
        seconds = {"type": "integer", "minimum": 1}
        refusal["headers"] = {"Retry-After": {"description": "Seconds", "required": False, "schema": seconds}}
    return refusal
