"""The transformer in front of a predictor that looks up no features: what it passes on, what it refuses, what it adds."""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from fastapi import HTTPException

from kserve import InferInput, InferOutput, InferRequest, InferResponse
from tidegate.deployment.kserve.feature_transformer import FeatureTransformer, main
from tidegate.errors import FeatureError, ServingError
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.protocol.tensors import Array

ROW = {"carrier": "UA", "origin": "EWR", "dest": "SFO", "distance": 1000.0, "hour": 9.5}
FOUND = {"weather__temp": 25.0, "route__delay": 40.0}


@dataclass
class Found:
    columns: dict[str, Array]
    times: dict[str, Array]


class Reader:
    waits = True

    def __init__(self, values: dict[str, float] | None) -> None:
        self.values = values

    async def read(self, keys: dict[str, list[Any]], at: Any) -> Found:
        if self.values is None:
            raise FeatureError("the online store is gone")
        rows = len(keys["origin"])
        observed = np.full(rows, np.datetime64("2013-01-01", "us"))
        columns = {name: np.full(rows, value, np.float32) for name, value in self.values.items()}
        return Found(columns, {"weather": observed, "route": observed})


@pytest.fixture
def transformer(tiny_package) -> FeatureTransformer:
    return FeatureTransformer("tiny", read_manifest(tiny_package), Reader(FOUND))


def request(*, rows: int = 1, binary: bool = False, **changed: Any) -> InferRequest:
    tensors = []
    for name, value in (ROW | changed).items():
        array = np.array([value] * rows, object if isinstance(value, str) else np.float32)
        tensor = InferInput(name=name, shape=[rows], datatype="BYTES" if isinstance(value, str) else "FP32")
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    return InferRequest(model_name="tiny", infer_inputs=tensors, request_id="r1")


def passed_on(transformer: FeatureTransformer, payload: Any) -> dict[str, list[Any]]:
    sent = asyncio.run(transformer.preprocess(payload))
    return {tensor.name: tensor.as_numpy().ravel().tolist() for tensor in sent.inputs}


@pytest.mark.parametrize("binary", [pytest.param(False, id="JSON data"), pytest.param(True, id="binary data")])
def test_the_predictor_gets_the_graphs_inputs_and_nothing_else(binary, transformer):
    assert passed_on(transformer, request(binary=binary, rows=2)) == {
        "carrier": [b"UA", b"UA"],
        "origin": [b"EWR", b"EWR"],
        "distance": [1000.0, 1000.0],
        "hour": [9.5, 9.5],
        "weather__temp": [25.0, 25.0],
        "route__delay": [40.0, 40.0],
    }


def test_features_that_the_caller_sends_are_taken(tiny_package):
    transformer = FeatureTransformer("tiny", read_manifest(tiny_package), Reader(None))

    assert passed_on(transformer, request(weather__temp=3.0, route__delay=4.0))["weather__temp"] == [3.0]


def test_a_missing_optional_feature_is_nan(tiny_package):
    transformer = FeatureTransformer("tiny", read_manifest(tiny_package), Reader(FOUND | {"weather__temp": np.nan}))

    assert np.isnan(passed_on(transformer, request())["weather__temp"][0])


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        pytest.param({"instances": [ROW]}, "V2", id="V1"),
        pytest.param(request(airline="UA"), "no input of this model", id="unknown tensor"),
        pytest.param(InferRequest("tiny", request().inputs[:-1]), "missing", id="missing tensor"),
        pytest.param(
            InferRequest("tiny", [InferInput("hour", [2], "FP32", [1.0])]), "does not fit FP32", id="data of another shape"
        ),
        pytest.param(request(weather__temp=3.0), "route__delay", id="some features but not all"),
    ],
)
def test_a_bad_request_is_refused_with_400(payload, complaint, transformer):
    with pytest.raises(HTTPException, match=complaint) as refusal:
        asyncio.run(transformer.preprocess(payload))

    assert refusal.value.status_code == 400


def test_without_the_online_store_the_answer_is_503(tiny_package):
    transformer = FeatureTransformer("tiny", read_manifest(tiny_package), Reader(None))

    with pytest.raises(HTTPException, match="the online store is gone") as refusal:
        asyncio.run(transformer.preprocess(request()))

    assert refusal.value.status_code == 503


@pytest.mark.parametrize(("probability", "label"), [(0.49, "on-time"), (0.5, "late")])
def test_the_label_is_what_the_threshold_says(probability, label, transformer):
    answered = InferResponse("r1", "tiny", [InferOutput("probability", [1], "FP32", [probability])])

    result = asyncio.run(transformer.postprocess(answered))

    assert {output.name: output.data for output in result.outputs}["label"] == [label]


def test_of_many_classes_the_label_is_the_most_probable(tiny_package):
    several = msgspec.structs.replace(
        read_manifest(tiny_package), task="multiclass-classification", classes=("early", "on-time", "late"), threshold=None
    )
    answered = InferResponse("r1", "tiny", [InferOutput("probabilities", [2, 3], "FP32", [0.1, 0.7, 0.2, 0.5, 0.1, 0.4])])

    result = asyncio.run(FeatureTransformer("tiny", several, Reader(FOUND)).postprocess(answered))

    assert {output.name: output.data for output in result.outputs}["label"] == ["on-time", "early"]


def test_a_regression_has_no_label(tiny_package):
    regression = msgspec.structs.replace(read_manifest(tiny_package), task="regression", classes=(), threshold=None)
    answered = InferResponse("r1", "tiny", [InferOutput("prediction", [1], "FP32", [12.5])])

    result = asyncio.run(FeatureTransformer("tiny", regression, Reader(FOUND)).postprocess(answered))

    assert [output.name for output in result.outputs] == ["prediction"]


def test_a_model_without_features_needs_no_transformer(make_package):
    with pytest.raises(ServingError, match="needs no transformer"):
        FeatureTransformer("plain", read_manifest(make_package()), Reader(None))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        pytest.param({}, "TIDEGATE_PACKAGE is not set", id="no package named"),
        pytest.param({"TIDEGATE_PACKAGE": "/none"}, "TIDEGATE_ONLINE_STORE is not set", id="no online store named"),
        pytest.param({"TIDEGATE_PACKAGE": "/none", "TIDEGATE_ONLINE_STORE": "sqlite:////none.db"}, "/none", id="no package"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(settings, complaint, monkeypatch):
    for variable in ("TIDEGATE_PACKAGE", "TIDEGATE_ONLINE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)

    with pytest.raises(SystemExit) as stopped:
        main()

    assert str(stopped.value).startswith("error: ")
    assert complaint in str(stopped.value)
    assert "\n" not in str(stopped.value)
