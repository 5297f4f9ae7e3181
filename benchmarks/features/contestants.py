"""One contestant, one task, in this process: prints its times and its peak memory as JSON. Started by `benchmarks.features`.

python -m benchmarks.features.contestants join tidegate --rows 20000 --service flights_late_v1 --data DIR
python -m benchmarks.features.contestants lookup feast-sqlite --rows 32 --service flights_late_v1 --data DIR

Lookups from Redis use the one at TIDEGATE_BENCHMARK_REDIS (HOST:PORT), and empty it.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FEATURE_REPO = Path(__file__).parents[2] / "feature_repo"
SEED = 2013
NOW = datetime(2013, 7, 10, 20, tzinfo=UTC)
JOINERS = ("tidegate", "tidegate-repository", "duckdb-sql", "feast-duckdb", "feast-dask")
LOOKERS = ("tidegate-reader", "tidegate-reader-redis", "feast-packed", "feast-packed-redis", "feast-sqlite", "feast-redis")
OFFLINE_STORES = {"feast-dask": "dask", "feast-duckdb": "duckdb"}
BUDGET_SECONDS = 10.0


def entity_rows(data: Path, rows: int) -> pa.Table:
    """Return `rows` labelled flights in event-time order, all of them if there are no more; the sample is seeded."""
    table = pq.read_table(data / "flights.parquet")
    table = table.filter(pc.is_valid(table["late"])).drop_columns(["landed_at"])
    if rows >= table.num_rows:
        return table
    return table.take(np.sort(np.random.default_rng(SEED).choice(table.num_rows, rows, replace=False)))


def workspace_with(data: Path, offline: str | None, online: str | None) -> tuple[Path, Path]:
    """Return a Feast repository like the example's, with other stores if named, and an empty workspace on `data`."""
    root = Path(tempfile.mkdtemp(prefix="tidegate-benchmark-"))
    (root / "workspace").mkdir()
    (root / "workspace" / "data").symlink_to(data.resolve())
    shutil.copytree(FEATURE_REPO, root / "repo", ignore=shutil.ignore_patterns("__pycache__"))
    yaml = root / "repo" / "feature_store.yaml"
    text = yaml.read_text()
    if offline:
        text = text.replace("tidegate.features.offline_store.AsofOfflineStore", offline)
    path = "path: ${TIDEGATE_WORKSPACE}/features/online.db"
    if online == "redis":
        text = text.replace(path, f"connection_string: {redis_address()}")
    elif online == "packed-redis":
        text = text.replace(path, f"connection_string: redis://{redis_address()}/0")
    if online in ("sqlite", "redis"):
        text = text.replace("tidegate.features.online_store.PackedOnlineStore", online)
    yaml.write_text(text)
    return root / "repo", root / "workspace"


def redis_address() -> str:
    """Return HOST:PORT of an empty Redis."""
    import redis

    host, _, port = os.environ["TIDEGATE_BENCHMARK_REDIS"].partition(":")
    redis.Redis(host, int(port)).flushall()
    return f"{host}:{port}"


def feast_store(repository: Path, workspace: Path) -> Any:
    """Return the stock FeatureStore of a repository, applied."""
    from feast import FeatureStore

    from tidegate.features.definitions import load_config, load_definitions

    store = FeatureStore(config=load_config(repository, workspace))
    store.apply(load_definitions(repository, workspace))
    return store


def joined_by_feast(data: Path, rows: pa.Table, service: str, offline: str | None) -> Callable[[], pa.Table]:
    """Stock `get_historical_features`, on our offline store or one of Feast's."""
    store = feast_store(*workspace_with(data, offline, "sqlite"))
    frame = rows.to_pandas()
    return lambda: store.get_historical_features(frame, store.get_feature_service(service), full_feature_names=True).to_arrow()


def joined_by_repository(data: Path, rows: pa.Table, service: str) -> Callable[[], pa.Table]:
    """Our FeatureRepository, as the pipelines call it: Arrow in, Arrow out."""
    from tidegate.features.repository import FeatureRepository

    repository = FeatureRepository(*workspace_with(data, None, None))
    repository.apply()
    return lambda: repository.training_set(rows, service, "event_timestamp")


