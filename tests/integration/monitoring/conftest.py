"""A champion in a registry, and a way to log traffic that it answered."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tidegate.packaging.format.manifest import FeatureContract
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.serving.inference_log.sampling import is_sampled
from tidegate.serving.inference_log.schema import input_column, log_schema
from tidegate.storage import ObjectStore, open_store

REQUEST_INPUTS = ["carrier", "origin", "distance", "hour"]


@pytest.fixture(params=["directory", "s3"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return f"file://{tmp_path / 'store'}"
    return f"s3://{request.getfixturevalue('s3_bucket')}/monitored"


@pytest.fixture
def project(tmp_path: Path, store_uri: str) -> Project:
    document = {
        "schema_version": 1,
        "name": "tiny",
        "task": "binary-classification",
        "store": store_uri,
        "features": {
            "repository": "repo",
            "service": "tiny_v1",
            "entity_rows": "rows.parquet",
            "id_column": "flight_id",
            "request_inputs": REQUEST_INPUTS,
        },
        "label": {"column": "label", "known_at_column": "known_at"},
        "training": {"function": "train:train", "window_days": 60, "holdout_days": 10},
        "gates": {"accuracy": {"minimum": 0.5}},
        "monitoring": {
            "window_days": 7,
            "min_rows": 100,
            "drifted_share": 0.15,
            "policy": {"drifted_windows": 2, "of_windows": 3, "cooldown_days": 30, "budget": 1},
        },
    }
    file = tmp_path / "tidegate.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_project(file)


@pytest.fixture
def store(project: Project) -> ObjectStore:
    return open_store(project.store_uri)


@pytest.fixture
def champion(store: ObjectStore, tiny_package: Path) -> int:
    registry = ModelRegistry(store)
    version = registry.register(tiny_package, reason="test")
    registry.move_alias("tiny", "champion", version, reason="test", expected=None)
    return version


@pytest.fixture
def log_traffic(store: ObjectStore, tiny_package: Path, tiny_examples: pa.Table) -> Callable[..., pa.Table]:
    """Log the model's answers to the tiny examples, at most a day's worth in a file, and return the prediction ids."""
    manifest = read_manifest(tiny_package)
    schema = log_schema(manifest)
    assert isinstance(manifest.features, FeatureContract)

    def log(
        start: datetime,
        *,
        rows: int = 600,
        warmer: float = 0.0,
        version: int = 1,
        prefix: str = "r",
        share: float = 1.0,
        redacted: Sequence[str] = (),
    ) -> pa.Table:
        asked = tiny_examples.slice(0, rows)
        temp = pa.array(asked["weather__temp"].to_numpy() + np.float32(warmer), pa.float32(), from_pandas=True)
        asked = asked.set_column(asked.schema.get_field_index("weather__temp"), "weather__temp", temp)
        moments = [start + timedelta(minutes=10 * row) for row in range(rows)]
        columns = {
            "prediction_id": [f"{prefix}{moment:%m%d%H%M}/0" for moment in moments],
            "request_id": [f"{prefix}{moment:%m%d%H%M}" for moment in moments],
            "row": [0] * rows,
            "model": ["tiny"] * rows,
            "version": [str(version)] * rows,
            "revision": [f"v{version}"] * rows,
            "event_time": moments,
            "logged_at": moments,
            "status": [200] * rows,
            "cache_hit": [False] * rows,
            "latency_us": [100] * rows,
            "sample_share": [share] * rows,
            "redacted": [",".join(redacted) or None] * rows,
            "output_probability": PackageModel(tiny_package).predict(asked),
            **{input_column(spec): asked[spec.name] for spec in manifest.signature.inputs if spec.name not in redacted},
        }
        table = pa.table([_column(columns.get(field.name), field, rows) for field in schema], schema=schema)
        table = table.filter([is_sampled(request_id, share) for request_id in columns["request_id"]])
        for day in range(0, table.num_rows, 144):
            part = table.slice(day, 144)
            hour = part["event_time"][0].as_py()
            sink = pa.BufferOutputStream()
            pq.write_table(part, sink)
            key = f"inference-log/tiny/version={version}/hour={hour:%Y-%m-%dT%H}/{prefix}{day}.parquet"
            store.put(key, sink.getvalue().to_pybytes())
        return pa.table({"prediction_id": columns["prediction_id"], "label": asked["label"], "event_time": moments})

    return log


def _column(values: object, field: pa.Field, rows: int) -> pa.ChunkedArray | pa.Array:
    if values is None:
        return pa.nulls(rows, field.type)
    return values.cast(field.type) if isinstance(values, pa.ChunkedArray) else pa.array(values, field.type)
