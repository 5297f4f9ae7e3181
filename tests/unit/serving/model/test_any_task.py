"""Packages of every task and kind of tensor, served: what is answered, refused, counted, described and logged."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small_packages
from tests.logged import as_written
from tests.served_models import answer_of, answers
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.grpc_v2 import codec as grpc_codec
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.inference_log.footprint import Footprint
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.schema import MOST_VALUES, log_schema
from tidegate.serving.inference_log.table import LogTableBuilder
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.text import render
from tidegate.serving.model.batching import BatchLimits
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.served import Identity, ServedModel
from tidegate.serving.model.validation import InputValidator
from tidegate.serving.protocol import codec_json, codec_v1
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import array_of, from_binary, to_binary

MAKERS = {
    "iris": small_packages.multiclass,
    "fares": small_packages.regression,
    "digits": small_packages.image,
    "embedder": small_packages.tokens,
    "echo": small_packages.every_type,
}
LABELLED = ("iris",)


@dataclass
class Server:
    """A served model, its golden sample, and what it logs."""

    model: ServedModel
    manifest: Manifest
    golden: Golden
    records: list[LogRecord]
    memory: MetricsMemory
    builder: LogTableBuilder
    audits = False

    def add(self, record: LogRecord) -> None:
        self.records.append(Footprint(self.manifest).fitted(record))

    def answer(self, tensors: dict[str, Any]) -> dict[str, Any]:
        return answer_of(self.model, tensors).outputs

    def ask(self, request: InferRequest) -> InferAnswer:
        [outcome] = asyncio.run(answers(self.model, [request]))
        assert isinstance(outcome, InferAnswer)
        return outcome

    def logged(self) -> list[dict[str, Any]]:
        table = as_written(self.builder, self.records)
        assert table.schema == log_schema(self.manifest)
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def metrics(self) -> list[str]:
        return render(self.memory).decode().splitlines()

    def unusual(self, name: str) -> int:
        return next(
            int(line.split()[-1])
            for line in self.metrics()
            if f'unusual_values_total{{model="{self.manifest.name}",input="{name}"' in line
        )


class NoClock:
    """Time stands still."""

    spec = "none"

    def now(self) -> datetime:
        return datetime(2013, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp(name) / "package") for name, make in MAKERS.items()}


@pytest.fixture
def serve(packages: dict[str, Path]) -> Callable[[str], Server]:
    def start(name: str) -> Server:
        package = packages[name]
        manifest = read_manifest(package)
        engine = Engine(package, manifest)
        assert engine.warning is None
        assert engine.replay_golden(package) == 0
        memory = MetricsMemory(MetricsLayout(manifest), 1, {"model": manifest.name})
        builder = LogTableBuilder(manifest, model=name, version="1", revision="v1")
        server = Server(None, manifest, read_golden(package / GOLDEN_NAME), [], memory, builder)  # type: ignore[arg-type]
        server.model = ServedModel(
            manifest,
            Identity(name, "1", "v1"),
            engine=engine,
            lookup=None,
            log=server,  # type: ignore[arg-type]
            clock=NoClock(),
            metrics=WorkerMetrics(memory, 0),
            max_rows=100,
            limits=BatchLimits(rows_on_loop=1000),
        )
        return server

    return start


@pytest.mark.parametrize("name", MAKERS)
def test_the_golden_sample_is_answered(serve: Callable[[str], Server], name: str) -> None:
    server = serve(name)
    outputs = server.answer(server.golden.inputs)
    assert [*outputs] == [spec.name for spec in server.model.outputs]
    for output, expected in server.golden.outputs.items():
        np.testing.assert_array_equal(outputs[output], expected)


@pytest.mark.parametrize("name", MAKERS)
def test_only_classifications_have_labels(serve: Callable[[str], Server], name: str) -> None:
    assert ("label" in serve(name).answer(serve(name).golden.inputs)) == (name in LABELLED)


def test_the_label_of_many_classes_is_the_most_probable(serve: Callable[[str], Server]) -> None:
    server = serve("iris")
    outputs = server.answer(server.golden.inputs)
    assert outputs["label"].tolist() == [server.manifest.classes[best] for best in outputs["probabilities"].argmax(axis=1)]
    assert [row["output_label"] for row in server.logged()] == outputs["label"].tolist()


def test_a_regression_of_several_targets(tmp_path: Path) -> None:
    package = small_packages.regression(tmp_path / "package", targets=3)
    schema = log_schema(read_manifest(package))
    assert schema.field("output_prediction").type == pa.list_(pa.float32())
    assert Engine(package, read_manifest(package)).replay_golden(package) == 0


@pytest.mark.parametrize("name", MAKERS)
def test_predictions_are_counted_without_a_probability(serve: Callable[[str], Server], name: str) -> None:
    server = serve(name)
    server.answer(server.golden.inputs)
    counted = [line for line in server.metrics() if line.startswith("tidegate_predictions_total")]
    assert counted == [f'tidegate_predictions_total{{model="{name}"}} {small_packages.ROWS}']


def test_a_tensor_with_many_unusual_values_counts_once_a_row(tmp_path: Path) -> None:
    manifest = read_manifest(small_packages.tokens(tmp_path / "package"))
    counted: dict[str, int] = {}
    validator = InputValidator(manifest, max_rows=100, count_unusual=counted.__setitem__)
    validator.check({"tokens": np.array([[99, 99, 99], [1, 2, 3], [1, -1, 3]])})
    assert counted == {"tokens": 2}


@pytest.mark.parametrize("name", MAKERS)
def test_v2_json_goes_there_and_back(serve: Callable[[str], Server], name: str) -> None:
    server = serve(name)
    inputs = [
        {"name": spec.name, "datatype": spec.datatype, "shape": [*array.shape], "data": array.tolist()}
        for spec in server.manifest.signature.inputs
        for array in [server.golden.inputs[spec.name]]
    ]
    request, wanted = codec_json.decode(json.dumps({"inputs": inputs}).encode())
    answer = server.ask(request)
    document = json.loads(codec_json.encode(answer, name, "1", server.model.output_datatypes, wanted)[0])
    for tensor, spec in zip(document["outputs"], server.model.outputs, strict=True):
        expected = answer.outputs[spec.name]
        assert (tensor["name"], tensor["datatype"], tensor["shape"]) == (spec.name, spec.datatype, [*expected.shape])
        assert tensor["data"] == expected.ravel().tolist()


@pytest.mark.parametrize("name", MAKERS)
def test_grpc_goes_there_and_back(serve: Callable[[str], Server], name: str) -> None:
    server = serve(name)
    specs = server.manifest.signature.inputs
    message = message_class("inference.ModelInferRequest")(
        inputs=[
            {"name": spec.name, "datatype": spec.datatype, "shape": server.golden.inputs[spec.name].shape} for spec in specs
        ],
        raw_input_contents=[to_binary(server.golden.inputs[spec.name]) for spec in specs],
    )
    answer = server.ask(grpc_codec.decode(message.SerializeToString())[2])
    outputs = answer.outputs
    encoded = grpc_codec.encode(answer, name, "1", server.model.output_datatypes)
    reply = message_class("inference.ModelInferResponse").FromString(encoded)
    for tensor, raw in zip(reply.outputs, reply.raw_output_contents, strict=True):
        back = from_binary(memoryview(raw), tensor.datatype, tensor.shape, tensor.name)
        np.testing.assert_array_equal(back, outputs[tensor.name])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("by_rows", [True, False])
def test_v1_goes_there_and_back(serve: Callable[[str], Server], name: str, by_rows: bool) -> None:
    server = serve(name)
    columns = {input_: array.tolist() for input_, array in server.golden.inputs.items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    datatypes = {spec.name: spec.datatype for spec in server.manifest.signature.inputs}
    document = {"instances": rows} if by_rows else {"inputs": columns}
    request, found_rows = codec_v1.decode(json.dumps(document).encode(), datatypes, "r1")
    assert found_rows == by_rows
    answer = json.loads(codec_v1.encode(server.ask(request), by_rows))
    for output, expected in server.golden.outputs.items():
        if len(server.model.outputs) == 1:
            found = answer["predictions" if by_rows else "outputs"]
        else:
            found = [row[output] for row in answer["predictions"]] if by_rows else answer["outputs"][output]
        assert found == expected.tolist()


def test_the_only_input_may_be_sent_bare_over_v1(serve: Callable[[str], Server]) -> None:
    values = serve("embedder").golden.inputs["tokens"].tolist()
    for field, by_rows in (("instances", True), ("inputs", False)):
        request, found = codec_v1.decode(json.dumps({field: values}).encode(), {"tokens": "INT64"}, "r1")
        assert found == by_rows
        assert array_of(request.tensors[0]).tolist() == values


@pytest.mark.parametrize("length", [1, 2, 12, 40])
def test_an_axis_of_varying_length(serve: Callable[[str], Server], length: int) -> None:
    server = serve("embedder")
    outputs = server.answer({"tokens": np.ones((3, length), np.int64)})
    assert outputs["embeddings"].shape == (3, length, 4)
    assert server.unusual("tokens") == (0 if 2 <= length <= 12 else 3)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        pytest.param(
            "digits",
            {"image": np.zeros((2, 8, 8), np.float32)},
            r"shape \[2, 8, 8\], but this model takes \[-1, 1, 8, 8\]",
            id="rank",
        ),
        pytest.param(
            "digits",
            {"image": np.zeros((2, 1, 8, 9), np.float32)},
            r"but this model takes \[-1, 1, 8, 8\]",
            id="length of an axis",
        ),
        pytest.param("digits", {"image": np.zeros((1, 1, 8, 8))}, "is FP64, but this model takes FP32", id="datatype"),
        pytest.param(
            "digits", {"image": np.full((2, 1, 8, 8), np.nan, np.float32)}, "row 0 is null or NaN", id="NaN in a tensor"
        ),
        pytest.param("embedder", {"tokens": np.ones(3, np.int64)}, r"takes \[-1, -1\]", id="rank of a varying tensor"),
        pytest.param(
            "embedder", {"tokens": np.ones((3, 0), np.int64)}, r"shape \[3, 0\], which holds no values", id="no values"
        ),
        pytest.param("echo", {"fp32": np.array([[1, np.inf]], np.float32)}, "'bool' is missing", id="all but one"),
        pytest.param("echo", {}, "holds no rows", id="nothing"),
    ],
)
def test_what_does_not_fit_is_a_400(serve: Callable[[str], Server], name: str, tensors: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as error:
        serve(name).answer(tensors)
    assert error.value.status == 400


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_a_400_without_any_known_range(
    serve: Callable[[str], Server], datatype: str, value: float
) -> None:
    server = serve("echo")
    inputs = {name: array.copy() for name, array in server.golden.inputs.items()}
    inputs[datatype.lower()][1, 1] = value
    with pytest.raises(RequestError, match=f"tensor '{datatype.lower()}' row 1 is ") as error:
        server.answer(inputs)
    assert error.value.status == 400


def test_what_the_graph_refuses_is_a_500_and_logged(serve: Callable[[str], Server]) -> None:
    server = serve("embedder")
    with pytest.raises(RequestError, match=r"the model failed on this input: .*indices element out of data bounds") as error:
        server.answer({"tokens": np.full((1, 4), 99, np.int64)})
    assert error.value.status == 500
    assert server.unusual("tokens") == 1
    [row] = server.logged()
    assert (row["status"], row["input_tokens"], row["output_mean"]) == (500, [99] * 4, None)


def test_lists_of_any_length_are_logged(serve: Callable[[str], Server]) -> None:
    server = serve("embedder")
    for rows, length in ((1, 3), (2, 12)):
        server.answer({"tokens": np.full((rows, length), length, np.int64)})
    logged = server.logged()
    assert [row["input_tokens"] for row in logged] == [[3] * 3, [12] * 12, [12] * 12]
    assert [len(row["output_mean"]) for row in logged] == [4, 4, 4]


def test_a_longer_list_than_a_log_should_hold_is_null(serve: Callable[[str], Server]) -> None:
    server = serve("embedder")
    server.answer({"tokens": np.ones((1, 3), np.int64)})
    server.answer({"tokens": np.ones((2, MOST_VALUES + 1), np.int64)})
    assert [row["input_tokens"] for row in server.logged()] == [[1] * 3, None, None]


def test_every_type_is_logged(serve: Callable[[str], Server]) -> None:
    server = serve("echo")
    server.answer(server.golden.inputs)
    for row, logged in enumerate(server.logged()):
        for name, array in server.golden.inputs.items():
            assert logged[f"input_{name}"] == logged[f"output_same {name}"] == array[row].tolist(), name


def test_large_tensors_are_not_logged_nor_kept(tmp_path: Path) -> None:
    manifest = read_manifest(small_packages.image(tmp_path / "package", side=40))
    assert not {"input_image", "output_map"} & set(log_schema(manifest).names)
    assert {"output_scores", "output_digit"} <= set(log_schema(manifest).names)
    builder = LogTableBuilder(manifest, model="digits", version="1", revision="v1")
    golden = read_golden(tmp_path / "package" / GOLDEN_NAME)
    record = LogRecord("r1", 6, NoClock().now(), 0, 200, 1, {}, golden.inputs, outputs=golden.outputs)

    kept = Footprint(manifest).fitted(record)

    assert (kept.inputs, sorted(kept.outputs)) == ({}, ["digit", "scores"])
    assert record.outputs is golden.outputs
    assert [row["output_digit"] for row in as_written(builder, [kept]).to_pylist()] == golden.outputs["digit"].tolist()


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), st.booleans()), min_size=1, max_size=6))
def test_logged_lists_are_what_was_asked(packages: dict[str, Path], rows: list[tuple[int, int, bool]]) -> None:
    manifest = read_manifest(packages["embedder"])
    builder = LogTableBuilder(manifest, model="embedder", version="1", revision="v1")
    records, expected = [], []
    for number, (count, length, answered) in enumerate(rows):
        asked = np.arange(count * length).reshape(count, length) + number
        outputs = {"mean": np.full((count, 4), number, np.float32)} if answered else {}
        records.append(LogRecord(f"r{number}", count, NoClock().now(), 0, 200, 1, {}, {"tokens": asked}, outputs=outputs))
        expected += [(list(row), [number] * 4 if answered else None) for row in asked.tolist()]
    logged = as_written(builder, records).to_pylist()
    assert [(row["input_tokens"], row["output_mean"]) for row in logged] == expected
