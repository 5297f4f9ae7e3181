"""The standard health service, `grpc.health.v1.Health`: its status is whether the endpoint wants requests."""

from functools import partial

from tidegate.serving.grpc_v2 import service
from tidegate.serving.grpc_v2.calls import Call, Method
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.grpc_v2.service import parsed
from tidegate.serving.grpc_v2.status import Code, Refusal
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.protocol.errors import RequestError

SERVICE = "grpc.health.v1.Health"

_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3
_STOPS = Refusal(Code.UNAVAILABLE, "the server stops")


class HealthService:
    """Answers Check, and Watch with the status now and each change of it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Tell how this endpoint is."""
        self._endpoint = endpoint
        self._check_request, self._response = methods_of(SERVICE)["Check"]
        self._watches: set[_Watch] = set()

    def methods(self) -> dict[str, Method]:
        """Return the methods by path."""
        return {f"/{SERVICE}/Check": self._check, f"/{SERVICE}/Watch": self._watch}

    def end_watches(self) -> None:
        """End the watching calls, which would otherwise keep their connections open."""
        for watch in tuple(self._watches):
            watch.call.refuse(_STOPS)

    def _check(self, call: Call, message: bytes) -> None:
        name = parsed(self._check_request, message).service
        status = self._status_of(name)
        if status == _SERVICE_UNKNOWN:
            raise RequestError(404, f"unknown service {name!r}")
        call.answer(self._encoded(status))

    def _watch(self, call: Call, message: bytes) -> None:
        name = parsed(self._check_request, message).service
        watch = _Watch(call)
        self._watches.add(watch)
        tell = partial(self._tell, watch, name)
        stop = self._endpoint.watch(tell)

        def closed() -> None:
            stop()
            self._watches.discard(watch)

        call.closed = closed
        tell()

    def _tell(self, watch: "_Watch", name: str) -> None:
        status = self._status_of(name)
        if status != watch.told:
            watch.told = status
            watch.call.send(self._encoded(status))

    def _status_of(self, name: str) -> int:
        if name not in ("", service.SERVICE):
            return _SERVICE_UNKNOWN
        return _SERVING if self._endpoint.ready else _NOT_SERVING

    def _encoded(self, status: int) -> bytes:
        encoded: bytes = self._response(status=status).SerializeToString()
        return encoded


class _Watch:
    """A watching call, and what it was told last."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.told: int | None = None
