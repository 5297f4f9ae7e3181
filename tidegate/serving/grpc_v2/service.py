"""The methods of `inference.GRPCInferenceService`, each answering one call.

`ModelInfer` is handed to the model, which answers later; all else is answered at once.
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from tidegate.serving.access_log import open_access_log
from tidegate.serving.grpc_v2 import codec
from tidegate.serving.grpc_v2.calls import Call, Method
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.grpc_v2.status import Refusal
from tidegate.serving.model.description import model_metadata, server_metadata, unknown_model, unknown_version
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.settings import ServeSettings

if TYPE_CHECKING:
    from tidegate.serving.model.served import ServedModel

SERVICE = "inference.GRPCInferenceService"


class InferenceService:
    """Answers the calls of the Open Inference Protocol for one endpoint."""

    def __init__(self, endpoint: Endpoint, settings: ServeSettings) -> None:
        """Answer for whatever model the endpoint has at the time of a call; none may take longer than the settings say."""
        self._endpoint = endpoint
        self._longest = int(settings.request_seconds * 1e9)
        self._access_log = open_access_log(settings)

    def methods(self) -> dict[str, Method]:
        """Return the methods by path."""
        answers: dict[str, Callable[[Any], dict[str, Any]]] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._endpoint.ready},
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
        }
        messages = methods_of(SERVICE)
        methods = {f"/{SERVICE}/{name}": answered_by(answer, *messages[name]) for name, answer in answers.items()}
        return methods | {f"/{SERVICE}/ModelInfer": self._infer}

    def _infer(self, call: Call, message: bytes) -> None:
        model = self._endpoint.model
        if model is None:
            error = self._endpoint.refusal()
            if self._access_log is not None:
                self._access_log.note("grpc", perf_counter_ns() - call.began, None, error)
            raise error
        try:
            name, version, request = codec.decode(message)
            self._check_addressed(model, name, version)
        except RequestError as error:
            self._reply(call, model, error)
            return
        head = call.head
        request.path, request.trace_parent, request.trace_state = head.path, head.trace_parent, head.trace_state
        if head.timeout_ns is not None:
            request.timeout = min(request.timeout or head.timeout_ns, head.timeout_ns) or 1
        request.arrived(call.began, self._longest)
        call.work = request
        model.submit(request, partial(self._reply, call, model))

    def _reply(self, call: Call, model: "ServedModel", outcome: InferAnswer | RequestError) -> None:
        if isinstance(outcome, RequestError):
            call.refuse(Refusal.of(outcome))
        else:
            identity = model.identity
            call.answer(codec.encode(outcome, identity.name, identity.version, model.output_datatypes))
        nanoseconds = perf_counter_ns() - call.began
        model.metrics.count_request(outcome.status, nanoseconds)
        if self._access_log is not None:
            request = call.work if isinstance(call.work, InferRequest) else None
            self._access_log.note("grpc", nanoseconds, request, outcome)

    def _model_ready(self, request: Any) -> dict[str, Any]:
        model = self._endpoint.model
        if model is None:
            self._check_name(request.name)
        else:
            self._check_addressed(model, request.name, request.version)
        return {"ready": self._endpoint.ready}

    def _server_metadata(self, _request: Any) -> dict[str, Any]:
        return server_metadata(self._endpoint)

    def _model_metadata(self, request: Any) -> dict[str, Any]:
        model = self._endpoint.model
        if model is None:
            raise self._endpoint.refusal()
        self._check_addressed(model, request.name, request.version)
        return model_metadata(model)

    def _check_addressed(self, model: "ServedModel", name: str, version: str) -> None:
        self._check_name(name)
        if version not in ("", model.identity.version):
            raise unknown_version(version, name, model)

    def _check_name(self, name: str) -> None:
        if name != self._endpoint.name:
            raise unknown_model(name, self._endpoint)


def answered_by(answer: Callable[[Any], dict[str, Any]], request_class: Any, response_class: Any) -> Method:
    """Return a method that answers at once with the response of which `answer` returns the fields, given the request."""

    def method(call: Call, message: bytes) -> None:
        call.answer(response_class(**answer(parsed(request_class, message))).SerializeToString())

    return method


def parsed(request_class: Any, message: bytes) -> Any:
    """Return the request that `message` is; raises RequestError (400)."""
    try:
        return request_class.FromString(message)
    except DecodeError:
        raise bad_request(f"message is no {request_class.DESCRIPTOR.full_name}") from None
