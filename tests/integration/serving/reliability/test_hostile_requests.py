"""One well-formed request, of a few bytes or of all that are allowed, neither stops the server nor makes it stumble."""

import gzip
import json
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tests.integration.serving.reliability.conftest import ECHO, echo_data, echo_document, resident_bytes
from tests.integration.serving.reliability.test_grpc_garbage import INFER
from tests.integration.serving.reliability.wire import Answer, Wire, request
from tidegate.serving.grpc_v2.messages import methods_of

MEGABYTE = 1024 * 1024
LIVE = "/v2/health/live"
UPGRADE = request(LIVE, None, "connection: upgrade", "upgrade: h2c")


def with_tensor(**changed: Any) -> bytes:
    """Return the body of a request, one of whose tensors is changed."""
    document = echo_document()
    document["inputs"][4] |= changed
    return json.dumps(document).encode()


def of_tensors(count: int) -> bytes:
    inputs = [{"name": str(number), "datatype": "BOOL", "shape": [1], "data": [True]} for number in range(count)]
    return json.dumps({"inputs": inputs}).encode()


SHAPES = [
    pytest.param([1] * 100 + [2], id="a hundred axes"),
    pytest.param([0] * 70, id="axes of no size"),
    pytest.param([0, 2**62, 2**62], id="nothing, of a size beyond 64 bits"),
    pytest.param([2**63 - 1] * 300, id="a count of thousands of digits"),
    pytest.param([2**63 - 1] * 150_000, id="a count of millions of digits"),
    pytest.param([1] * 300_000, id="three hundred thousand axes"),
    pytest.param([-(2**63), 2], id="a negative axis"),
]


@pytest.fixture
def ask(echo: Any, unharmed: None) -> Iterator[Callable[..., Answer]]:
    """Sends one request on a connection of its own."""

    def asking(body: bytes, *headers: str, path: str = ECHO) -> Answer:
        with Wire(echo.http_port) as wire:
            answer = wire.send(request(path, body, *headers)).answer()
        assert answer is not None
        return answer

    memory = resident_bytes(echo)
    yield asking
    assert resident_bytes(echo) - memory < 200 * MEGABYTE


def refusal(answer: Answer) -> str:
    assert answer.status == 400, answer
    message: str = json.loads(answer.body)["error"]
    assert 10 < len(message) < 5000
    return message


@pytest.mark.parametrize("padding", [pytest.param(0, id="small"), pytest.param(50_000, id="large")])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_no_tensor_has_is_refused(ask: Callable[..., Answer], shape: list[int], padding: int) -> None:
    assert "'int64'" in refusal(ask(with_tensor(shape=shape) + b" " * padding))
    assert "'int64'" in refusal(ask(with_tensor(shape=shape, data=[]) + b" " * padding))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("unharmed")
def test_a_shape_that_no_tensor_has_is_refused_over_grpc(echo: Any, shape: list[int]) -> None:
    asked, _ = methods_of("inference.GRPCInferenceService")["ModelInfer"]
    message = asked(model_name="echo", raw_input_contents=echo_data())
    for tensor in echo_document()["inputs"]:
        message.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    message.inputs[4].shape[:] = shape
    with grpc.insecure_channel(f"127.0.0.1:{echo.grpc_port}") as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(INFER)(message.SerializeToString(), timeout=10)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "'int64'" in error.value.details()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(with_tensor(name="x" * MEGABYTE), id="a tensor's name"),
        pytest.param(with_tensor(datatype="x" * MEGABYTE), id="a datatype"),
        pytest.param(with_tensor(data=["x" * MEGABYTE, 1]), id="a value"),
        pytest.param(with_tensor(parameters={"binary_data_size": "x" * MEGABYTE}), id="a parameter"),
        pytest.param(json.dumps(echo_document() | {"id": "x" * MEGABYTE}).encode(), id="an id"),
        pytest.param(json.dumps(echo_document() | {"outputs": [{"name": "x" * MEGABYTE}]}).encode(), id="an output"),
        pytest.param(of_tensors(60_000), id="sixty thousand tensors"),
        pytest.param(
            b'{"inputs": [{"name": "a", "datatype": "BOOL", "shape": [1], "data": [%b[]]}]}' % (b"[]," * 10**6), id="lists"
        ),
    ],
)
def test_what_is_refused_is_not_repeated_at_length(ask: Callable[..., Answer], body: bytes) -> None:
    refusal(ask(body))


def test_rows_of_many_names_are_not_repeated_at_length(ask: Callable[..., Answer]) -> None:
    rows = [{str(number): 1 for number in range(100_000)}, {}]
    refusal(ask(json.dumps({"instances": rows}).encode(), path="/v1/models/echo:predict"))


def test_what_is_small_only_as_long_as_it_is_packed_is_refused(ask: Callable[..., Answer]) -> None:
    answer = ask(gzip.compress(b" " * 100 * MEGABYTE), "content-encoding: gzip")
    assert answer.status == 413


@pytest.mark.usefixtures("unharmed")
def test_many_offers_of_another_protocol_are_many_requests(echo: Any) -> None:
    with Wire(echo.http_port) as wire:
        sender = threading.Thread(target=wire.send, args=(UPGRADE * 5000,))
        sender.start()
        for _ in range(5000):
            answer = wire.answer()
            assert answer is not None
            assert answer.status == 200
        sender.join()


def test_strings_of_no_length_are_many_strings_all_the_same(ask: Callable[..., Answer]) -> None:
    document = echo_document()
    count = 900_000
    document["inputs"][-1] |= {"shape": [count, 1], "parameters": {"binary_data_size": 4 * count}}
    del document["inputs"][-1]["data"]
    header = json.dumps(document).encode()
    answer = ask(header + struct.pack("<I", 0) * count, f"inference-header-content-length: {len(header)}")
    refusal(answer)
