"""A real server, spoken to in every protocol."""

import datetime as dt
import json
import struct
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import grpc
import numpy as np
import pyarrow.parquet as pq
import pytest

from tidegate.clock import ReplayClock
from tidegate.features.online_file import open_writer, upsert
from tidegate.features.packed_row import key_order, pack_key, pack_row, view_prefix
from tidegate.packaging.running.inference import PackageModel
from tidegate.serving.grpc_v2.messages import message_class, methods_of
from tidegate.serving.metrics.names import FEATURE_MISSING, LATENCY, LOG_ROWS, REQUESTS


@pytest.fixture
def server(launch: Callable[..., Any]) -> Any:
    return launch(name="flights", version="7", revision="v7")


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


def call(channel: grpc.Channel, service: str, method: str, **fields: Any) -> Any:
    request, response = methods_of(service)[method]
    return channel.unary_unary(
        f"/{service}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )(request(**fields), timeout=10)


def expected_probability(package: Path) -> float:
    row = {
        "carrier": np.array([["UA"]], object),
        "origin": np.array([["EWR"]], object),
        "distance": np.array([[1000]], np.float32),
        "hour": np.array([[9.5]], np.float32),
        "weather__temp": np.array([[np.nan]], np.float32),
        "route__delay": np.array([[0]], np.float32),
    }
    return float(PackageModel(package).outputs_of(row)["probability"][0])


def test_every_protocol_gives_the_models_answer(
    server: Any, channel: grpc.Channel, tiny_package: Path, v2_body: Callable[..., dict[str, Any]]
) -> None:
    expected = pytest.approx(expected_probability(tiny_package), rel=1e-5)

    status, answer = server.request("/v2/models/flights/infer", v2_body("f1"))
    assert (status, answer["id"], answer["model_version"]) == (200, "f1", "7")
    assert answer["outputs"][0]["data"] == [expected]

    row = {tensor["name"]: tensor["data"][0] for tensor in v2_body()["inputs"]}
    status, answer = server.request("/v1/models/flights:predict", {"instances": [row, row]})
    assert status == 200
    assert [prediction["probability"] for prediction in answer["predictions"]] == [expected, expected]

    inputs = [
        {"name": tensor["name"], "datatype": tensor["datatype"], "shape": tensor["shape"]} for tensor in v2_body()["inputs"]
    ]
    raw = [
        struct.pack("<I", len(value)) + value.encode() if isinstance(value, str) else struct.pack("<f", value)
        for value in row.values()
    ]
    reply = call(
        channel,
        "inference.GRPCInferenceService",
        "ModelInfer",
        model_name="flights",
        id="g1",
        inputs=inputs,
        raw_input_contents=raw,
    )
    assert (reply.model_version, reply.id) == ("7", "g1")
    assert struct.unpack("<f", reply.raw_output_contents[0])[0] == expected


def test_binary_tensors_go_both_ways(server: Any, tiny_package: Path, v2_body: Callable[..., dict[str, Any]]) -> None:
    body = v2_body("b1")
    blob = struct.pack("<f", body["inputs"][3].pop("data")[0])
    body["inputs"][3]["parameters"] = {"binary_data_size": len(blob)}
    body["outputs"] = [{"name": "probability", "parameters": {"binary_data": True}}]
    header = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.http_port}/v2/models/flights/infer",
        header + blob,
        {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))},
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        answer = response.read()
        length = int(response.headers["Inference-Header-Content-Length"])
    assert json.loads(answer[:length])["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert struct.unpack("<f", answer[length:])[0] == pytest.approx(expected_probability(tiny_package), rel=1e-5)


def test_grpc_tells_health_and_metadata(server: Any, channel: grpc.Channel) -> None:
    service = "inference.GRPCInferenceService"
    assert call(channel, service, "ServerLive").live
    assert call(channel, service, "ServerReady").ready
    assert call(channel, service, "ModelReady", name="flights").ready
    assert call(channel, service, "ServerMetadata").name == "tidegate"
    metadata = call(channel, service, "ModelMetadata", name="flights", version="7")
    assert [tensor.name for tensor in metadata.inputs] == ["dest", "carrier", "origin", "distance", "hour"]
    assert call(channel, "grpc.health.v1.Health", "Check").status == 1


@pytest.mark.parametrize(
    ("method", "fields", "code", "message"),
    [
        pytest.param("ModelInfer", {"model_name": "other"}, grpc.StatusCode.NOT_FOUND, "unknown model 'other'", id="model"),
        pytest.param(
            "ModelReady", {"name": "flights", "version": "9"}, grpc.StatusCode.NOT_FOUND, "unknown version '9'", id="version"
        ),
        pytest.param("ModelInfer", {"model_name": "flights"}, grpc.StatusCode.INVALID_ARGUMENT, "holds no rows", id="empty"),
    ],
)
def test_grpc_refusals(channel: grpc.Channel, method: str, fields: dict[str, str], code: Any, message: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(channel, "inference.GRPCInferenceService", method, **fields)
    assert error.value.code() == code
    assert message in error.value.details()


def test_a_message_over_the_limit_is_refused(launch: Callable[..., Any]) -> None:
    server = launch(max_body_bytes=2000)
    assert server.request("/v2/models/tiny/infer", b"x" * 3000)[0] == 413
    request = message_class("inference.ModelInferRequest")(model_name="tiny", raw_input_contents=[b"x" * 3000])
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(request.SerializeToString(), timeout=10)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param("/v2/models/other/infer", {}, 404, "unknown model 'other'; this server serves 'flights'", id="model"),
        pytest.param("/v2/models/flights/versions/9/infer", {}, 404, "unknown version '9'", id="version"),
        pytest.param("/v2/models/flights/infer", b"{", 400, "request body", id="half a body"),
        pytest.param("/v2/models/flights/infer", {"inputs": []}, 400, "holds no rows", id="no inputs"),
        pytest.param("/v2/models/flights", {}, 405, "use GET", id="method"),
    ],
)
def test_refusals(server: Any, path: str, body: Any, status: int, message: str) -> None:
    found, answer = server.request(path, body)
    assert found == status
    assert message in answer["error"]


