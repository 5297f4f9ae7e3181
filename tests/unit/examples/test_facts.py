"""The demo's comparison of versions: the same logged and labelled rows for every version that can read them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from examples.flights.facts import _Scores
from tidegate.monitoring.labels import record_labels
from tidegate.packaging.format.manifest import MANIFEST_NAME, Lineage, Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.inference import PackageModel
from tidegate.registry.registry import ModelRegistry
from tidegate.serving.inference_log.schema import input_column, log_partition, log_schema
from tidegate.storage.directory import DirectoryStore

START = datetime(2013, 4, 1, 4, tzinfo=UTC)
WEEK = timedelta(days=7)
TIME = pa.timestamp("us", tz="UTC")


class Log:
    """A registry of versions of the tiny package, and what they logged."""

    def __init__(self, root: Path, package: Path, examples: pa.Table) -> None:
        self.root, self.package, self.examples = root, package, examples
        self.store = DirectoryStore(root / "store")
        self.registry = ModelRegistry(self.store)
        self.manifests: dict[int, Manifest] = {}

    def release(self, trained_until: datetime, *, renamed: str = "route__delay") -> int:
        """Register a version that was trained until then, and that reads one feature under another name."""
        text = (self.package / MANIFEST_NAME).read_text().replace("route__delay", renamed)
        manifest = msgspec.json.decode(text, type=Manifest)
        lineage = Lineage(**dict.fromkeys(Lineage.__struct_fields__, "x") | {"window_end": trained_until.isoformat()})
        copy = self.root / f"package-{len(self.manifests)}"
        copy.mkdir()
        for file in self.package.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        (copy / MANIFEST_NAME).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, lineage=lineage)))
        version = self.registry.register(copy, reason="test")
        self.manifests[version] = read_manifest(copy)
        return version

    def write(self, version: int, at: datetime, rows: pa.Table, *, status: int = 200) -> None:
        """Log the rows as asked of `version` at `at`, and their labels a day later."""
        manifest, count = self.manifests[version], rows.num_rows
        ids = pa.array([f"v{version}-{name}/0" for name in rows["flight_id"].to_pylist()])
        columns = {
            "prediction_id": ids,
            "request_id": ids,
            "row": np.zeros(count, np.int32),
            "model": ["tiny"] * count,
            "version": [str(version)] * count,
            "revision": [f"v{version}"] * count,
            "event_time": pa.array([at] * count, TIME),
            "logged_at": pa.array([at] * count, TIME),
            "status": np.full(count, status, np.int16),
            "cache_hit": [False] * count,
            "latency_us": np.zeros(count, np.int64),
        }
        columns |= {input_column(spec): rows[spec.name] for spec in manifest.signature.inputs if spec.name in rows.column_names}
        schema = log_schema(manifest)
        table = pa.table({field.name: columns.get(field.name, pa.nulls(count, field.type)) for field in schema}, schema=schema)
        path = self.root / f"{version}-{at:%m%d}-{status}.parquet"
        pq.write_table(table, path)
        self.store.upload(f"{log_partition('tiny', str(version), at)}{path.name}", path)
        known_at = pa.array([at + timedelta(days=1)] * count, TIME)
        if status == 200:
            record_labels(self.store, "tiny", pa.table({"prediction_id": ids, "label": rows["label"], "known_at": known_at}))

    def scores(self, workdir: Path) -> _Scores:
        project = SimpleNamespace(name="tiny", store_uri=self.store.uri)
        run = SimpleNamespace(project=project, replayed_from=START, replay=SimpleNamespace(now=START + 2 * WEEK))
        return _Scores(run, self.registry, self.manifests, workdir)


@pytest.fixture
def log(tmp_path: Path, tiny_package: Path, tiny_examples: pa.Table) -> Log:
    log = Log(tmp_path, tiny_package, tiny_examples)
    log.release(START)
    log.write(1, START + timedelta(days=1), tiny_examples.slice(0, 300))
    return log


def auc(package: Path, rows: pa.Table) -> float:
    return roc_auc_score(rows["label"].to_numpy(), PackageModel(package).predict(rows))


def test_quality_is_the_auc_of_the_logged_rows_by_week(log, tmp_path, tiny_package, tiny_examples):
    log.write(1, START + timedelta(days=8), tiny_examples.slice(300, 200))

    weeks = log.scores(tmp_path / "work").weekly()

    assert [(week.version, week.start, week.rows) for week in weeks] == [(1, START, 300), (1, START + WEEK, 200)]
    expected = [auc(tiny_package, tiny_examples.slice(0, 300)), auc(tiny_package, tiny_examples.slice(300, 200))]
    assert [week.auc for week in weeks] == pytest.approx(expected)
    assert all(week.low < week.auc < week.high for week in weeks)


def test_versions_are_compared_on_the_rows_after_the_newer_one_s_training(log, tmp_path, tiny_examples):
    log.release(START + WEEK)
    log.write(2, START + timedelta(days=8), tiny_examples.slice(300, 200))

    scores = log.scores(tmp_path / "work")

    [comparison] = scores.comparisons()
    assert (comparison.old_version, comparison.new_version, comparison.rows) == (1, 2, 200)
    assert comparison.old_auc == comparison.new_auc
    assert comparison.difference_low <= 0 <= comparison.difference_high
    assert [(week.version, week.start) for week in scores.weekly()] == [(1, START), (1, START + WEEK), (2, START + WEEK)]


@pytest.mark.parametrize("failed", [pytest.param(True, id="its requests failed"), pytest.param(False, id="it was never asked")])
def test_version_whose_features_nobody_answered_with_is_not_scored(log, tmp_path, tiny_examples, failed):
    challenger = log.release(START, renamed="route__other")
    if failed:
        log.write(challenger, START + timedelta(days=2), tiny_examples.slice(300, 50), status=503)

    scores = log.scores(tmp_path / "work")

    assert {week.version for week in scores.weekly()} == {1}
    assert not scores.comparisons()
    assert scores.notes() == (
        f"Version {challenger} reads features that no other version logged, so it is not scored on the same rows.",
    )


def test_share_of_late_flights_is_that_of_the_labels(log, tmp_path, tiny_examples):
    [share] = log.scores(tmp_path / "work").late_shares()

    assert (share.start, share.rows) == (START, 300)
    assert share.share == pytest.approx(tiny_examples["label"].to_numpy()[:300].mean())
