"""KServe's own clients, of both protocols and both versions, against a real server; they need a process of their own."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import small_packages
from tests.integration.serving.row import TINY_ROW

Call = Callable[..., Any]
DATATYPES = (*small_packages.NUMBER_TYPES, "BYTES")


@pytest.fixture(scope="module")
def everything(launch_once: Call, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that answers every datatype as it was sent."""
    return launch_once(small_packages.every_type(tmp_path_factory.mktemp("echo") / "package"))


@pytest.fixture(scope="module")
def tiny(launch_once: Call, tiny_package: Any) -> Any:
    return launch_once(tiny_package, version="7")


def http(server: Any) -> str:
    return f"http://127.0.0.1:{server.http_port}"


def grpc(server: Any) -> str:
    return f"127.0.0.1:{server.grpc_port}"


def values() -> dict[str, list[list[Any]]]:
    """Two rows of two values of every datatype, by input name."""
    by_kind: dict[str, list[list[Any]]] = {
        "O": [["", "ü ☃"], ["a", 'b"']],
        "b": [[True, False], [False, True]],
        "i": [[-128, 127], [0, 1]],
        "u": [[0, 255], [1, 2]],
        "f": [[1.5, -0.0], [0.25, 65504.0]],
    }
    return {datatype.lower(): by_kind[small_packages.NUMPY_TYPES[datatype].kind] for datatype in DATATYPES}


def infer_request(given: dict[str, list[list[Any]]], *, binary: Callable[[str], bool], outputs: list[str]) -> Any:
    from kserve.protocol.infer_type import RequestedOutput

    from kserve import InferInput, InferRequest

    inputs = []
    for name, rows in given.items():
        array = np.array(rows, small_packages.NUMPY_TYPES[name.upper()])
        one = InferInput(name, list(array.shape), name.upper())
        one.set_data_from_numpy(array, binary_data=binary(name))
        inputs.append(one)
    parameters = {} if outputs else {"binary_data_output": binary("int8")}
    wanted = [RequestedOutput(name, {"binary_data": binary(name)}) for name in outputs]
    return InferRequest("echo", inputs, request_id="mine", parameters=parameters, request_outputs=wanted)


def _found(response: Any) -> tuple[str, str, str | None, dict[str, Any]]:
    def plain(array: np.ndarray) -> list[Any]:
        if array.dtype == object:
            return (
                np.array([v.decode() if isinstance(v, bytes) else v for v in array.ravel()], object)
                .reshape(array.shape)
                .tolist()
            )
        return array.tolist()

    outputs = {output.name: plain(output.as_numpy()) for output in response.outputs}
    return response.id, response.model_name, response.model_version, outputs


def over_rest(address: str, kind: str, outputs: list[str]) -> tuple[str, str, str | None, dict[str, Any]]:
    from kserve import InferenceRESTClient, RESTConfig

    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            request = infer_request(values(), binary=_KINDS[kind], outputs=outputs)
            return _found(await client.infer(address, request, model_name="echo"))

    return asyncio.run(ask())


def over_grpc(address: str, kind: str, outputs: list[str]) -> tuple[str, str, str | None, dict[str, Any]]:
    from kserve import InferenceGRPCClient

    async def ask() -> Any:
        client = InferenceGRPCClient(address)
        try:
            return _found(await client.infer(infer_request(values(), binary=_KINDS[kind], outputs=outputs)))
        finally:
            await client.close()

    return asyncio.run(ask())


_KINDS: dict[str, Callable[[str], bool]] = {
    "binary": lambda _: True,
    "JSON": lambda name: "fp16" in name,  # the client has no other way for these
    "some of each": lambda name: "fp" in name,
}


@pytest.mark.parametrize("kind", list(_KINDS))
@pytest.mark.parametrize(
    "outputs", [pytest.param([], id="all outputs"), pytest.param(["same fp32", "same bytes", "same fp16"], id="three")]
)
def test_every_datatype_comes_back_over_rest(everything: Any, in_own_process: Call, kind: str, outputs: list[str]) -> None:
    *echoed, found = in_own_process(over_rest, http(everything), kind, outputs)
    assert echoed == ["mine", "echo", None]  # over REST this client reads no version
    expected = {f"same {name}": rows for name, rows in values().items()}
    assert list(found) == (outputs or list(expected))
    assert found == {name: expected[name] for name in found}