def joined_by_sql(data: Path, rows: pa.Table, service: str) -> Callable[[], pa.Table]:
    """One hand-written DuckDB query for the same views, TTLs and row order; it breaks no ties and checks nothing."""
    from tidegate.features.repository import FeatureRepository

    repository = FeatureRepository(*workspace_with(data, None, None))
    repository.apply()
    selected, joins = ["e.* EXCLUDE (position)"], []
    for view in repository.contract(service).views:
        age = f"e.event_timestamp - {view.name}.event_timestamp"
        fresh = f"{age} <= to_seconds({view.ttl_seconds})" if view.ttl_seconds else "TRUE"
        selected += [f"CASE WHEN {fresh} THEN {view.name}.{f.name} END AS {view.name}__{f.name}" for f in view.features]
        keys = " AND ".join(f"e.{key} = {view.name}.{key}" for key in view.join_keys)
        path = data / f"{view.name}.parquet"
        joins.append(f"ASOF LEFT JOIN '{path}' {view.name} ON {keys} AND e.event_timestamp >= {view.name}.event_timestamp")
    query = f"SELECT {', '.join(selected)} FROM entities e {' '.join(joins)} ORDER BY e.position"  # noqa: S608
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("entities", rows.append_column("position", pa.array(np.arange(rows.num_rows))))
    return lambda: connection.sql(query).to_arrow_table()


def measure_join(name: str, data: Path, rows: int, service: str) -> dict[str, Any]:
    """Join `rows` flights by one contestant, again and again within a time budget, at most five times."""
    entities = entity_rows(data, rows)
    if name == "tidegate-repository":
        run = joined_by_repository(data, entities, service)
    elif name == "duckdb-sql":
        run = joined_by_sql(data, entities, service)
    else:
        run = joined_by_feast(data, entities, service, OFFLINE_STORES.get(name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: list[float] = []
    result = pa.table({})
    while not seconds or (len(seconds) < 5 and sum(seconds) < BUDGET_SECONDS):
        del result  # one result at a time in memory
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    features = [column for column in result.column_names if "__" in column]
    return {
        "seconds": seconds,
        "rows_in": entities.num_rows,
        "rows_out": result.num_rows,
        "known_values": sum(result.num_rows - result[column].null_count for column in features),
        "mib_before": before / 1024,
        "mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_lookup(name: str, data: Path, rows: int, service: str) -> dict[str, Any]:
    """Look `rows` flights up online, materialized as of one summer evening."""
    entities = entity_rows(data, 10**9)
    times = entities["event_timestamp"]
    entities = entities.filter(pc.and_(pc.greater(times, NOW - timedelta(hours=12)), pc.less(times, NOW + timedelta(hours=12))))
    online = {"feast-sqlite": "sqlite", "feast-redis": "redis"}.get(name, "packed-redis" if name.endswith("redis") else None)
    if name.startswith("tidegate-reader"):
        calls = asyncio.run(reader_calls(data, entities.slice(0, rows), service, online))
    else:
        calls = feast_calls(data, entities.slice(0, rows), service, online)
    return {
        "calls": len(calls),
        "p50_ms": statistics.median(calls),
        "p99_ms": float(np.percentile(calls, 99)),
        "mib_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def reader_calls(data: Path, rows: pa.Table, service: str, online: str | None) -> list[float]:
    """Return how many milliseconds each lookup took by the reader that the model server uses, from its event loop."""
    from tidegate.features.online import OnlineReader
    from tidegate.features.repository import FeatureRepository

    repository = FeatureRepository(*workspace_with(data, None, online))
    repository.apply()
    repository.materialize(NOW)
    contract = repository.contract(service)
    reader = OnlineReader.open(repository.online_store_uri, contract)
    keys = {key: rows[key].to_pylist() for key in contract.join_keys}
    await reader.read(keys, NOW)
    calls: list[float] = []
    end = time.perf_counter() + BUDGET_SECONDS / 2
    while len(calls) < 30 or (time.perf_counter() < end and len(calls) < 5000):
        start = time.perf_counter()
        await reader.read(keys, NOW)
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def feast_calls(data: Path, rows: pa.Table, service: str, online: str | None) -> list[float]:
    """Return the same of stock `get_online_features`, on stores of Feast's or ours; Feast itself materializes them."""
    store = feast_store(*workspace_with(data, None, online))
    store.materialize(datetime(2012, 1, 1, tzinfo=UTC), NOW)
    keys = rows.select(["carrier", "origin", "dest", "tailnum"]).to_pylist()
    features = store.get_feature_service(service)
    store.get_online_features(features, keys, full_feature_names=True)
    calls: list[float] = []
    end = time.perf_counter() + BUDGET_SECONDS / 2
    while len(calls) < 30 or (time.perf_counter() < end and len(calls) < 5000):
        start = time.perf_counter()
        store.get_online_features(features, keys, full_feature_names=True)
        calls.append((time.perf_counter() - start) * 1e3)
    return calls


def main() -> None:
    """Run one contestant and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["join", "lookup"])
    parser.add_argument("name", choices=[*JOINERS, *LOOKERS])
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    measure = measure_join if options.task == "join" else measure_lookup
    result = measure(options.name, options.data, options.rows, options.service)
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
