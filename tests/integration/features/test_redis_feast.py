"""Feast's own calls on our online store in a real Redis, and a replay's feed into it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from tidegate.errors import FeatureError
from tidegate.features.definitions import load_config, load_definitions
from tidegate.features.online import OnlineReader
from tidegate.features.repository import FeatureRepository

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")

STORE = """\
project: shop
provider: local
registry: ${TIDEGATE_WORKSPACE}/registry.db
offline_store: {type: tidegate.features.offline_store.AsofOfflineStore}
online_store: {type: tidegate.features.online_store.PackedOnlineStore, %s}
"""

DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
visits = FeatureView(
    name="visits", entities=[customer], ttl=timedelta(hours=1), schema=[Field(name="spent", dtype=Float32)],
    source=FileSource(path=os.environ["TIDEGATE_WORKSPACE"] + "/visits.parquet", timestamp_field="at"),
)
visits_v1 = FeatureService(name="visits_v1", features=[visits])
"""


@pytest.fixture
def folders(tmp_path, redis):
    repository, workspace = tmp_path / "repository", tmp_path / "workspace"
    repository.mkdir()
    workspace.mkdir()
    (repository / "feature_store.yaml").write_text(STORE % f'connection_string: "{redis.uri}"')
    (repository / "definitions.py").write_text(DEFINITIONS)
    put_visits(workspace, ("ann", 1.0, NOON))
    FeatureRepository(repository, workspace).apply()
    FeatureRepository(repository, workspace).clear_online_store()
    return repository, workspace


def put_visits(workspace, *rows):
    names, spent, at = zip(*rows, strict=True)
    columns = {"customer": names, "spent": pa.array(spent, pa.float32()), "at": pa.array(at, TIME)}
    pq.write_table(pa.table(columns), workspace / "visits.parquet")


def read(repository, *customers, at=NOON):
    reader = OnlineReader.open(repository.online_store_uri, repository.contract("visits_v1"))
    return asyncio.run(reader.read({"customer": customers}, at)).columns["visits__spent"].tolist()


def test_what_feast_writes_feast_and_the_reader_read(folders):
    store = FeatureStore(config=load_config(*folders))
    newer, older = NOON, NOON - timedelta(minutes=5)
    for customer, spent, at in (("bob", 2.0, newer), ("bob", 9.0, older), ("zoë", 3.0, newer)):
        frame = pd.DataFrame([[customer, spent, at]], columns=["customer", "spent", "at"])
        store.write_to_online_store("visits", frame)

    asked = [{"customer": customer} for customer in ("zoë", "eve", "bob")]
    answer = store.get_online_features(["visits:spent"], asked).to_dict()

    assert answer["spent"] == [3.0, None, 2.0]
    assert read(FeatureRepository(*folders), "bob", "zoë") == [2.0, 3.0]


def test_a_view_that_is_deleted_loses_its_rows(folders):
    store = FeatureStore(config=load_config(*folders))
    store.materialize(NOON - timedelta(hours=1), NOON, feature_views=["visits"])
    assert store.get_online_features(["visits:spent"], [{"customer": "ann"}]).to_dict()["spent"] == [1.0]

    store.apply([], objects_to_delete=[store.get_feature_view("visits")], partial=False)
    store.apply(load_definitions(*folders))

    assert store.get_online_features(["visits:spent"], [{"customer": "ann"}]).to_dict()["spent"] == [None]


def test_a_replay_feeds_it_minute_by_minute(folders):
    put_visits(folders[1], *((("ann"), float(minute), NOON + timedelta(minutes=minute)) for minute in range(10)))
    repository = FeatureRepository(*folders)
    repository.materialize(NOON)
    feed = repository.open_feed()

    for minute in range(1, 10):
        now = NOON + timedelta(minutes=minute)
        assert feed.materialize(now) == 1
        assert read(repository, "ann", at=now) == [float(minute)]
    assert repository.materialize(NOON + timedelta(minutes=9)).rows == 0


@pytest.mark.parametrize(
    "place",
    [
        pytest.param('path: /tmp/a, connection_string: "redis://redis"', id="both"),
        pytest.param("path: null", id="neither"),
    ],
)
def test_a_store_has_one_place(folders, place):
    (folders[0] / "feature_store.yaml").write_text(STORE % place)

    with pytest.raises(FeatureError, match=r"feature_store\.yaml: .*give either path or connection_string"):
        FeatureRepository(*folders)
