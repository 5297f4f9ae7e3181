"""A project's data as a cluster's pods get it: from S3 into a workspace of their own, and from there into a shared Redis."""

import asyncio
import io
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, FeatureError, ProjectError, StorageError
from tidegate.features import online_redis
from tidegate.features.online import OnlineReader
from tidegate.project import load_project
from tidegate.release.data import materialize_features, open_repository
from tidegate.storage.s3 import S3Store
from tidegate.training.training_set import join_window

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
TIME = pa.timestamp("us", tz="UTC")

PROJECT = """\
schema_version: 1
name: visits
task: binary-classification
features:
  repository: repository
  service: visits_v1
  entity_rows: .tidegate/data/examples.parquet
  id_column: id
  request_inputs: [amount]
label: {{column: late, known_at_column: known_at}}
training: {{function: "train:train", window_days: 90, holdout_days: 14}}
gates: {{accuracy: {{minimum: 0.6}}}}
cluster:
  store: s3://{bucket}/store
  data: s3://{bucket}/data
  workspace: {workspace}
  {online_store}
"""

STORE = """\
project: shop
provider: local
registry: ${TIDEGATE_WORKSPACE}/features/registry.db
offline_store: {type: tidegate.features.offline_store.AsofOfflineStore}
online_store: {type: tidegate.features.online_store.PackedOnlineStore, path: "${TIDEGATE_WORKSPACE}/features/online.db"}
"""

DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
visits = FeatureView(
    name="visits", entities=[customer], ttl=timedelta(hours=1), schema=[Field(name="spent", dtype=Float32)],
    source=FileSource(path=os.environ["TIDEGATE_WORKSPACE"] + "/data/visits.parquet", timestamp_field="at"),
)
visits_v1 = FeatureService(name="visits_v1", features=[visits])
"""


class Cluster:
    """A bucket with data, a Redis, and a project; each step gets a workspace of its own, as a pod does."""

    def __init__(self, root, bucket, redis):
        self.bucket = bucket
        self.redis = redis
        self._root = root
        self._steps = 0
        (root / "repository").mkdir()
        (root / "repository" / "feature_store.yaml").write_text(STORE)
        (root / "repository" / "definitions.py").write_text(DEFINITIONS)
        self.put_visits(("ann", 1.0, NOON), ("bob", 2.0, NOON))
        examples = {"id": ["a", "b"], "customer": ["bob", "zoe"], "amount": [1.0, 2.0], "late": [0, 1]}
        moments = pa.array([NOON, NOON], TIME)
        self.put("examples", pa.table(examples | {"event_timestamp": moments, "known_at": moments}))

    def put(self, name, table):
        file = io.BytesIO()
        pq.write_table(table, file)
        boto3.session.Session().client("s3").put_object(Bucket=self.bucket, Key=f"data/{name}.parquet", Body=file.getvalue())

    def put_visits(self, *rows):
        names, spent, at = zip(*rows, strict=True)
        self.put("visits", pa.table({"customer": names, "spent": pa.array(spent, pa.float32()), "at": pa.array(at, TIME)}))

    def step(self, online_store=True):
        """Load the project in a pod of its own."""
        self._steps += 1
        redis = f"online_store: {self.redis.uri}" if online_store else ""
        file = self._root / f"step-{self._steps}.yaml"
        workspace = self._root / f"pod-{self._steps}"
        file.write_text(PROJECT.format(bucket=self.bucket, workspace=workspace, online_store=redis))
        (self._root / "train.py").write_text("")
        return load_project(file, target="kserve")

    def spent(self, *customers, at=NOON):
        contract = open_repository(self.step()).contract("visits_v1")
        lookup = asyncio.run(OnlineReader.open(self.redis.uri, contract).read({"customer": customers}, at))
        return [None if value != value else value for value in lookup.columns["visits__spent"].tolist()]


@pytest.fixture
def cluster(tmp_path, s3_bucket, start_redis):
    return Cluster(tmp_path, s3_bucket, start_redis())


def test_steps_share_nothing_but_the_bucket_and_the_redis(cluster):
    first = materialize_features(cluster.step(), NOON)
    again = materialize_features(cluster.step(), NOON)
    joined = join_window(project := cluster.step(), open_repository(project), NOON, NOON + timedelta(hours=1))

    assert (first.rows, again.rows) == (2, 0)
    assert cluster.spent("ann", "bob", "zoe") == [1.0, 2.0, None]
    assert joined["visits__spent"].to_pylist() == [2.0, None]


def test_a_step_sees_the_data_of_today(cluster):
    materialize_features(cluster.step(), NOON)
    cluster.put_visits(("ann", 1.0, NOON), ("ann", 5.0, NOON + timedelta(minutes=1)))

    report = materialize_features(cluster.step(), NOON + timedelta(minutes=1))

    assert report.rows == 1
    assert cluster.spent("ann", at=NOON + timedelta(minutes=1)) == [5.0]


def test_training_needs_no_online_store(cluster):
    cluster.redis.kill()

    project = cluster.step(online_store=False)

    assert join_window(project, open_repository(project), NOON, NOON + timedelta(hours=1)).num_rows == 2


def test_materialization_needs_one(cluster):
    with pytest.raises(ProjectError, match=r"cluster\.online_store: required"):
        materialize_features(cluster.step(online_store=False), NOON)


def keys_with_expiry(cluster):
    writer = online_redis.RedisRows(online_redis.RedisAddress.parse(cluster.redis.uri))
    (keys,) = writer._pipeline([["KEYS", "tidegate/row/*"]])
    return [left for left in writer._pipeline([["PTTL", key] for key in keys]) if left > 0], keys


@pytest.mark.parametrize("live", [True, False])
def test_only_live_rows_expire(cluster, live):
    now = datetime.now(UTC)
    cluster.put_visits(("ann", 1.0, now - timedelta(minutes=30)), ("bob", 2.0, now - timedelta(days=9)))

    materialize_features(cluster.step(), now, live=live)

    expiring, keys = keys_with_expiry(cluster)
    if live:  # a TTL of an hour, and an hour of tolerance, from the event on
        assert len(keys) == 1
        assert 80 * 60_000 < expiring[0] <= 90 * 60_000
    else:
        assert len(keys) == 2
        assert expiring == []


def test_a_materialization_whose_redis_dies_is_resumed_by_the_next(cluster, monkeypatch):
    cluster.put_visits(*((f"c{i}", float(i), NOON) for i in range(9_000)))
    monkeypatch.setattr(online_redis, "_PATIENCE_SECONDS", 0.3)
    pipeline, calls = online_redis.RedisConnection.pipeline, []

    def dies_half_way(connection, commands):
        calls.append(commands[0][0])
        if calls.count("EVAL") == 2:
            cluster.redis.kill()
        return pipeline(connection, commands)

    monkeypatch.setattr(online_redis.RedisConnection, "pipeline", dies_half_way)
    with pytest.raises(FeatureError, match=r"online store redis://127\.0\.0\.1:\d+/0: cannot be reached"):
        materialize_features(cluster.step(), NOON)
    monkeypatch.setattr(online_redis.RedisConnection, "pipeline", pipeline)
    cluster.redis.start()
    half = len(keys_with_expiry(cluster)[1])

    report = materialize_features(cluster.step(), NOON)

    assert 0 < half < 9_000
    assert report.rows == 9_000
    assert len(keys_with_expiry(cluster)[1]) == 9_000


STEP = """
    import sys
    from datetime import UTC, datetime, timedelta
    from tidegate.project import load_project
    from tidegate.release.data import open_repository, project_online_store

    project = load_project(sys.argv[1], target="kserve")
    repository = open_repository(project, project_online_store(project))
    for minute in range(20):
        repository.materialize(datetime(2013, 7, 1, 12, tzinfo=UTC) + timedelta(minutes=minute))
