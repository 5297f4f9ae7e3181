"""Real servers of packages of many classes, a regression, images, and texts of any length, spoken to in every protocol."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests import small_packages
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, TensorSpec
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.grpc_v2.messages import methods_of
from tidegate.serving.metrics.names import LOG_ROWS, PREDICTIONS, REQUESTS
from tidegate.serving.protocol.tensors import from_binary, to_binary

SERVICE = "inference.GRPCInferenceService"


def call(channel: grpc.Channel, method: str, **fields: Any) -> Any:
    request, response = methods_of(SERVICE)[method]
    return channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )(request(**fields), timeout=10)


def v2_body(inputs: dict[str, np.ndarray], specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    def data(array: np.ndarray) -> list[Any]:
        return [None if value != value else value for value in array.ravel().tolist()]  # JSON has no NaN

    tensors = [
        {"name": spec.name, "datatype": spec.datatype, "shape": inputs[spec.name].shape, "data": data(inputs[spec.name])}
        for spec in specs
    ]
    return {"id": "f1", "inputs": tensors}


@pytest.mark.parametrize(
    ("make", "labels"),
    [
        pytest.param(small_packages.multiclass, ["label"], id="many classes"),
        pytest.param(small_packages.regression, [], id="regression"),
        pytest.param(small_packages.image, [], id="images"),
        pytest.param(small_packages.tokens, [], id="tokens"),
        pytest.param(small_packages.every_type, [], id="every type"),
    ],
)
def test_every_protocol_gives_the_models_answer(
    make: Callable[[Path], Path],
    labels: list[str],
    launch: Callable[..., Any],
    tmp_path: Path,
    eventually: Callable[..., None],
) -> None:
    package = make(tmp_path / "package")
    manifest, golden = read_manifest(package), read_golden(package / GOLDEN_NAME)
    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    server = launch(package, name="any")

    status, answer = server.request("/v2/models/any/infer", v2_body(golden.inputs, inputs))
    assert status == 200, answer
    assert [tensor["name"] for tensor in answer["outputs"]] == [*(spec.name for spec in outputs), *labels]
    for tensor in answer["outputs"][: len(outputs)]:
        expected = golden.outputs[tensor["name"]]
        assert tensor["shape"] == list(expected.shape)
        assert tensor["data"] == expected.ravel().tolist()

    status, answer = server.request(
        "/v1/models/any:predict", {"inputs": {name: array.tolist() for name, array in golden.inputs.items()}}
    )
    assert status == 200, answer
    columns = {spec.name: answer["outputs"] for spec in outputs} if len(outputs) + len(labels) == 1 else answer["outputs"]
    assert {name: columns[name] for name in golden.outputs} == {name: array.tolist() for name, array in golden.outputs.items()}

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        metadata = call(channel, "ModelMetadata", name="any")
        described = [(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in metadata.inputs]
        assert described == [(spec.name, spec.datatype, spec.shape) for spec in inputs]
        reply = call(
            channel,
            "ModelInfer",
            model_name="any",
            inputs=[{"name": s.name, "datatype": s.datatype, "shape": golden.inputs[s.name].shape} for s in inputs],
            raw_input_contents=[to_binary(golden.inputs[spec.name]) for spec in inputs],
        )
    for tensor, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        if tensor.name in golden.outputs:
            found = from_binary(memoryview(raw), tensor.datatype, tensor.shape, tensor.name)
            np.testing.assert_array_equal(found, golden.outputs[tensor.name])

    rows = 3 * golden.rows
    eventually(lambda: server.metric(LOG_ROWS) == rows, "logged rows")
    assert server.metric(REQUESTS, 'status="200"') == 3
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        counted = [line for line in response.read().decode().splitlines() if line.startswith(f"{PREDICTIONS}{{")]
    assert [(line.rpartition(" ")[2], "bin=" in line) for line in counted] == [(str(rows), False)]
    server.stop()
    logged = [row for file in server.store.rglob("*.parquet") for row in pq.ParquetFile(file).read().to_pylist()]
    assert len(logged) == rows
    assert all(row["status"] == 200 for row in logged)
    first = next(row for row in logged if row["prediction_id"] == "f1/0")
    for spec in outputs:
        expected = golden.outputs[spec.name][0].reshape(-1).squeeze()
        np.testing.assert_array_equal(np.array(first[f"output_{spec.name}"]), expected)


def test_binary_images_go_there_and_back(launch: Callable[..., Any], tmp_path: Path) -> None:
    package = small_packages.image(tmp_path / "package")
    golden = read_golden(package / GOLDEN_NAME)
    server = launch(package, name="digits")
    blob = to_binary(golden.inputs["image"])
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": golden.inputs["image"].shape,
        "parameters": {"binary_data_size": len(blob)},
    }
    header = json.dumps({"inputs": [tensor], "outputs": [{"name": "map", "parameters": {"binary_data": True}}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v2/models/digits/infer",
        header + blob,
        {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))},
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        answer = response.read()
        length = int(response.headers["Inference-Header-Content-Length"])
    [described] = json.loads(answer[:length])["outputs"]
    found = from_binary(memoryview(answer)[length:], described["datatype"], described["shape"], "map")
    np.testing.assert_array_equal(found, golden.outputs["map"])


@pytest.mark.parametrize(
    ("make", "body", "message"),
    [
        pytest.param(
            small_packages.image,
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 8, 8], "data": [0.0] * 64}]},
            "tensor 'image' has shape [1, 8, 8], but this model takes [-1, 1, 8, 8]",
            id="rank",
        ),
        pytest.param(
            small_packages.tokens,
            {"inputs": [{"name": "tokens", "datatype": "INT64", "shape": [2, 0], "data": []}]},
            "tensor 'tokens' has shape [2, 0], which holds no values",
            id="no values",
        ),
    ],
)
def test_refusals(
    make: Callable[[Path], Path], body: dict[str, Any], message: str, launch: Callable[..., Any], tmp_path: Path
) -> None:
    server = launch(make(tmp_path / "package"), name="any")
    assert server.request("/v2/models/any/infer", body) == (400, {"error": message})


@pytest.mark.parametrize("name", ["schema-1-baseline", "schema-1-int8"])
def test_packages_of_earlier_schemas_are_served(name: str, launch: Callable[..., Any]) -> None:
    package = Path(__file__).parents[2] / "unit" / "packaging" / "format" / "golden" / name
    manifest, golden = read_manifest(package), read_golden(package / GOLDEN_NAME)
    server = launch(package, name="old")
    status, answer = server.request("/v2/models/old/infer", v2_body(golden.inputs, manifest.signature.inputs))
    assert status == 200, answer
    assert [tensor["name"] for tensor in answer["outputs"]] == ["probability", "label"]
    assert answer["outputs"][0]["data"] == pytest.approx(golden.outputs["probability"].tolist(), abs=1e-5)
