"""Triton's own gRPC client against a real server. It cannot share a process with other users of the same messages."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests import small_packages
from tests.integration.serving.row import TINY_ROW

Call = Callable[..., Any]
DATATYPES = (*small_packages.NUMBER_TYPES, "BYTES")


@pytest.fixture(scope="module")
def everything(launch_once: Call, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a server that answers every datatype as it was sent."""
    server = launch_once(small_packages.every_type(tmp_path_factory.mktemp("echo") / "package"))
    return f"127.0.0.1:{server.grpc_port}"


@pytest.fixture(scope="module")
def tiny(launch_once: Call, tiny_package: Any) -> str:
    return f"127.0.0.1:{launch_once(tiny_package, version='7').grpc_port}"


def arrays(rows: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    made: dict[str, np.ndarray] = {}
    for datatype in DATATYPES:
        dtype = small_packages.NUMPY_TYPES[datatype]
        if datatype == "BYTES":
            made["bytes"] = rng.choice(np.array(["", "ü ☃", "plain"], object), (rows, 2))
        elif dtype.kind == "f":
            made[datatype.lower()] = rng.normal(size=(rows, 2)).astype(dtype)
        elif dtype.kind == "b":
            made["bool"] = rng.random((rows, 2)) < 0.5
        else:
            bounds = np.iinfo(dtype)
            made[datatype.lower()] = rng.integers(bounds.min, bounds.max, (rows, 2), dtype, endpoint=True)
    return made


def as_inputs(given: dict[str, np.ndarray]) -> list[Any]:
    from tritonclient import grpc
    from tritonclient.utils import np_to_triton_dtype

    return [
        grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
        for name, array in given.items()
    ]


def tiny_inputs() -> list[Any]:
    given = {name: np.array([value], np.float32 if isinstance(value, float) else object) for name, value in TINY_ROW.items()}
    return as_inputs(given)


def echoed(address: str, outputs: list[str]) -> list[tuple[str, list[Any], str]]:
    from tritonclient import grpc

    with grpc.InferenceServerClient(address) as client:
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] or None
        result = client.infer("echo", as_inputs(arrays()), outputs=wanted, request_id="mine", model_version="1")
        answered = result.get_response()
        assert (answered.id, answered.model_name, answered.model_version) == ("mine", "echo", "1")
        return [(tensor.name, list(tensor.shape), _as_text(result.as_numpy(tensor.name))) for tensor in answered.outputs]


def _as_text(array: np.ndarray) -> str:
    return repr([value.decode() for value in array.ravel()] if array.dtype == object else array.tolist())


def test_every_datatype_comes_back_to_the_last_bit(everything: str, in_own_process: Call) -> None:
    found = in_own_process(echoed, everything, [])
    expected = [
        (f"same {name}", [3, 2], repr(array.ravel().tolist() if array.dtype == object else array.tolist()))
        for name, array in arrays().items()
    ]
    assert found == expected


def test_outputs_are_answered_as_chosen_and_in_that_order(everything: str, in_own_process: Call) -> None:
    chosen = ["same fp32", "same bytes", "same int8"]
    assert [name for name, _, _ in in_own_process(echoed, everything, chosen)] == chosen


def described(address: str) -> dict[str, Any]:
    from tritonclient import grpc

    with grpc.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata("tiny", "7")
        return {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("tiny", "7"),
            "server": client.get_server_metadata().name,
            "versions": list(metadata.versions),
            "inputs": {tensor.name: tensor.datatype for tensor in metadata.inputs},
        }


def test_health_and_metadata(tiny: str, in_own_process: Call) -> None:
    assert in_own_process(described, tiny) == {
        "live": True,
        "ready": True,
        "model ready": True,
        "server": "tidegate",
        "versions": ["7"],
        "inputs": {"dest": "BYTES", "carrier": "BYTES", "origin": "BYTES", "distance": "FP32", "hour": "FP32"},
    }


def answered_at_once(address: str, calls: int) -> list[tuple[str, list[Any]]]:
    import queue

    from tritonclient import grpc

    results: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(address) as client:
        for number in range(calls):
            given = arrays(1) | {"int32": np.array([[number, -number]], np.int32)}
            client.async_infer(
                "echo", as_inputs(given), lambda result, error: results.put(error or result), request_id=str(number)
            )
        found = [results.get(timeout=20) for _ in range(calls)]
    return [(result.get_response().id, result.as_numpy("same int32").tolist()) for result in found]


def test_calls_at_once_each_get_their_own_answer(everything: str, in_own_process: Call) -> None:
    found = dict(in_own_process(answered_at_once, everything, 64))
    assert found == {str(number): [[number, -number]] for number in range(64)}


