"""A row of the log holds all that is to be known of a prediction, in whichever form it was remembered."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.logged import as_written
from tests.unit.serving.inference_log.any_values import SPECS, VALUES, manifest_of
from tests.unit.serving.inference_log.records import NAN, TIME, record, row_record, text
from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.redaction import REDACTED_ERROR, Redaction
from tidegate.serving.inference_log.schema import log_schema
from tidegate.serving.inference_log.table import LogTableBuilder
from tidegate.serving.inference_log.writer import parquet_bytes

FULL_ROW = {
    "prediction_id": "r1/1",
    "request_id": "r1",
    "row": 1,
    "model": "tiny",
    "version": "3",
    "revision": "v3",
    "event_time": TIME,
    "logged_at": datetime(2013, 6, 1, 12, 30, tzinfo=UTC),
    "status": 200,
    "error": None,
    "cache_hit": False,
    "latency_us": 42,
    "sample_share": 1.0,
    "redacted": None,
    "key_origin": "EWR",
    "key_dest": None,
    "input_carrier": "UA",
    "input_origin": "EWR",
    "input_distance": 1.0,
    "input_hour": 9.5,
    "feature_weather__temp": None,
    "feature_route__delay": 7.0,
    "feature_time_weather": None,
    "feature_time_route": datetime(2013, 6, 1, 12, tzinfo=UTC),
    "output_probability": 0.25,
    "output_label": "on-time",
}


@pytest.fixture
def builder(tiny_manifest: Manifest) -> LogTableBuilder:
    return LogTableBuilder(tiny_manifest, model="tiny", version="3", revision="v3")


def test_a_row_holds_everything(builder: LogTableBuilder, tiny_manifest: Manifest) -> None:
    table = as_written(builder, [record()])
    assert table.schema.equals(log_schema(tiny_manifest))
    assert table.to_pylist()[1] == FULL_ROW


def test_a_request_of_one_row_is_logged_the_same_from_python_values(builder: LogTableBuilder) -> None:
    [from_values] = as_written(builder, [row_record()]).to_pylist()
    assert from_values == FULL_ROW | {"prediction_id": "r1/0", "row": 0, "input_distance": 0.0}
    assert [from_values] == as_written(builder, [record(rows=1)]).to_pylist()


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([record(failed=True)], id="alone"),
        pytest.param([record("r0", rows=1), record(failed=True)], id="after one that was answered"),
        pytest.param([record(failed=True), record("r2", rows=3)], id="before one that was answered"),
        pytest.param([row_record("r0"), record(failed=True), row_record("r2")], id="between some of one row"),
    ],
)
def test_a_failed_request_has_its_inputs_but_no_outputs(builder: LogTableBuilder, records: list[LogRecord]) -> None:
    failed = [row for row in as_written(builder, records).to_pylist() if row["status"] == 503]
    assert [row["prediction_id"] for row in failed] == ["r1/0", "r1/1"]
    assert [row["input_distance"] for row in failed] == [0.0, 1.0]
    for row in failed:
        assert row["error"] == "required feature is missing for origin EWR"
        empty = ("feature_route__delay", "feature_time_route", "output_probability", "output_label")
        assert [row[column] for column in empty] == [None] * 4


def test_each_hour_of_event_time_is_a_batch_of_its_own(builder: LogTableBuilder) -> None:
    at = [TIME, TIME + timedelta(minutes=29, microseconds=59_999_999), TIME + timedelta(minutes=30), TIME]
    records = [maker(f"{number}", at=moment) for maker in (record, row_record) for number, moment in enumerate(at)]
    batches = list(builder.batches(records))
    assert [(batch.hour.isoformat(), batch.rows) for batch in batches] == [
        ("2013-06-01T12:00:00+00:00", 3),
        ("2013-06-01T13:00:00+00:00", 1),
        ("2013-06-01T12:00:00+00:00", 6),
        ("2013-06-01T13:00:00+00:00", 2),
    ]
    written = builder.table(batches)
    hours = [moment.hour for moment in written["event_time"].to_pylist()]
    assert sorted(hours) == [12] * 9 + [13] * 3


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
    st.sampled_from([record, row_record]),
)
@settings(max_examples=50, deadline=None)
def test_event_time_is_exact_to_the_microsecond(tiny_manifest: Manifest, moment: datetime, make: Any) -> None:
    builder = LogTableBuilder(tiny_manifest, model="tiny", version="3", revision="v3")
    [written] = set(as_written(builder, [make(at=moment.replace(tzinfo=UTC))])["event_time"].to_pylist())
    assert written == moment.replace(tzinfo=UTC)


IDS = st.text(min_size=1, max_size=8).filter(lambda value: value.isprintable())


@given(st.lists(st.tuples(IDS, st.tuples(*(VALUES[spec.datatype][0] for spec in SPECS))), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_both_forms_hold_any_value_alike(tiny_manifest: Manifest, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
    builder = LogTableBuilder(manifest_of(tiny_manifest, SPECS), model="tiny", version="3", revision="v3")
    as_rows, as_arrays = [], []
    for request_id, row in rows:
        arrays = {
            spec.name: text(value).reshape(1, 1) if spec.datatype == "BYTES" else np.array([[value]], VALUES[spec.datatype][1])
            for spec, value in zip(SPECS, row, strict=True)
        }
        as_rows.append(LogRecord(request_id, 1, TIME, 5000, 200, 7, row=list(row)))
        as_arrays.append(LogRecord(request_id, 1, TIME, 5000, 200, 7, inputs=arrays))
    from_rows, from_arrays = as_written(builder, as_rows).to_pylist(), as_written(builder, as_arrays).to_pylist()
    assert from_rows == from_arrays
    assert [row["prediction_id"] for row in from_rows] == [f"{request_id}/0" for request_id, _ in rows]
    sent = [None if value is None or value != value else value for value in rows[0][1]]
    assert [from_rows[0][f"input_{spec.name}"] for spec in SPECS] == sent


@pytest.mark.parametrize("datatype", VALUES)
def test_a_missing_value_is_null_whatever_its_type(tiny_manifest: Manifest, datatype: Any) -> None:
    manifest = manifest_of(tiny_manifest, [TensorSpec(name="x", datatype=datatype, shape=(-1,))])
    builder = LogTableBuilder(manifest, model="tiny", version="3", revision="v3")
    present = {"BYTES": "a", "BOOL": True}.get(datatype, 1)
    records = [
        LogRecord(f"r{number}", 1, TIME, 0, 200, 7, row=[value]) for number, value in enumerate([present, None, present])
    ]
    assert as_written(builder, records)["input_x"].to_pylist() == [present, None, present]


def test_ids_of_many_rows_are_numbered(builder: LogTableBuilder) -> None:
    table = as_written(builder, [record("é/1", rows=12), record("b", rows=1), record("c", rows=3)])
    expected = [(name, row) for name, count in (("é/1", 12), ("b", 1), ("c", 3)) for row in range(count)]
    assert table["prediction_id"].to_pylist() == [f"{name}/{row}" for name, row in expected]
    assert list(zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize("make", [pytest.param(record, id="arrays"), pytest.param(row_record, id="Python values")])
def test_redacted_columns_are_empty_or_hashed(tiny_manifest: Manifest, make: Any) -> None:
    secret = {"TIDEGATE_LOG_HASH_KEY": "0123456789abcdef"}
    redaction = Redaction(["carrier:hash", "origin", "distance", "probability", "label:hash"], tiny_manifest, secret)
    builder = LogTableBuilder(tiny_manifest, model="tiny", version="3", revision="v3", redaction=redaction)
    records = [make(), record(failed=True)]
    answered, *_, failed = as_written(builder, records).to_pylist()
    hashed = redaction.hashed(["UA", "on-time"])
    empty = dict.fromkeys(["key_origin", "input_origin", "input_distance", "output_probability"])
    assert answered.items() >= {**empty, "input_carrier": hashed[0], "output_label": hashed[1], "input_hour": 9.5}.items()
    assert failed["error"] == REDACTED_ERROR
    assert {row["redacted"] for row in (answered, failed)} == {"carrier:hash,distance,label:hash,origin,probability"}
    assert "EWR" not in str([answered, failed])


def test_a_file_tells_its_share_and_what_is_redacted(tiny_manifest: Manifest) -> None:
    builder = LogTableBuilder(
        tiny_manifest,
        model="tiny",
        version="3",
        revision="v3",
        redaction=Redaction(["hour"], tiny_manifest),
        sample_share=0.1,
    )
    file = pq.ParquetFile(io.BytesIO(parquet_bytes(builder.table(list(builder.batches([record()]))))))
    assert file.metadata.metadata == {b"tidegate.sample_share": b"0.1", b"tidegate.redacted": b"hour"}
    assert set(file.read()["sample_share"].to_pylist()) == {0.1}


def test_rows_without_a_temperature_are_no_numbers(builder: LogTableBuilder) -> None:
    values = [row_record("a"), row_record("b", row=["UA", None, 1, 9.5, 3.5, None])]
    table = as_written(builder, values)
    assert table["feature_weather__temp"].to_pylist() == [None, 3.5]
    assert table["feature_route__delay"].to_pylist() == [7.0, None]
    assert table["input_origin"].to_pylist() == ["EWR", None]
    assert NAN not in table["feature_weather__temp"].to_pylist()