"""


def test_two_steps_at_once_do_not_disturb_each_other(cluster):
    cluster.put_visits(*((f"c{i}", float(minute), NOON + timedelta(minutes=minute)) for i in range(50) for minute in range(20)))
    steps = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(STEP), str(cluster.step().file)]) for _ in range(2)]

    assert [step.wait(120) for step in steps] == [0, 0]
    assert cluster.spent(*(f"c{i}" for i in range(50)), at=NOON + timedelta(minutes=20)) == [19.0] * 50


def test_a_bucket_without_data_is_one_clear_error(cluster):
    client = boto3.session.Session().client("s3")
    for name in ("visits", "examples"):
        client.delete_object(Bucket=cluster.bucket, Key=f"data/{name}.parquet")

    with pytest.raises(DataError, match=rf"^data s3://{cluster.bucket}/data: holds nothing; upload the Parquet files"):
        open_repository(cluster.step())


def test_listings_name_foreign_keys_too(cluster):
    client = boto3.session.Session().client("s3")
    client.put_object(Bucket=cluster.bucket, Key="data/folder/", Body=b"")
    client.put_object(Bucket=cluster.bucket, Key="data-of-others/a", Body=b"1")
    client.put_object(Bucket=cluster.bucket, Key="data/..\\up", Body=b"12")

    entries = {entry.key: entry.size for entry in S3Store.from_uri(f"s3://{cluster.bucket}/data").entries()}

    assert entries.keys() == {"folder/", "..\\up", "examples.parquet", "visits.parquet"}
    assert entries["..\\up"] == 2
    with pytest.raises(StorageError, match=r"leads out of .* or is no file name"):
        open_repository(cluster.step())
