"""Triton's own HTTP client against a real server: every datatype both ways, in JSON and in binary."""

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow.parquet as pq
import pytest
from tritonclient import http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests import small_packages
from tests.integration.serving.row import TINY_ROW

Client = http.InferenceServerClient
DATATYPES = (*small_packages.NUMBER_TYPES, "BYTES")


@pytest.fixture(scope="module")
def everything(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that answers every datatype as it was sent."""
    return launch_once(small_packages.every_type(tmp_path_factory.mktemp("echo") / "package"), grpc_port=0)


@pytest.fixture(scope="module")
def tiny(launch_once: Callable[..., Any], tiny_package: Any) -> Any:
    return launch_once(tiny_package, version="7", grpc_port=0)


@pytest.fixture
def to_everything(everything: Any) -> Iterator[Client]:
    with Client(f"127.0.0.1:{everything.http_port}", concurrency=8) as client:
        yield client


@pytest.fixture
def to_tiny(tiny: Any) -> Iterator[Client]:
    with Client(f"127.0.0.1:{tiny.http_port}", concurrency=8) as client:
        yield client


def arrays(rows: int = 3) -> dict[str, np.ndarray]:
    """Extreme values of every datatype, by input name."""
    made: dict[str, np.ndarray] = {}
    for datatype in DATATYPES:
        dtype = small_packages.NUMPY_TYPES[datatype]
        if datatype == "BYTES":
            values: list[Any] = ["", "ü ☃ \U0001f600", 'a "quoted"\\ line\n']
        elif datatype == "BOOL":
            values = [True, False, True]
        elif dtype.kind == "f":
            values = [np.finfo(dtype).max, -0.0, np.finfo(dtype).smallest_subnormal]
        else:
            values = [np.iinfo(dtype).min, np.iinfo(dtype).max, 7]
        made[datatype.lower()] = np.array([values[row % 3] for row in range(2 * rows)], dtype).reshape(rows, 2)
    return made


def as_inputs(given: dict[str, np.ndarray], *, binary: Callable[[str], bool]) -> list[http.InferInput]:
    return [
        http.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)).set_data_from_numpy(array, binary_data=binary(name))
        for name, array in given.items()
    ]


def tiny_inputs(**changed: Any) -> list[http.InferInput]:
    given = {
        name: np.array([value], np.float32 if isinstance(value, float) else object)
        for name, value in (TINY_ROW | changed).items()
    }
    return as_inputs(given, binary=lambda _: True)


def texts(array: np.ndarray) -> np.ndarray:
    """What the client reads of a text is bytes from binary data, and `str` from JSON."""
    decoded = [value.decode() if isinstance(value, bytes) else value for value in array.ravel()]
    return np.array(decoded, object).reshape(array.shape)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        pytest.param(lambda _: True, lambda _: True, id="binary both ways"),
        pytest.param(lambda _: False, lambda _: False, id="JSON both ways"),
        pytest.param(lambda _: False, lambda _: True, id="binary answers"),
        pytest.param(lambda _: True, lambda _: False, id="binary requests"),
        pytest.param(lambda name: "int" in name, lambda name: "8" in name, id="some of each"),
    ],
)
def test_every_datatype_comes_back_to_the_last_bit(
    to_everything: Client, sent: Callable[[str], bool], answered: Callable[[str], bool]
) -> None:
    given = arrays()
    outputs = [http.InferRequestedOutput(f"same {name}", binary_data=answered(name)) for name in given]
    result = to_everything.infer("echo", as_inputs(given, binary=sent), outputs=outputs)
    for name, array in given.items():
        found = result.as_numpy(f"same {name}")
        found = texts(found) if array.dtype == object else found
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        if array.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(found), np.signbit(array))


def test_all_outputs_are_binary_if_none_is_named(to_everything: Client) -> None:
    result = to_everything.infer("echo", as_inputs(arrays(), binary=lambda _: True))
    outputs = result.get_response()["outputs"]
    assert [output["name"] for output in outputs] == [f"same {name}" for name in arrays()]
    assert all("binary_data_size" in output["parameters"] and "data" not in output for output in outputs)


def test_outputs_are_answered_as_chosen_and_in_that_order(to_everything: Client) -> None:
    chosen = ["same fp32", "same bytes", "same int8"]
    outputs = [http.InferRequestedOutput(name) for name in chosen]
    result = to_everything.infer("echo", as_inputs(arrays(), binary=lambda _: True), outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == chosen
    np.testing.assert_array_equal(result.as_numpy("same int8"), arrays()["int8"])


@pytest.mark.parametrize("request_algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_algorithm", [None, "gzip", "deflate"])
def test_bodies_may_be_compressed(to_tiny: Client, request_algorithm: str | None, response_algorithm: str | None) -> None:
    result = to_tiny.infer(
        "tiny",
        tiny_inputs(),
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response_algorithm,
    )
    assert 0 < result.as_numpy("probability")[0] < 1


def test_health_and_metadata(to_tiny: Client) -> None:
    assert to_tiny.is_server_live()
    assert to_tiny.is_server_ready()
    assert to_tiny.is_model_ready("tiny")
    assert to_tiny.is_model_ready("tiny", "7")
    assert not to_tiny.is_model_ready("tiny", "8")
    assert not to_tiny.is_model_ready("other")
    server = to_tiny.get_server_metadata()
    assert server["name"] == "tidegate"
    assert "binary_tensor_data" in server["extensions"]
    model = to_tiny.get_model_metadata("tiny", "7")
    assert model["versions"] == ["7"]
    assert {tensor["name"]: tensor["datatype"] for tensor in model["inputs"]} == {
        "carrier": "BYTES",
        "origin": "BYTES",
        "dest": "BYTES",
        "distance": "FP32",
        "hour": "FP32",
    }


def test_ids_and_versions_are_echoed(to_tiny: Client) -> None:
    answer = to_tiny.infer("tiny", tiny_inputs(), model_version="7", request_id="mine ☃").get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine ☃", "tiny", "7")


def test_parameters_that_mean_nothing_here_are_ignored(to_tiny: Client) -> None:
    result = to_tiny.infer(
        "tiny", tiny_inputs(), priority=3, sequence_id=5, parameters={"own": "x", "number": 1.5, "flag": True}
    )
    assert result.as_numpy("label").shape == (1,)


def test_calls_at_once_each_get_their_own_answer(to_everything: Client) -> None:
    def numbered(number: int) -> dict[str, np.ndarray]:
        return arrays(1) | {"int32": np.array([[number, -number]], np.int32)}

    calls = [
        to_everything.async_infer("echo", as_inputs(numbered(number), binary=lambda _: True), request_id=str(number))
        for number in range(64)
    ]
    for number, call in enumerate(calls):
        result = call.get_result(timeout=20)
        assert result.get_response()["id"] == str(number)
        assert result.as_numpy("same int32").tolist() == [[number, -number]]


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        pytest.param(lambda client: client.infer("other", tiny_inputs()), "404", "unknown model 'other'", id="model"),
        pytest.param(
            lambda client: client.infer("tiny", tiny_inputs(), model_version="8"), "404", "unknown version '8'", id="version"
        ),
        pytest.param(
            lambda client: client.infer("tiny", tiny_inputs(), outputs=[http.InferRequestedOutput("none")]),
            "400",
            "output 'none' is none of this model's; it answers probability, label",
            id="output",
        ),
        pytest.param(lambda client: client.infer("tiny", tiny_inputs()[1:]), "400", "tensor 'carrier' is missing", id="input"),
        pytest.param(
            lambda client: client.infer("tiny", tiny_inputs(carrier=b"\xff\xfe")),
            "400",
            "tensor 'carrier': value 0 is not UTF-8",
            id="bytes that are no text",
        ),
        pytest.param(lambda client: client.infer("tiny", tiny_inputs(), timeout=1), "504", "past its deadline", id="timeout"),
        pytest.param(lambda client: client.get_model_metadata("other"), "404", "unknown model 'other'", id="metadata"),
    ],
)
def test_refusals_reach_the_caller_in_words(to_tiny: Client, call: Callable[[Client], Any], status: str, said: str) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        call(to_tiny)
    assert refusal.value.status() == status
    assert said in refusal.value.message()


def test_bfloat16_goes_both_ways_in_binary(launch: Callable[..., Any], tmp_path: Any) -> None:
    server = launch(small_packages.bfloat16(tmp_path / "package"), grpc_port=0)
    x = np.array([[1.0, -0.0], [3.140625, 1e-40], [-2.5, 1e38]], np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    with Client(f"127.0.0.1:{server.http_port}") as client:
        described = client.get_model_metadata("brain")
        result = client.infer("brain", [http.InferInput("x", x.shape, "BF16").set_data_from_numpy(x)])
    assert {tensor["datatype"] for tensor in (*described["inputs"], *described["outputs"])} == {"BF16"}
    for name, factor in (("half", 0.5), ("double", 2.0)):
        expected = (x * np.float32(factor)).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(result.as_numpy(name), expected)
    server.stop()
    [logged] = [pq.ParquetFile(file).read() for file in server.store.rglob("*.parquet")]
    np.testing.assert_array_equal(np.array(logged["input_x"].to_pylist(), np.float32), x)
    np.testing.assert_array_equal(np.array(logged["output_double"].to_pylist(), np.float32), 2 * x)
