"""The methods: what the model is asked, what is answered for it, and the health and repository services beside it."""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.unit.serving.grpc_v2.conftest import Caller
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.serving.grpc_v2.frames import RST_STREAM, frame
from tidegate.serving.grpc_v2.health import HealthService
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.grpc_v2.repository import RepositoryService
from tidegate.serving.grpc_v2.service import InferenceService
from tidegate.serving.grpc_v2.status import Code
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest, Reply
from tidegate.serving.repository.control import ModelState
from tidegate.serving.settings import ServeSettings

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
ONE = struct.pack("<f", 1)


@dataclass
class Model:
    """Answers half of what it is asked, at once unless told to wait."""

    waits: bool = False
    asked: list[tuple[InferRequest, Reply]] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    identity: Any = field(default_factory=lambda: SimpleNamespace(name="m", version="3", revision="v3"))
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="y", datatype="FP32", shape=(-1,)),)
    output_datatypes: Mapping[str, str] = field(default_factory=lambda: {"y": "FP32"})

    @property
    def metrics(self) -> Any:
        return SimpleNamespace(count_request=lambda status, _nanoseconds: self.counted.append(status))

    def submit(self, request: InferRequest, reply: Reply) -> None:
        self.asked.append((request, reply))
        if not self.waits:
            self.answer()

    def answer(self) -> None:
        request, reply = self.asked[-1]
        value = request.tensors[0].data[0]
        if value < 0:
            reply(RequestError(400, "below 0"))
        else:
            reply(InferAnswer(request.id, {"y": np.array([value / 2], np.float32)}))


@dataclass
class Repository:
    asked: list[Any] = field(default_factory=list)
    outcome: Any = "7"

    def index(self, *, ready_only: bool, reply: Callable[[Any], None]) -> None:
        self.asked.append(ready_only)
        reply(self.outcome)

    def load(self, name: str, parameters: Mapping[str, Any], reply: Callable[[Any], None]) -> None:
        self.asked.append((name, dict(parameters)))
        reply(self.outcome)

    def unload(self, name: str, reply: Callable[[Any], None]) -> None:
        self.asked.append(name)
        reply(self.outcome)


@dataclass
class Client:
    """Calls the methods of one endpoint."""

    caller: Caller
    endpoint: Endpoint
    health: HealthService
    stream: int = -1

    def begin(self, service: str, method: str, /, *headers: tuple[str, str], **fields: Any) -> int:
        self.stream += 2
        message = methods_of(service)[method][0](**fields).SerializeToString()
        self.caller.call(self.stream, message, (":path", f"/{service}/{method}"), *headers)
        return self.stream

    def call(self, service: str, method: str, /, *headers: tuple[str, str], **fields: Any) -> Any:
        """Return the response, or code and message of the refusal."""
        found, body = self.caller.answer(self.begin(service, method, *headers, **fields))
        if found["grpc-status"] != "0":
            return int(found["grpc-status"]), found["grpc-message"]
        return methods_of(service)[method][1].FromString(body[5:])

    def infer(self, *headers: tuple[str, str], value: float = 1, **fields: Any) -> Any:
        return self.call(INFERENCE, "ModelInfer", *headers, **asking(value) | fields)


def asking(value: float = 1) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1]}
    return {"model_name": "m", "inputs": [tensor], "raw_input_contents": [struct.pack("<f", value)]}


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def client(new_caller: Callable[..., Caller], model: Model) -> Client:
    endpoint = Endpoint("m")
    endpoint.swap(model)
    health = HealthService(endpoint)
    inference = InferenceService(endpoint, ServeSettings(package="unused", request_seconds=10))
    caller = new_caller(inference.methods() | RepositoryService(endpoint).methods() | health.methods())
    caller.greet()
    caller.read()
    return Client(caller, endpoint, health)


