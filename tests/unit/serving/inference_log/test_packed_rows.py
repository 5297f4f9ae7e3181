"""Rows that are packed as they come are logged as others are."""

import threading
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small_packages
from tests.logged import as_written
from tests.unit.serving.inference_log.any_values import SPECS, VALUES, manifest_of
from tests.unit.serving.inference_log.records import TIME, text
from tidegate.packaging.format.manifest import Manifest, TensorSpec
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.inference_log.packed_rows import RowPacker
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.inference_log.redaction import Redaction
from tidegate.serving.inference_log.table import LogBatch, LogTableBuilder

PACKED = tuple(spec for spec in SPECS if spec.datatype != "BOOL")
OUTPUTS = {"probability": np.array([0.25], np.float32), "label": text("late")}


def builder_of(manifest: Manifest, **options: Any) -> LogTableBuilder:
    return LogTableBuilder(manifest, model="tiny", version="3", revision="v3", **options)


def packer_of(builder: LogTableBuilder, rows: int = 512) -> RowPacker:
    packer = builder.packer(rows)
    assert packer is not None
    return packer


def answered(request_id: str, row: list[Any], **changed: Any) -> LogRecord:
    return LogRecord(
        **{"request_id": request_id, "rows": 1, "event_time": TIME, "logged_at": 5_000_999}
        | {"status": 200, "latency_us": 7, "outputs": OUTPUTS, "row": row, "size": 100}
        | changed
    )


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.tuples(*(VALUES[spec.datatype][0] for spec in PACKED))),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=50, deadline=None)
def test_packed_rows_hold_what_records_do(tiny_manifest: Manifest, rows: list[tuple[str, tuple[Any, ...]]]) -> None:
    builder = builder_of(manifest_of(tiny_manifest, PACKED))
    packer = packer_of(builder, rows=3)
    records = [answered(request_id, list(row)) for request_id, row in rows]
    assert all(packer.add(record) for record in records)
    packed = list(builder.packed(packer))
    assert sum(batch.size for batch in packed) == 100 * len(records)
    columns = pa.Table.from_batches([batch.columns for batch in packed])
    assert columns.to_pylist() == pa.Table.from_batches([batch.columns for batch in builder.batches(records)]).to_pylist()
    assert list(builder.packed(packer)) == []


def test_every_hour_has_blocks_of_its_own(tiny_manifest: Manifest) -> None:
    builder = builder_of(manifest_of(tiny_manifest, PACKED[:1]))
    packer = packer_of(builder, rows=2)
    for number, minutes in enumerate([0, 10, 20, 30, 29, -60]):
        assert packer.add(answered(f"r{number}", [1], event_time=TIME + timedelta(minutes=minutes)))
    assert [(batch.hour.hour, batch.rows) for batch in builder.packed(packer)] == [(12, 2), (12, 1), (13, 1), (12, 1), (11, 1)]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"row": None}, id="several rows"),
        pytest.param({"row": [1, None]}, id="a missing number that has no NaN"),
        pytest.param({"row": [300, 1.0]}, id="a number that does not fit"),
        pytest.param({"row": ["one", 1.0]}, id="a text for a number"),
        pytest.param({"outputs": {}}, id="an output is missing"),
        pytest.param({"outputs": OUTPUTS | {"probability": np.zeros(2, np.float32)}}, id="two outputs"),
        pytest.param({"error": "failed", "outputs": {}, "status": 500}, id="failed"),
    ],
)
def test_other_records_are_left(tiny_manifest: Manifest, changed: dict[str, Any]) -> None:
    specs = [TensorSpec(name="x", datatype="INT8", shape=(-1,)), TensorSpec(name="y", datatype="FP32", shape=(-1, 1))]
    builder = builder_of(manifest_of(tiny_manifest, specs))
    packer = packer_of(builder)
    assert packer.add(answered("r1", [1, 2.5]))
    assert not packer.add(answered("r2", **{"row": [1, 2.5]} | changed))
    [batch] = builder.packed(packer)
    assert batch.columns["request_id"].to_pylist() == ["r1"]


def test_redacted_columns_are_not_packed_or_hashed(tiny_manifest: Manifest) -> None:
    specs = [TensorSpec(name=name, datatype="BYTES", shape=(-1,)) for name in "ab"]
    specs += [TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in "xy"]
    manifest = manifest_of(tiny_manifest, specs)
    redaction = Redaction(["a:hash", "b", "x", "label"], manifest, {"TIDEGATE_LOG_HASH_KEY": "0123456789abcdef"})
    builder = builder_of(manifest, redaction=redaction)
    packer = packer_of(builder)
    record = answered("r1", ["secret", "secret", 1.5, 2.5])
    assert packer.add(record)
    written = builder.table(list(builder.packed(packer))).to_pylist()
    assert written == as_written(builder, [record]).to_pylist()
    assert "secret" not in str(written)
    assert written[0]["input_a"] == redaction.hashed(["secret"])[0]


@pytest.mark.parametrize("make", [small_packages.image, small_packages.tokens, small_packages.multiclass])
def test_models_of_tensors_have_no_packer(tmp_path: Any, make: Any) -> None:
    assert builder_of(read_manifest(make(tmp_path / "package"))).packer(512) is None


def test_models_with_features_or_booleans_have_no_packer(tiny_manifest: Manifest) -> None:
    assert builder_of(tiny_manifest).packer(512) is None
    assert builder_of(manifest_of(tiny_manifest, SPECS)).packer(512) is None


def test_taking_while_another_adds_loses_nothing(tiny_manifest: Manifest) -> None:
    builder = builder_of(manifest_of(tiny_manifest, [TensorSpec(name="x", datatype="FP32", shape=(-1,))]))
    packer = packer_of(builder, rows=7)
    taken: list[LogBatch] = []
    added = threading.Event()

    def take() -> None:
        while not added.is_set():
            taken.extend(builder.packed(packer))

    taking = threading.Thread(target=take)
    taking.start()
    for number in range(10_000):
        assert packer.add(answered(f"r{number:05d}", [number]))
    added.set()
    taking.join()
    taken += builder.packed(packer)
    columns = pa.Table.from_batches([batch.columns for batch in taken])
    assert columns["request_id"].to_pylist() == [f"r{number:05d}" for number in range(10_000)]
    assert columns["input_x"].to_pylist() == list(range(10_000))
