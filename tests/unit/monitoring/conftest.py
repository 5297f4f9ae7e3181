"""Builds drift checks, inference logs and stores for the monitoring tests."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.monitoring.records import ColumnDrift, ConceptDrift, DriftCheck
from tidegate.storage import ObjectStore, open_store

START = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def make_check() -> Callable[..., DriftCheck]:
    def make(day: float, *, drifted: bool, version: int = 1, counted: bool = True) -> DriftCheck:
        end = START + timedelta(days=day)
        column = ColumnDrift(column="temp", psi=0.5, drifted=drifted, missing_reference=0.0, missing_current=0.0)
        return DriftCheck(
            model="flights",
            version=version,
            window_start=end - timedelta(days=7),
            window_end=end,
            rows=1000,
            counted=counted,
            columns=(column,),
            drifted_share=float(drifted),
            data_drifted=drifted,
            prediction=ColumnDrift(column="probability", psi=0.0, drifted=False, missing_reference=0.0, missing_current=0.0),
            concept=ConceptDrift(labelled_rows=0, bound=0.03, drifted=False, note="no labels"),
            drifted=drifted,
            summary="data drift" if drifted else "no drift",
        )

    return make


@pytest.fixture
def log_rows() -> Callable[..., pa.Table]:
    def make(count: int, at: datetime, *, prefix: str = "r", version: int = 1, status: int = 200, **columns: Any) -> pa.Table:
        moment = pa.array([at + timedelta(seconds=row) for row in range(count)], pa.timestamp("us", tz="UTC"))
        fixed = {
            "prediction_id": pa.array([f"{prefix}{row}/0" for row in range(count)]),
            "request_id": pa.array([f"{prefix}{row}" for row in range(count)]),
            "row": pa.array(np.zeros(count, np.int32)),
            "model": pa.array(["flights"] * count),
            "version": pa.array([str(version)] * count),
            "revision": pa.array([f"v{version}"] * count),
            "event_time": moment,
            "logged_at": moment,
            "status": pa.array(np.full(count, status, np.int16)),
            "error": pa.nulls(count, pa.string()),
            "cache_hit": pa.array([False] * count),
            "latency_us": pa.array(np.full(count, 100, np.int64)),
        }
        return pa.table({**fixed, **{name: pa.array(values) for name, values in columns.items()}})

    return make


@pytest.fixture
def write_log(store: ObjectStore) -> Callable[..., str]:
    def write(rows: pa.Table, name: str) -> str:
        first = rows["event_time"][0].as_py()
        key = f"inference-log/flights/version={rows['version'][0].as_py()}/hour={first:%Y-%m-%dT%H}/{name}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        store.put(key, sink.getvalue().to_pybytes())
        return key

    return write