def test_an_inference(client: Client, model: Model) -> None:
    answer = client.infer(id="i1", model_version="3", outputs=[{"name": "y"}])
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "i1")
    assert list(answer.raw_output_contents) == [struct.pack("<f", 0.5)]
    assert model.asked[0][0].outputs == ("y",)
    assert model.counted == [200]


@pytest.mark.parametrize(
    ("fields", "refusal", "counted"),
    [
        pytest.param({"model_name": "n"}, (Code.NOT_FOUND, "unknown model 'n'; this server serves 'm'"), [404], id="name"),
        pytest.param(
            {"model_version": "4"},
            (Code.NOT_FOUND, "unknown version '4' of model 'm'; this server serves version '3'"),
            [404],
            id="version",
        ),
        pytest.param({"value": -1}, (Code.INVALID_ARGUMENT, "below 0"), [400], id="the model's own"),
        pytest.param(
            {"raw_input_contents": [ONE, ONE]},
            (Code.INVALID_ARGUMENT, "raw_input_contents holds 2 tensors, but there are 1 inputs"),
            [400],
            id="the codec's",
        ),
    ],
)
def test_a_refused_inference(
    client: Client, model: Model, fields: dict[str, Any], refusal: tuple[Code, str], counted: list[int]
) -> None:
    assert client.infer(**fields) == refusal
    assert model.counted == counted


def test_no_protobuf_is_the_callers_fault(client: Client, model: Model) -> None:
    for service, method in ((INFERENCE, "ModelInfer"), (INFERENCE, "ModelReady"), (HEALTH, "Check")):
        client.stream += 2
        client.caller.call(client.stream, b"\xff\xff", (":path", f"/{service}/{method}"))
        found, _ = client.caller.answer(client.stream)
        assert int(found["grpc-status"]) == Code.INVALID_ARGUMENT
        assert found["grpc-message"].startswith("message is no ")
    assert model.counted == [400]


@pytest.mark.parametrize(
    ("timeout", "nanoseconds"),
    [
        pytest.param("absent", 10 * 10**9, id="none"),
        pytest.param("2S", 2 * 10**9, id="shorter than the server's"),
        pytest.param("1H", 10 * 10**9, id="longer than the server's"),
        pytest.param("0n", 1, id="none at all"),
    ],
)
def test_how_long_a_caller_waits(client: Client, model: Model, timeout: str, nanoseconds: int) -> None:
    client.infer(("grpc-timeout", timeout), ("traceparent", "00-1-2-01"))
    request = model.asked[0][0]
    assert request.deadline - request.started == nanoseconds
    assert request.trace_parent == "00-1-2-01"


def test_an_answer_may_come_later_or_be_given_up(client: Client, model: Model) -> None:
    model.waits = True
    stream = client.begin(INFERENCE, "ModelInfer", **asking())
    assert client.caller.read() == []
    model.answer()
    assert client.caller.answer(stream)[0]["grpc-status"] == "0"
    given_up = client.begin(INFERENCE, "ModelInfer", **asking())
    client.caller.send(frame(RST_STREAM, 0, given_up, bytes(4)))
    assert model.asked[1][0].abandoned
    assert not model.asked[0][0].abandoned
    model.answer()
    assert client.caller.read() == []


def test_a_model_that_is_swapped_finishes_what_it_began(client: Client, model: Model) -> None:
    model.waits = True
    stream = client.begin(INFERENCE, "ModelInfer", **asking())
    other = Model(identity=SimpleNamespace(name="m", version="4", revision="v4"))
    client.endpoint.swap(other)
    assert client.infer().model_version == "4"
    model.answer()
    body = client.caller.answer(stream)[1]
    assert methods_of(INFERENCE)["ModelInfer"][1].FromString(body[5:]).model_version == "3"
    assert (model.counted, other.counted) == ([200], [200])