def refused(address: str, case: str) -> tuple[str, str]:
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    calls: dict[str, Callable[[grpc.InferenceServerClient], Any]] = {
        "model": lambda client: client.infer("other", tiny_inputs()),
        "version": lambda client: client.infer("tiny", tiny_inputs(), model_version="8"),
        "output": lambda client: client.infer("tiny", tiny_inputs(), outputs=[grpc.InferRequestedOutput("none")]),
        "input": lambda client: client.infer("tiny", tiny_inputs()[1:]),
        "metadata": lambda client: client.get_model_metadata("other"),
        "repository": lambda client: client.load_model("tiny"),
    }
    with grpc.InferenceServerClient(address) as client:
        try:
            calls[case](client)
        except InferenceServerException as refusal:
            return refusal.status(), refusal.message()
    raise AssertionError(f"{case} was answered")


@pytest.mark.parametrize(
    ("case", "status", "said"),
    [
        pytest.param("model", "NOT_FOUND", "unknown model 'other'", id="model"),
        pytest.param("version", "NOT_FOUND", "unknown version '8'", id="version"),
        pytest.param("output", "INVALID_ARGUMENT", "output 'none' is none of this model's", id="output"),
        pytest.param("input", "INVALID_ARGUMENT", "tensor 'carrier' is missing", id="input"),
        pytest.param("metadata", "NOT_FOUND", "unknown model 'other'", id="metadata"),
        pytest.param("repository", "UNIMPLEMENTED", "", id="repository"),
    ],
)
def test_refusals_reach_the_caller_in_words(tiny: str, in_own_process: Call, case: str, status: str, said: str) -> None:
    found, message = in_own_process(refused, tiny, case)
    assert found == f"StatusCode.{status}"
    assert said in message


def streamed(address: str) -> str:
    import queue

    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    results: queue.Queue[Any] = queue.Queue()
    with grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: results.put(error))
        with suppress(InferenceServerException):  # the refusal may be here already
            client.async_stream_infer("tiny", tiny_inputs())
        said = str(results.get(timeout=20))
        client.stop_stream(cancel_requests=True)
        client.infer("tiny", tiny_inputs())  # the connection is as good as before
    return said


def test_a_stream_is_refused_at_once(tiny: str, in_own_process: Call) -> None:
    assert "StatusCode.UNIMPLEMENTED" in in_own_process(streamed, tiny)


def timed_out(address: str, server: int) -> list[str]:
    """Call a server that is halted for longer than the caller waits, and again once it goes on."""
    from tritonclient import grpc
    from tritonclient.utils import InferenceServerException

    statuses = []
    with grpc.InferenceServerClient(address) as client:
        client.infer("tiny", tiny_inputs())
        os.kill(server, signal.SIGSTOP)
        try:
            client.infer("tiny", tiny_inputs(), client_timeout=0.2)
        except InferenceServerException as refusal:
            statuses.append(str(refusal.status()))
        finally:
            os.kill(server, signal.SIGCONT)
        statuses.append(client.infer("tiny", tiny_inputs(), request_id="after").get_response().id)
    return statuses


def test_a_call_past_its_deadline_ends_and_the_next_is_answered(launch: Call, in_own_process: Call) -> None:
    server = launch()
    found = in_own_process(timed_out, f"127.0.0.1:{server.grpc_port}", server.process.pid)
    assert found == ["StatusCode.DEADLINE_EXCEEDED", "after"]


def halves(address: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from tritonclient import grpc

    with grpc.InferenceServerClient(address) as client:
        result = client.infer("brain", [grpc.InferInput("x", x.shape, "BF16").set_data_from_numpy(x)])
    return result.as_numpy("half"), result.as_numpy("double")


def test_bfloat16_goes_both_ways(launch: Call, tmp_path: Any, in_own_process: Call) -> None:
    server = launch(small_packages.bfloat16(tmp_path / "package"))
    x = np.array([[1.0, -0.0], [3.140625, 1e-40]], np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    for found, factor in zip(in_own_process(halves, f"127.0.0.1:{server.grpc_port}", x), (0.5, 2.0), strict=True):
        np.testing.assert_array_equal(found, (x * np.float32(factor)).astype(ml_dtypes.bfloat16).astype(np.float32))


def compressed(address: str, algorithm: str) -> float:
    from tritonclient import grpc

    with grpc.InferenceServerClient(address) as client:
        result = client.infer("tiny", tiny_inputs(), compression_algorithm=algorithm)
    return float(result.as_numpy("probability")[0])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(tiny: str, in_own_process: Call, algorithm: str) -> None:
    assert 0 < in_own_process(compressed, tiny, algorithm) < 1
