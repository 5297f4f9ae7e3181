"""A small, real project for tests: parcels that arrive late, in a world whose weather changes."""

import http.client
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TRAINED_UNTIL = datetime(2024, 3, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
TRAINING_DAYS = 60
LIVE_WEEKS = 3
TICK = timedelta(hours=6)
ROWS_A_TICK = 15
LANDS_AFTER = timedelta(hours=2)
DISTRICTS = [f"d{number}" for number in range(8)]
COURIERS = [f"c{number}" for number in range(20)]
# How the world is: median distance and mean rain, in training and the first live week, then in the second and the third.
USUAL, FLOODED, DROUGHT = (4.0, 2.0), (9.0, 5.0), (1.5, 0.4)

FEATURE_STORE = """
project: parcels
provider: local
registry: ${TIDEGATE_WORKSPACE}/features/registry.db
offline_store:
  type: tidegate.features.offline_store.AsofOfflineStore
online_store:
  type: tidegate.features.online_store.PackedOnlineStore
  path: ${TIDEGATE_WORKSPACE}/features/online.db
entity_key_serialization_version: 3
"""

DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

district = Entity(name="district", join_keys=["district"], value_type=ValueType.STRING)
courier = Entity(name="courier", join_keys=["courier"], value_type=ValueType.STRING)

def source(name):
    path = os.path.join(os.environ["TIDEGATE_WORKSPACE"], "data", name + ".parquet")
    return FileSource(name=name, path=path, timestamp_field="at", created_timestamp_column="created")

weather = FeatureView(name="weather", entities=[district], ttl=timedelta(hours=12), source=source("weather"),
                      schema=[Field(name="rain", dtype=Float32)])
load = FeatureView(name="load", entities=[courier], ttl=timedelta(hours=12), source=source("load"),
                   schema=[Field(name="parcels", dtype=Float32)])
parcels_v1 = FeatureService(name="parcels_v1", features=[weather, load])
"""

TRAIN = """
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier


def train(data):
    numbers = [name for name in data.inputs.columns if data.inputs[name].dtype != object]
    columns = lambda: ColumnTransformer([
        ("numbers", StandardScaler(), numbers), ("texts", OneHotEncoder(handle_unknown="ignore"), ["vehicle"])])
    candidates = {
        "linear": make_pipeline(columns(), LogisticRegression()),
        "tree": make_pipeline(columns(), DecisionTreeClassifier(max_depth=3, min_samples_leaf=50, random_state=data.seed)),
    }
    return {name: model.fit(data.inputs, data.label) for name, model in candidates.items()}
"""

RAISING = """
def train(data):
    raise RuntimeError("the labels smell of fish")
"""

PROJECT: dict[str, Any] = {
    "schema_version": 1,
    "name": "parcels",
    "task": "binary-classification",
    "workspace": "workspace",
    "features": {
        "repository": "feature_repo",
        "service": "parcels_v1",
        "entity_rows": "workspace/data/parcels.parquet",
        "timestamp_column": "asked_at",
        "id_column": "parcel",
        "request_inputs": ["distance", "hour", "vehicle"],
    },
    "label": {"column": "late", "known_at_column": "landed_at", "classes": ["on-time", "late"]},
    "training": {"function": "train:train", "window_days": TRAINING_DAYS, "holdout_days": 14, "seed": 7},
    "gates": {
        "data": {"min_rows": 1000},
        "accuracy": {"minimum": 0.6, "max_loss": 0.05},
        "benchmark": {"max_p99_ms": 1000, "batch_sizes": [1], "rounds": 3, "calls_per_round": 20},
        # The two versions are as good as each other on purpose: the champion gate is not what this story is about.
        "champion": {"max_loss": 0.2, "min_rows": 100},
        "variants": ["graph-optimized", "int8-dynamic"],
    },
    "serving": {"log": {"rotate_rows": 500, "rotate_seconds": 0.3}},
    "rollout": {
        "steps": [25, 100],
        "look_seconds": 0.3,
        "min_requests": 40,
        "max_step_seconds": 60,
        "max_error_increase": 0.05,
        "max_latency_ratio": 10,
    },
    "monitoring": {
        "window_days": 7,
        "label_delay_hours": 3,
        "min_rows": 300,
        "drifted_share": 0.4,
        "policy": {"drifted_windows": 1, "of_windows": 1, "cooldown_days": 30, "budget": 4},
    },
}


def write_project(root: Path, **sections: Any) -> Path:
    """Write the project's files to `root`, with further sections of the project file, and return that file."""
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "feature_store.yaml").write_text(FEATURE_STORE)
    (root / "feature_repo" / "definitions.py").write_text(DEFINITIONS)
    (root / "train.py").write_text(TRAIN)
    (root / "raising.py").write_text(RAISING)
    (root / "tidegate.yaml").write_text(yaml.safe_dump({**PROJECT, **sections}))
    return root / "tidegate.yaml"


