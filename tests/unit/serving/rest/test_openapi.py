"""The OpenAPI document: valid as such, and its schemas tell requests and answers that fit the model from those that do not."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests import small_packages
from tidegate.packaging.format.manifest import LABEL, InputPolicy, Manifest, Signature, TensorSpec
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.labels import Labels
from tidegate.serving.rest.openapi import openapi_document
from tidegate.serving.settings import ServeSettings


def document(manifest: Manifest, **settings: Any) -> dict[str, Any]:
    signature = manifest.signature
    names = {spec.name for spec in signature.inputs}
    keys = manifest.features.join_keys if manifest.features else ()
    inputs = [TensorSpec(name=key, datatype="BYTES", shape=(-1,)) for key in keys if key not in names]
    inputs += [spec for spec in signature.inputs if spec.source == "request"]
    label = (TensorSpec(name=LABEL, datatype="BYTES", shape=(-1,)),) if Labels(manifest).exist else ()
    model = SimpleNamespace(
        manifest=manifest,
        identity=SimpleNamespace(name=manifest.name, version="7"),
        inputs=tuple(inputs),
        outputs=(*signature.outputs, *label),
    )
    made: dict[str, Any] = json.loads(openapi_document(model, ServeSettings("package", **settings)))
    return made


def validator(found: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": found["components"]})


@pytest.fixture(scope="module")
def tiny(tiny_package: Path) -> Manifest:
    return read_manifest(tiny_package)


PACKAGES = [
    small_packages.multiclass,
    small_packages.regression,
    small_packages.image,
    small_packages.tokens,
    small_packages.every_type,
]


@pytest.mark.parametrize("make", PACKAGES)
def test_it_is_valid_and_so_are_its_examples(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found = document(read_manifest(make(tmp_path / "package")), repository="/models")
    OpenAPIV31SpecValidator(found).validate()
    for path, schema in (("/v2/models/{}/infer", "InferenceRequest"), ("/v1/models/{}:predict", "PredictRequest")):
        operation = found["paths"][path.format(found["info"]["title"].removeprefix("Model "))]["post"]
        shown = operation["requestBody"]["content"]["application/json"]
        validator(found, schema).validate(shown["example"])


def test_images_too_large_to_show_have_no_example(tmp_path: Path) -> None:
    found = document(read_manifest(small_packages.image(tmp_path / "package", side=16)))
    OpenAPIV31SpecValidator(found).validate()
    assert "example" not in found["paths"]["/v2/models/digits/infer"]["post"]["requestBody"]["content"]["application/json"]


def test_routes_name_the_model_and_its_version(tiny: Manifest) -> None:
    found = document(tiny)
    OpenAPIV31SpecValidator(found).validate()
    assert set(found["paths"]) == {
        "/",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/tiny",
        "/v2/models/tiny/ready",
        "/v2/models/tiny/infer",
        "/v2/models/tiny/versions/7",
        "/v2/models/tiny/versions/7/ready",
        "/v2/models/tiny/versions/7/infer",
        "/v1/models",
        "/v1/models/tiny",
        "/v1/models/tiny:predict",
        "/metrics",
        "/openapi.json",
    }


def test_a_model_that_takes_bfloat16_has_no_version_1(tmp_path: Path) -> None:
    found = document(read_manifest(small_packages.bfloat16(tmp_path / "package")))
    OpenAPIV31SpecValidator(found).validate()
    assert "/v1/models/brain:predict" not in found["paths"]
    check = validator(found, "InferenceRequest")
    tensor = {"name": "x", "datatype": "BF16", "shape": [1, 2]}
    assert check.is_valid({"inputs": [{**tensor, "parameters": {"binary_data_size": 4}}]})
    assert not check.is_valid({"inputs": [{**tensor, "data": [1.0, 2.0]}]})


def test_repository_routes_are_there_if_they_are_turned_on(tiny: Manifest) -> None:
    turned_on = document(tiny, repository="/models")["paths"].keys() - document(tiny)["paths"].keys()
    assert turned_on == {
        "/v2/repository/index",
        "/v2/repository/models/tiny/load",
        "/v2/repository/models/tiny/unload",
    }


def tensors(**changed: Any) -> list[dict[str, Any]]:
    row = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5} | changed
    return [
        {"name": name, "datatype": "BYTES" if isinstance(value, str) else "FP32", "shape": [1], "data": [value]}
        for name, value in row.items()
        if value is not None
    ]


def with_tensor(index: int, **fields: Any) -> dict[str, Any]:
    listed = tensors()
    listed[index] = {name: value for name, value in {**listed[index], **fields}.items() if value is not ...}
    return {"inputs": listed}


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        pytest.param({"inputs": tensors()}, True, id="a row"),
        pytest.param({"id": "a", "inputs": tensors(), "outputs": [{"name": "label"}]}, True, id="one output"),
        pytest.param({"inputs": tensors(), "more": 1}, True, id="unknown field"),
        pytest.param(with_tensor(3, shape=[1, 1]), True, id="a column's own shape"),
        pytest.param(with_tensor(3, shape=[1, 1], data=[[1.0]]), True, id="nested"),
        pytest.param(with_tensor(3, data=..., parameters={"binary_data_size": 4}), True, id="binary"),
        pytest.param(with_tensor(2, datatype="INT64", data=[3]), True, id="a key that is a number"),
        pytest.param({"inputs": tensors(dest=None, weather__temp=1.0, route__delay=2.0)}, True, id="features instead of keys"),
        pytest.param({"inputs": tensors(dest=None, weather__temp=1.0)}, False, id="some features only"),
        pytest.param({"inputs": tensors(dest=None)}, False, id="no key"),
        pytest.param({"inputs": tensors(hour=None)}, False, id="an input is missing"),
        pytest.param({"inputs": tensors(wrong=1.0)}, False, id="an unknown tensor"),
        pytest.param({"inputs": tensors(), "outputs": [{"name": "none"}]}, False, id="an unknown output"),
        pytest.param(with_tensor(3, datatype="FP64"), False, id="another datatype"),
        pytest.param(with_tensor(3, data=["1"]), False, id="text for a number"),
        pytest.param(with_tensor(3, data=[None]), False, id="null where training had none"),
        pytest.param(with_tensor(3, shape=[1, 2]), False, id="another shape"),
        pytest.param(with_tensor(3, shape=[0]), False, id="no rows"),
        pytest.param(with_tensor(3, shape=[1025]), False, id="too many rows"),
        pytest.param(with_tensor(3, data=...), False, id="no data"),
        pytest.param(with_tensor(3, data=[1e39]), False, id="beyond 32 bits"),
        pytest.param({"inputs": []}, False, id="no tensors"),
    ],
)
def test_requests_that_fit_are_told_from_others(tiny: Manifest, body: dict[str, Any], fits: bool) -> None:
    assert validator(document(tiny), "InferenceRequest").is_valid(body) == fits


ROW = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5}


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        pytest.param({"instances": [ROW, ROW]}, True, id="rows"),
        pytest.param({"inputs": {name: [value] for name, value in ROW.items()}}, True, id="columns"),
        pytest.param({"instances": []}, False, id="no rows"),
        pytest.param({"instances": [{**ROW, "distance": "far"}]}, False, id="text for a number"),
        pytest.param({"instances": [{"carrier": "UA"}]}, False, id="missing inputs"),
        pytest.param({"instances": [ROW], "inputs": {name: [value] for name, value in ROW.items()}}, False, id="both"),
        pytest.param({}, False, id="neither"),
    ],
)
def test_v1_requests_that_fit_are_told_from_others(tiny: Manifest, body: dict[str, Any], fits: bool) -> None:
    assert validator(document(tiny), "PredictRequest").is_valid(body) == fits


def with_policy(manifest: Manifest, name: str, **policy: Any) -> dict[str, Any]:
    inputs = tuple(
        msgspec.structs.replace(spec, policy=InputPolicy(**policy)) if spec.name == name else spec
        for spec in manifest.signature.inputs
    )
    return document(msgspec.structs.replace(manifest, signature=Signature(inputs=inputs, outputs=manifest.signature.outputs)))


@pytest.mark.parametrize(
    ("name", "policy", "sent", "said"),
    [
        pytest.param("distance", {"out_of_range": "count"}, True, "what is beyond is answered and counted", id="count"),
        pytest.param("distance", {"out_of_range": "clamp"}, True, "what is beyond is replaced by the nearer bound", id="clamp"),
        pytest.param("distance", {"out_of_range": "reject"}, False, "what is beyond is refused", id="reject"),
        pytest.param(
            "carrier", {"unknown_category": "count"}, True, "Training held AA, DL, UA; any other text is answered", id="text"
        ),
        pytest.param(
            "carrier",
            {"unknown_category": "impute", "imputed": "AA"},
            True,
            "any other text is replaced by 'AA'",
            id="impute text",
        ),
        pytest.param("carrier", {"unknown_category": "reject"}, False, "any other text is refused", id="reject text"),
    ],
)
def test_what_training_never_held_is_described_as_the_policy_treats_it(
    tiny: Manifest, name: str, policy: dict[str, Any], sent: bool, said: str
) -> None:
    found = with_policy(tiny, name, **policy)
    unusual = {"distance": 1e6, "carrier": "ZZ"}[name]
    assert validator(found, "InferenceRequest").is_valid({"inputs": tensors(**{name: unusual})}) == sent
    listed = found["components"]["schemas"]["InferenceRequest"]["properties"]["inputs"]["items"]["oneOf"]
    assert said in next(tensor["description"] for tensor in listed if tensor["title"] == name)


def test_a_missing_value_may_be_sent_where_it_is_imputed(tiny: Manifest) -> None:
    missing = with_tensor(3, data=[None])
    assert not validator(document(tiny), "InferenceRequest").is_valid(missing)
    assert validator(with_policy(tiny, "distance", missing="impute", imputed=5.0), "InferenceRequest").is_valid(missing)


def test_answers_of_the_model_fit(tiny: Manifest) -> None:
    answer = {
        "model_name": "tiny",
        "model_version": "7",
        "id": "a",
        "outputs": [
            {"name": "probability", "datatype": "FP32", "shape": [1], "data": [0.5]},
            {"name": "label", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 8}},
        ],
    }
    check = validator(document(tiny), "InferenceResponse")
    check.validate(answer)
    answer["outputs"][0]["datatype"] = "FP64"  # type: ignore[index]
    assert not check.is_valid(answer)


def test_limits_are_the_servers(tiny: Manifest) -> None:
    found = document(tiny, max_rows=5, request_seconds=2.5, max_body_bytes=2048)
    described = found["paths"]["/v2/models/tiny/infer"]["post"]["description"]
    assert "At most 5 rows and 2048 bytes, answered within 2.5 s or not at all." in described
    assert not validator(found, "InferenceRequest").is_valid(with_tensor(3, shape=[6]))
