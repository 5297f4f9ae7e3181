"""What docs/inference-log.md shows is so: its queries run on a log, and its table names the columns there are."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.unit.serving.inference_log.records import record, row_record
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.inference_log.limits import LogLimits
from tidegate.serving.inference_log.log import InferenceLog
from tidegate.serving.inference_log.schema import FIXED_COLUMNS
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.storage import open_store

TEXT = (Path(__file__).parents[4] / "docs" / "inference-log.md").read_text()


@pytest.fixture
def run(tiny_manifest: Manifest, metric: Any, tmp_path: Path) -> Callable[[str], list[Any]]:
    """Run one of the document's queries on a log of four rows of three requests, one of them asked twice."""
    log = InferenceLog(
        open_store(str(tmp_path)),
        tiny_manifest,
        model="flights",
        version="1",
        revision="v1",
        limits=LogLimits(),
        metrics=WorkerMetrics(metric.memory, 0),
    )
    for each in (record("a"), record("a"), row_record("b"), record("c", rows=1, failed=True)):
        log.add(each)
    log.close()
    connection = duckdb.connect()

    def query(sql: str) -> list[Any]:
        return connection.sql(sql.replace(".tidegate/store", str(tmp_path))).fetchall()

    view, *_ = queries()
    connection.execute(view.replace(".tidegate/store", str(tmp_path)))
    return query


def queries() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)


def test_its_queries_run(run: Callable[[str], list[Any]]) -> None:
    _, by_status, metadata = queries()
    assert run(by_status) == [(200, 3, 2, 3.0, 42), (503, 1, 1, 1.0, 42)]
    assert run(metadata) == [("tidegate.sample_share", "1.0")]


def test_its_table_names_every_fixed_column() -> None:
    named = [name for line in re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE) for name in re.findall(r"`(\w+)`", line)]
    assert [name for name in named if name in FIXED_COLUMNS.names] == FIXED_COLUMNS.names