def test_what_was_answered_can_be_read_from_the_log(
    server: Any, v2_body: Callable[..., dict[str, Any]], eventually: Callable[..., None]
) -> None:
    _, answer = server.request("/v2/models/flights/infer", v2_body("f1", rows=3))
    eventually(lambda: server.metric(LOG_ROWS) == 3, "logged rows")
    files = f"{server.store}/inference-log/flights/version=7/hour=*/*.parquet"
    rows = duckdb.sql(
        f"SELECT prediction_id, revision, status, key_dest, input_distance, feature_weather__temp, output_probability, "  # noqa: S608
        f"output_label FROM read_parquet('{files}', hive_partitioning = false) ORDER BY row"
    ).fetchall()
    probability = pytest.approx(answer["outputs"][0]["data"][0])
    label = answer["outputs"][1]["data"][0]
    assert rows == [(f"f1/{row}", "v7", 200, "SFO", 1000.0, None, probability, label) for row in range(3)]


def test_metrics_count_every_protocol(server: Any, channel: grpc.Channel, v2_body: Callable[..., dict[str, Any]]) -> None:
    server.request("/v2/models/flights/infer", v2_body())
    server.request("/v2/models/flights/infer", {})
    with pytest.raises(grpc.RpcError):
        call(channel, "inference.GRPCInferenceService", "ModelInfer", model_name="flights")
    assert server.metric(REQUESTS, 'status="200"') == 1
    assert server.metric(REQUESTS, 'status="400"') == 2
    assert server.metric(f"{LATENCY}_count", 'revision="v7"') == 1


def test_event_time_is_the_clocks(launch: Callable[..., Any], tmp_path: Path, v2_body: Callable[..., dict[str, Any]]) -> None:
    clock = ReplayClock.create(tmp_path / "clock", dt.datetime(2013, 6, 1, 12, 30, tzinfo=dt.UTC))
    server = launch(clock=clock.spec)
    server.request("/v2/models/tiny/infer", v2_body("early"))
    clock.advance(dt.datetime(2013, 6, 1, 15, tzinfo=dt.UTC))
    server.request("/v2/models/tiny/infer", v2_body("late"))
    server.stop()
    hours = {
        pq.ParquetFile(file).read().column("request_id")[0].as_py(): file.parent.name
        for file in server.store.rglob("*.parquet")
    }
    assert hours == {"early": "hour=2013-06-01T12", "late": "hour=2013-06-01T15"}


def test_features_come_from_the_online_store_as_of_the_event_time(
    launch: Callable[..., Any], tmp_path: Path, v2_body: Callable[..., dict[str, Any]]
) -> None:
    knowable = dt.datetime(2013, 6, 1, 12, tzinfo=dt.UTC)
    written_us = int(knowable.timestamp() * 1e6)
    entity = {"origin": "EWR", "dest": "SFO"}

    def row(view: str, keys: tuple[str, ...], features: dict[str, float]) -> tuple[bytes, int, int, bytes]:
        key = pack_key(view_prefix("tiny", view), tuple(entity[name] for name in key_order(keys)))
        return key, written_us, written_us, pack_row(features)

    with closing(open_writer(tmp_path / "online.db")) as connection:
        upsert(connection, [row("weather", ("origin",), {"temp": 21.5}), row("route", ("origin", "dest"), {"delay": 12.0})])
    clock = ReplayClock.create(tmp_path / "clock", knowable + dt.timedelta(hours=2))
    server = launch(clock=clock.spec, online_store=f"sqlite:///{tmp_path}/online.db")
    server.request("/v2/models/tiny/infer", v2_body("fresh"))
    clock.advance(knowable + dt.timedelta(hours=4))  # the weather's time to live is three hours
    server.request("/v2/models/tiny/infer", v2_body("stale"))
    assert server.metric(FEATURE_MISSING, 'view="weather"') == 1
    assert server.metric(FEATURE_MISSING, 'view="route"') == 0
    server.stop()
    rows = {
        row["request_id"]: [row[column] for column in ("feature_weather__temp", "feature_time_weather", "feature_route__delay")]
        for file in server.store.rglob("*.parquet")
        for row in pq.ParquetFile(file).read().to_pylist()
    }
    assert rows == {"fresh": [21.5, knowable, 12.0], "stale": [None, None, 12.0]}
