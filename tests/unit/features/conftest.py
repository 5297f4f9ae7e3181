"""A small Feast repository in a temporary folder, and the Parquet sources it reads."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FEATURE_STORE_YAML = """
project: shop
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
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String

customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)

def source(name, **kwargs):
    path = os.path.join(os.environ["TIDEGATE_WORKSPACE"], "data", name + ".parquet")
    return FileSource(name=name + "_source", path=path, timestamp_field="at", created_timestamp_column="created", **kwargs)

visits = FeatureView(
    name="visits", entities=[customer], ttl=timedelta(hours=1), source=source("visits"),
    schema=[
        Field(name="spent", dtype=Float32),
        Field(name="count_y", dtype=Int64, tags={"tidegate.default": "0"}),
        Field(name="mood", dtype=String, tags={"tidegate.default": "unknown"}),
    ],
)
prices = FeatureView(
    name="prices", entities=[customer, shop], ttl=timedelta(0), source=source("prices"),
    schema=[Field(name="discount", dtype=Float32, tags={"tidegate.required": "true"})],
)
hidden = FeatureView(
    name="hidden", entities=[customer], ttl=timedelta(0), source=source("hidden"), online=False,
    schema=[Field(name="secret", dtype=Float32)],
)
basic = FeatureService(name="basic", features=[visits, prices])
both = FeatureService(name="both", features=[visits, hidden])
"""


class Shop:
    """A Feast repository with its workspace; `write` replaces the source of a view."""

    def __init__(self, root: Path) -> None:
        self.repository = root / "repo"
        self.workspace = root / "workspace"
        (self.workspace / "data").mkdir(parents=True)
        self.repository.mkdir()
        (self.repository / "feature_store.yaml").write_text(FEATURE_STORE_YAML)
        (self.repository / "definitions.py").write_text(DEFINITIONS)
        self.write("visits", [])
        self.write("prices", [])
        self.write("hidden", [])

    def define(self, text: str) -> None:
        (self.repository / "definitions.py").write_text(dedent(text))

    def write(self, view: str, rows: list[dict[str, Any]] | pa.Table) -> Path:
        path = self.workspace / "data" / f"{view}.parquet"
        pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=SCHEMAS[view]), path)
        return path


TIME = pa.timestamp("us", tz="UTC")
SCHEMAS = {
    "visits": pa.schema(
        {
            "customer": pa.string(),
            "spent": pa.float32(),
            "count_y": pa.int64(),
            "mood": pa.string(),
            "at": TIME,
            "created": TIME,
        }
    ),
    "prices": pa.schema({"customer": pa.string(), "shop": pa.int64(), "discount": pa.float32(), "at": TIME, "created": TIME}),
    "hidden": pa.schema({"customer": pa.string(), "secret": pa.float32(), "at": TIME, "created": TIME}),
}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def make_shop(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Shop]:
    return lambda: Shop(tmp_path_factory.mktemp("shop"))