@pytest.mark.parametrize("outputs", [pytest.param([], id="all outputs"), pytest.param(["same fp32", "same bytes"], id="two")])
def test_every_datatype_comes_back_over_grpc(everything: Any, in_own_process: Call, outputs: list[str]) -> None:
    *echoed, found = in_own_process(over_grpc, grpc(everything), "binary", outputs)
    assert echoed == ["mine", "echo", "1"]
    expected = {f"same {name}": rows for name, rows in values().items()}
    assert list(found) == (outputs or list(expected))
    assert found == {name: expected[name] for name in found}


def typed_over_grpc(address: str) -> dict[str, Any]:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask() -> Any:
        client = InferenceGRPCClient(address)
        inputs = [
            InferInput(name, [2], "FP32" if isinstance(value, float) else "BYTES", [value, value])
            for name, value in TINY_ROW.items()
        ]
        try:
            response = await client.infer(InferRequest("tiny", inputs, model_version="7"), timeout=10)
            return {output.name: output.as_numpy().tolist() for output in response.outputs}
        finally:
            await client.close()

    return asyncio.run(ask())


def test_typed_contents_are_read(tiny: Any, in_own_process: Call) -> None:
    found = in_own_process(typed_over_grpc, grpc(tiny))
    _, answer = tiny.request("/v1/models/tiny:predict", {"instances": [TINY_ROW, TINY_ROW]})
    assert found["probability"] == pytest.approx([prediction["probability"] for prediction in answer["predictions"]])
    assert [label.decode() for label in found["label"]] == [prediction["label"] for prediction in answer["predictions"]]


def predicted(address: str, body: dict[str, Any]) -> Any:
    from kserve import InferenceRESTClient, RESTConfig

    async def ask() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            return await client.infer(address, body, model_name="tiny")

    return asyncio.run(ask())


def test_version_1_takes_rows_and_columns(tiny: Any, in_own_process: Call) -> None:
    by_rows = in_own_process(predicted, http(tiny), {"instances": [TINY_ROW]})
    by_columns = in_own_process(predicted, http(tiny), {"inputs": {name: [value] for name, value in TINY_ROW.items()}})
    assert by_rows["predictions"] == [{name: values[0] for name, values in by_columns["outputs"].items()}]


def health(rest: str, rpc: str) -> dict[str, bool]:
    from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig

    async def ask() -> dict[str, bool]:
        found: dict[str, bool] = {}
        for version in ("v1", "v2"):
            async with InferenceRESTClient(RESTConfig(protocol=version)) as client:
                found[f"{version} live"] = await client.is_server_live(rest)
                found[f"{version} model ready"] = await client.is_model_ready(rest, "tiny")
                if version == "v2":
                    found["v2 ready"] = await client.is_server_ready(rest)
                    found["v2 other model ready"] = await client.is_model_ready(rest, "other")
        channel = InferenceGRPCClient(rpc)
        found["grpc live"] = await channel.is_server_live()
        found["grpc ready"] = await channel.is_server_ready()
        found["grpc model ready"] = await channel.is_model_ready("tiny")
        await channel.close()
        return found

    return asyncio.run(ask())


def test_health_is_told_as_kserve_asks_for_it(tiny: Any, in_own_process: Call) -> None:
    found = in_own_process(health, http(tiny), grpc(tiny))
    assert found == {name: name != "v2 other model ready" for name in found}
    assert len(found) == 9


def refused(address: str, version: str, model: str, body: dict[str, Any]) -> tuple[int, str]:
    import httpx

    from kserve import InferenceRESTClient, RESTConfig

    async def ask() -> tuple[int, str]:
        async with InferenceRESTClient(RESTConfig(protocol=version)) as client:
            try:
                await client.infer(address, body, model_name=model)
            except httpx.HTTPStatusError as refusal:
                return refusal.response.status_code, str(refusal)
        raise AssertionError("it was answered")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("version", "model", "body", "status", "said"),
    [
        pytest.param("v2", "other", {"inputs": []}, 404, "unknown model 'other'", id="v2 model"),
        pytest.param("v2", "tiny", {"inputs": []}, 400, "holds no rows", id="v2 no rows"),
        pytest.param("v1", "other", {"instances": [TINY_ROW]}, 404, "unknown model 'other'", id="v1 model"),
        pytest.param("v1", "tiny", {"rows": []}, 400, "give either 'instances'", id="v1 neither"),
        pytest.param(
            "v1", "tiny", {"instances": [{**TINY_ROW, "hour": "late"}]}, 400, "tensor 'hour'", id="v1 text for a number"
        ),
    ],
)
def test_refusals_reach_the_caller_in_words(
    tiny: Any, in_own_process: Call, version: str, model: str, body: dict[str, Any], status: int, said: str
) -> None:
    found, message = in_own_process(refused, http(tiny), version, model, body)
    assert found == status
    assert said in message
