"""A small project on disk, its entity rows, and a feature repository that joins one looked-up feature."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView
from tidegate.project import Project, load_project

UNTIL = datetime(2013, 4, 1, tzinfo=UTC)
ROWS = 400


class FakeRepository:
    """Joins `weather__temp` by row number, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: pa.Table | None = None

    def contract(self, service: str) -> FeatureContract:
        view = FeatureView(
            name="weather", join_keys=("origin",), ttl_seconds=0, features=(FeatureField(name="temp", datatype="FP32"),)
        )
        return FeatureContract(service=service, project="test", views=(view,))

    def training_set(self, entity_rows: pa.Table, service: str, timestamp_column: str) -> pa.Table:
        self.asked = entity_rows
        temp = np.arange(entity_rows.num_rows, dtype=np.float64)
        return entity_rows.append_column("weather__temp", pa.array(temp, mask=temp % 10 == 0))


@pytest.fixture
def repository() -> FakeRepository:
    return FakeRepository()


@pytest.fixture
def entity_rows() -> pa.Table:
    """One row every six hours before UNTIL, labelled a day later, but every eighth row never."""
    moments = [UNTIL - timedelta(hours=6 * (ROWS - row)) for row in range(ROWS)]
    never = np.arange(ROWS) % 8 == 0
    known = [None if gone else moment + timedelta(days=1) for moment, gone in zip(moments, never, strict=True)]
    return pa.table(
        {
            "id": [f"f{row}" for row in range(ROWS)],
            "asked_at": pa.array(moments, pa.timestamp("us", tz="UTC")),
            "origin": ["EWR", "JFK"] * (ROWS // 2),
            "distance": pa.array(np.arange(ROWS), pa.int32()),
            "late": pa.array(np.arange(ROWS) % 4 == 1, mask=never).cast(pa.int8()),
            "landed_at": pa.array(known, pa.timestamp("us", tz="UTC")),
            "not_asked_for": np.zeros(ROWS),
        }
    )


@pytest.fixture
def make_project(tmp_path: Path, entity_rows: pa.Table) -> Callable[..., Project]:
    def make(rows: pa.Table | None = None, *, code: str | None = None, **sections: Any) -> Project:
        pq.write_table(entity_rows if rows is None else rows, tmp_path / "rows.parquet")
        if code is not None:
            (tmp_path / "train.py").write_text(code)
        document: dict[str, Any] = {
            "schema_version": 1,
            "name": "flights",
            "task": "binary-classification",
            "features": {
                "repository": "repo",
                "service": "v1",
                "entity_rows": "rows.parquet",
                "timestamp_column": "asked_at",
                "id_column": "id",
                "request_inputs": ["origin", "distance"],
            },
            "label": {"column": "late", "known_at_column": "landed_at"},
            "training": {"function": "train:train", "window_days": 60, "holdout_days": 10},
            "gates": {"accuracy": {"minimum": 0.5}, "data": {"min_rows": 10}},
        }
        for name, section in sections.items():
            document[name] = {**document.get(name, {}), **section}
        file = tmp_path / "tidegate.yaml"
        file.write_text(yaml.safe_dump(document))
        return load_project(file)

    return make
