"""The gRPC server of a worker: `inference.GRPCInferenceService` and `grpc.health.v1.Health`."""

from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import Any

import grpc
import grpc.aio

import tidegate
from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.serving.grpc_v2 import codec
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol.errors import RequestError

_INFERENCE = "inference.GRPCInferenceService"
_HEALTH = "grpc.health.v1.Health"
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}

Method = Callable[[Any, Any], Awaitable[Any]]


async def start_grpc(model: ServedModel, *, host: str, port: int, shared_port: bool, max_body_bytes: int) -> grpc.aio.Server:
    """Start answering gRPC; with `shared_port`, other workers listen on the same port. Raises ServingError."""
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", int(shared_port)),
            ("grpc.max_receive_message_length", max_body_bytes),
            ("grpc.max_send_message_length", -1),
        ]
    )
    server.add_generic_rpc_handlers(_handlers(_Service(model)))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServingError(f"gRPC port {port} on {host} cannot be opened: {error}; choose another --grpc-port") from error
    if bound == 0:
        raise ServingError(f"gRPC port {port} on {host} is in use; choose another --grpc-port")
    await server.start()
    return server


class _Service:
    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self.methods = methods_of(_INFERENCE)
        self.health_methods = methods_of(_HEALTH)

    def _reply(self, method: str, **fields: Any) -> Any:
        return self.methods[method][1](**fields)

    async def ServerLive(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return self._reply("ServerLive", live=True)

    async def ServerReady(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return self._reply("ServerReady", ready=self._model.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._check_addressed(request.name, request.version, context)
        return self._reply("ModelReady", ready=self._model.ready)

    async def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return self._reply("ServerMetadata", name="tidegate", version=tidegate.__version__)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._check_addressed(request.name, request.version, context)
        identity = self._model.identity
        return self._reply(
            "ModelMetadata",
            name=identity.name,
            versions=[identity.version],
            platform="onnxruntime_onnx",
            inputs=[_tensor_metadata(spec) for spec in self._model.inputs],
            outputs=[_tensor_metadata(spec) for spec in self._model.outputs],
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        started = perf_counter_ns()
        await self._check_addressed(request.model_name, request.model_version, context)
        identity = self._model.identity
        status, message, reply = 200, "", None
        try:
            answer = await self._model.answer(codec.decode(request), started)
            reply = codec.encode(answer, identity.name, identity.version)
        except RequestError as error:
            status, message = error.status, str(error)
        self._model.metrics.count_request(status, perf_counter_ns() - started)
        if status != 200:
            await context.abort(_CODES[status], message)
        return reply

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.service not in ("", _INFERENCE):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return self.health_methods["Check"][1](status=1 if self._model.ready else 2)

    async def _check_addressed(self, name: str, version: str, context: Any) -> None:
        identity = self._model.identity
        if name != identity.name:
            message = f"unknown model {name!r}; this server serves {identity.name!r}"
        elif version not in ("", identity.version):
            message = f"unknown version {version!r} of model {name!r}; this server serves version {identity.version!r}"
        else:
            return
        await context.abort(grpc.StatusCode.NOT_FOUND, message)


def _handlers(service: _Service) -> tuple[Any, ...]:
    return tuple(
        grpc.method_handlers_generic_handler(
            name,
            {
                method: grpc.unary_unary_rpc_method_handler(
                    getattr(service, method),
                    request_deserializer=request.FromString,
                    response_serializer=response.SerializeToString,
                )
                for method, (request, response) in methods.items()
            },
        )
        for name, methods in ((_INFERENCE, service.methods), (_HEALTH, service.health_methods))
    )


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}