def test_liveness_readiness_and_metadata(client: Client) -> None:
    assert client.call(INFERENCE, "ServerLive").live
    assert client.call(INFERENCE, "ServerReady").ready
    assert client.call(INFERENCE, "ModelReady", name="m").ready
    metadata = client.call(INFERENCE, "ModelMetadata", name="m")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("m", ["3"], "onnxruntime_onnx")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [("x", "FP32", [-1, 1])]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.outputs] == [("y", "FP32", [-1])]
    assert client.call(INFERENCE, "ServerMetadata").name == "tidegate"
    for method in ("ModelReady", "ModelMetadata"):
        assert client.call(INFERENCE, method, name="n")[0] == Code.NOT_FOUND
        assert client.call(INFERENCE, method, name="m", version="9")[0] == Code.NOT_FOUND


def test_an_endpoint_without_a_model(client: Client) -> None:
    client.endpoint.swap(None)
    assert client.call(INFERENCE, "ServerLive").live
    assert not client.call(INFERENCE, "ServerReady").ready
    assert not client.call(INFERENCE, "ModelReady", name="m").ready
    assert client.infer()[0] == client.call(INFERENCE, "ModelMetadata", name="m")[0] == Code.UNAVAILABLE


def test_health_is_checked_and_watched(client: Client) -> None:
    def told() -> list[int]:
        response = methods_of(HEALTH)["Check"][1]
        return [response.FromString(found.payload[5:]).status for found in client.caller.read() if found.kind == 0]

    assert client.call(HEALTH, "Check").status == client.call(HEALTH, "Check", service=INFERENCE).status == 1
    assert client.call(HEALTH, "Check", service="x") == (Code.NOT_FOUND, "unknown service 'x'")
    first = client.begin(HEALTH, "Watch")
    assert told() == [1]
    client.begin(HEALTH, "Watch", service="x")
    assert told() == [3]
    client.endpoint.swap(Model())
    assert told() == [], "nothing has changed"
    client.endpoint.swap(None)
    assert told() == [2]
    client.caller.send(frame(RST_STREAM, 0, first, bytes(4)))
    client.endpoint.swap(Model())
    assert told() == [], "nobody watches any more"
    client.health.end_watches()
    assert {client.caller.fields(found)["grpc-status"] for found in client.caller.read()} == {"14"}
    client.endpoint.drain()
    assert client.call(HEALTH, "Check").status == 2


def test_the_repository_is_off(client: Client) -> None:
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        code, message = client.call(INFERENCE, method)
        assert (code, "--repository" in message) == (Code.UNIMPLEMENTED, True)
    assert list(client.call(INFERENCE, "ServerMetadata").extensions) == ["binary_tensor_data"]


def test_the_repository_is_asked(client: Client) -> None:
    client.endpoint.repository = repository = Repository()
    parameters = {"version": {"string_param": "7"}, "wait": {"bool_param": True}, "empty": {}}
    loaded = client.call(INFERENCE, "RepositoryModelLoad", model_name="m", parameters=parameters)
    assert (loaded.model_name, loaded.is_loaded) == ("m", True)
    unloaded = client.call(INFERENCE, "RepositoryModelUnload", repository_name="m")  # as KServe's clients write it
    assert (unloaded.model_name, unloaded.is_unloaded) == ("m", True)
    repository.outcome = [ModelState("m", "7", "READY"), ModelState("m", "6", "UNAVAILABLE", "not loaded")]
    index = client.call(INFERENCE, "RepositoryIndex", ready=True)
    assert [(found.name, found.version, found.state, found.reason) for found in index.models] == [
        ("m", "7", "READY", ""),
        ("m", "6", "UNAVAILABLE", "not loaded"),
    ]
    assert repository.asked == [("m", {"version": "7", "wait": True, "empty": None}), "m", True]
    assert list(client.call(INFERENCE, "ServerMetadata").extensions) == ["binary_tensor_data", "model_repository"]


@pytest.mark.parametrize("method", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
def test_the_repository_refuses(client: Client, method: str) -> None:
    client.endpoint.repository = Repository(outcome=RequestError(409, "damaged"))
    assert client.call(INFERENCE, method) == (Code.FAILED_PRECONDITION, "damaged")