def payload(row: dict[str, Any], request_id: str) -> bytes:
    datatypes = {"courier": "BYTES", "district": "BYTES", "vehicle": "BYTES", "distance": "FP32", "hour": "INT64"}
    inputs = [{"name": name, "datatype": kind, "shape": [1], "data": [row[name]]} for name, kind in datatypes.items()]
    return json.dumps({"id": request_id, "inputs": inputs}).encode()


def post(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, dict[str, Any]]:
    connection.request("POST", "/v2/models/parcels/infer", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def write_data(folder: Path) -> pa.Table:
    """Write the sources of both views and the examples, and return those; each tick's features are known just before it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    start = TRAINED_UNTIL - timedelta(days=TRAINING_DAYS)
    ticks = [start + TICK * number for number in range((TRAINING_DAYS + 7 * LIVE_WEEKS) * 4)]
    examples, weather, load = [], [], []
    for tick in ticks:
        median_distance, mean_rain = world_at(tick)
        rain = dict(zip(DISTRICTS, rng.gamma(2.0, mean_rain / 2, len(DISTRICTS)), strict=True))
        parcels = dict(zip(COURIERS, rng.poisson(20, len(COURIERS)).astype(float), strict=True))
        known = {"at": tick - timedelta(minutes=30), "created": tick - timedelta(minutes=20)}
        weather += [{"district": district, "rain": amount, **known} for district, amount in rain.items()]
        load += [{"courier": courier, "parcels": count, **known} for courier, count in parcels.items()]
        for number in range(ROWS_A_TICK):
            district, courier = rng.choice(DISTRICTS), rng.choice(COURIERS)
            distance = median_distance * rng.lognormal(0, 0.5)
            logit = 0.25 * (distance - 4) + 0.3 * (rain[district] - 2) + 0.15 * (parcels[courier] - 20)
            examples.append(
                {
                    "parcel": f"p{tick:%m%d%H}-{number}",
                    "asked_at": tick,
                    "district": str(district),
                    "courier": str(courier),
                    "distance": distance,
                    "hour": tick.hour,
                    "vehicle": str(rng.choice(["bike", "van"])),
                    "late": int(rng.random() < 1 / (1 + np.exp(-logit))),
                    "landed_at": tick + LANDS_AFTER,
                }
            )
    time_type = pa.timestamp("us", tz="UTC")
    known_schema = [("at", time_type), ("created", time_type)]
    pq.write_table(
        pa.Table.from_pylist(weather, pa.schema([("district", pa.string()), ("rain", pa.float32()), *known_schema])),
        folder / "weather.parquet",
    )
    pq.write_table(
        pa.Table.from_pylist(load, pa.schema([("courier", pa.string()), ("parcels", pa.float32()), *known_schema])),
        folder / "load.parquet",
    )
    table = pa.Table.from_pylist(
        examples,
        pa.schema(
            [
                ("parcel", pa.string()),
                ("asked_at", time_type),
                ("district", pa.string()),
                ("courier", pa.string()),
                ("distance", pa.float32()),
                ("hour", pa.int64()),
                ("vehicle", pa.string()),
                ("late", pa.int8()),
                ("landed_at", time_type),
            ]
        ),
    )
    pq.write_table(table, folder / "parcels.parquet")
    return table


def world_at(moment: datetime) -> tuple[float, float]:
    if moment < TRAINED_UNTIL + WEEK:
        return USUAL
    return FLOODED if moment < TRAINED_UNTIL + 2 * WEEK else DROUGHT
