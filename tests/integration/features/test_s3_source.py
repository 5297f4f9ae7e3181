"""Feature sources in an object store: joined and materialized over HTTP, through a real S3 server."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError
from tidegate.features.online import OnlineReader
from tidegate.features.repository import FeatureRepository

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path, s3_bucket: str, s3_settings: str) -> FeatureRepository:
    (tmp_path / "feature_store.yaml").write_text(
        dedent("""
        project: shop
        provider: local
        registry: ${TIDEGATE_WORKSPACE}/registry.db
        offline_store: {type: tidegate.features.offline_store.AsofOfflineStore}
        online_store: {type: tidegate.features.online_store.PackedOnlineStore, path: "${TIDEGATE_WORKSPACE}/online.db"}
        """)
    )
    (tmp_path / "definitions.py").write_text(
        dedent(f"""
        from datetime import timedelta
        from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
        from feast.types import Float32

        customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.STRING)
        visits = FeatureView(
            name="visits", entities=[customer], ttl=timedelta(hours=1), schema=[Field(name="spent", dtype=Float32)],
            source=FileSource(
                path="s3://{s3_bucket}/visits.parquet", s3_endpoint_override="{s3_settings}", timestamp_field="at"
            ),
        )
        basic = FeatureService(name="basic", features=[visits])
        """)
    )
    store = pyarrow.fs.S3FileSystem(endpoint_override=s3_settings)
    table = pa.table({"customer": ["ann", "bob"], "spent": pa.array([1, 2], pa.float32()), "at": pa.array([NOON] * 2, _TIME)})
    pq.write_table(table, f"{s3_bucket}/visits.parquet", filesystem=store)
    repository = FeatureRepository(tmp_path, tmp_path / "workspace")
    repository.apply()
    return repository


_TIME = pa.timestamp("us", tz="UTC")


def test_training_set_and_materialization(repository: FeatureRepository) -> None:
    rows = pa.table({"customer": ["bob", "zoe"], "asked_at": pa.array([NOON, NOON], _TIME)})

    assert repository.training_set(rows, "basic", "asked_at")["visits__spent"].to_pylist() == [2, None]

    assert repository.materialize(NOON).rows == 2
    reader = OnlineReader.open(repository.online_store_uri, repository.contract("basic"))
    assert asyncio.run(reader.read({"customer": ["ann"]}, NOON)).columns["visits__spent"].tolist() == [1]


def test_a_missing_object_is_one_clear_error(repository: FeatureRepository, s3_bucket: str, s3_settings: str) -> None:
    pyarrow.fs.S3FileSystem(endpoint_override=s3_settings).delete_file(f"{s3_bucket}/visits.parquet")

    with pytest.raises(DataError, match=r"feature view visits: source s3://.*/visits\.parquet cannot be read"):
        repository.materialize(NOON)
