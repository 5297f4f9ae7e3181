"""Batch scoring: what it refuses, and that nothing half-written is left."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import small_packages
from tidegate.errors import DataError, PackageError, RegistryError, StorageError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.release import batch

START = datetime(2013, 4, 1, tzinfo=UTC)
END = START + timedelta(hours=200)


class JoinedRepository:
    """Entity rows that hold their features already."""

    def __init__(self, contract) -> None:
        self.contract = lambda service: contract

    def training_set(self, rows: pa.Table, service: str, timestamp_column: str) -> pa.Table:
        known = pa.array(np.linspace(0, 30, rows.num_rows), pa.float32())
        return rows.append_column("weather__temp", known).append_column("route__delay", known)


@pytest.fixture
def project(tmp_path: Path, project_text: str, tiny_package, tiny_contract, tiny_examples, monkeypatch) -> Project:
    """A project whose champion is the tiny package, with one example an hour."""
    (tmp_path / "data").mkdir()
    moments = pa.array([START + timedelta(hours=hour) for hour in range(300)], pa.timestamp("us", tz="UTC"))
    rows = tiny_examples.slice(0, 300).drop_columns(["weather__temp", "route__delay", "split"])
    columns = {"event_timestamp": moments, "late": rows["label"], "landed_at": moments}
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    pq.write_table(rows, tmp_path / "data" / "flights.parquet")
    text = project_text.replace("name: flights-late", "name: tiny").replace(
        "[carrier, distance]", "[carrier, origin, distance, hour]"
    )
    (tmp_path / "tidegate.yaml").write_text(text)
    project = load_project(tmp_path / "tidegate.yaml")
    registry = ModelRegistry(batch.open_store(project.store_uri))
    registry.register(tiny_package, reason="initial")
    registry.move_alias("tiny", "champion", 1, reason="initial", expected=None)
    monkeypatch.setattr(batch, "open_repository", lambda project: JoinedRepository(tiny_contract))
    return project


def score(project: Project, out: Path, *, start: datetime = START, end: datetime = END, alias: str = "champion"):
    return batch.score_window(project, start=start, end=end, alias=alias, out=out)


def test_window_is_scored_by_the_champion(project, tmp_path, tiny_package):
    scored = score(project, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert (scored.rows, scored.version, table.num_rows) == (200, 1, 200)
    assert scored.uri.endswith("/batch/tiny/version=1/20130401T000000Z_20130409T080000Z.parquet")
    assert pq.read_table(scored.uri.removeprefix("file://")).equals(table)
    assert table["flight_id"].to_pylist() == [f"f{row:04d}" for row in range(200)]
    assert table["probability"].to_numpy() == pytest.approx(PackageModel(tiny_package).predict(table))
    expected = ["late" if probability >= 0.5 else "on-time" for probability in table["probability"].to_pylist()]
    assert table["class"].to_pylist() == expected


def test_scoring_again_replaces_the_file(project, tmp_path):
    first, again = score(project, tmp_path / "a.parquet"), score(project, tmp_path / "b.parquet")

    assert first == again
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param({"start": END, "end": START}, DataError, "start 2013-04-09T08:00:00.* must lie before end", id="turned"),
        pytest.param({"end": START}, DataError, "must lie before end 2013-04-01T00:00:00", id="no-time-at-all"),
        pytest.param({"alias": "canary"}, RegistryError, "model 'tiny' has no alias 'canary'; release a version", id="alias"),
        pytest.param(
            {"start": START + timedelta(days=100), "end": START + timedelta(days=101)},
            DataError,
            "no example in the window 2013-07-10.*flights.parquet holds rows from 2013-04-01.* to 2013-04-13",
            id="empty-window",
        ),
    ],
)
def test_refusal_is_one_line_and_writes_nothing(project, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        score(project, tmp_path / "out.parquet", **arguments)

    assert "\n" not in str(caught.value)
    assert nothing_was_written(project, tmp_path)


def test_corrupted_version_is_refused(project, tmp_path):
    [graph] = project.paths.workspace.rglob(MODEL_NAME)
    graph.chmod(0o644)
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")

    with pytest.raises(PackageError, match=rf"{MODEL_NAME} has sha256"):
        score(project, tmp_path / "out.parquet")

    assert nothing_was_written(project, tmp_path)


def test_unwritable_store_is_refused(project, tmp_path):
    (project.paths.workspace / "store" / "batch").write_text("in the way")

    with pytest.raises(StorageError, match="batch"):
        score(project, tmp_path / "out.parquet")


def test_model_without_a_version_is_refused(project, tmp_path):
    shutil.rmtree(project.paths.workspace / "store")

    with pytest.raises(RegistryError, match="model 'tiny' has no alias 'champion'; release a version first"):
        score(project, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("yesterday", id="words"),
        pytest.param("2013-04-01", id="no-zone"),
        pytest.param("2013-04-01T04:00:00", id="time-without-zone"),
        pytest.param("", id="empty"),
    ],
)
def test_limit_of_a_window_is_a_time_with_a_zone(text):
    with pytest.raises(DataError, match=f"start '{text}' is not a time with a zone; give one such as 2013-02-01T00:00"):
        batch.read_moment("start", text)


def test_limit_of_a_window_is_read():
    assert batch.read_moment("start", "2013-04-01T00:00:00-04:00") == START + timedelta(hours=4)


def nothing_was_written(project: Project, tmp_path: Path) -> bool:
    return not (tmp_path / "out.parquet").exists() and not (project.paths.workspace / "store" / "batch").exists()


@pytest.mark.parametrize(
    ("make", "added"),
    [
        pytest.param(small_packages.multiclass, ["probabilities", "class"], id="many classes"),
        pytest.param(small_packages.regression, ["prediction"], id="regression"),
    ],
)
def test_other_tasks_are_scored_with_their_own_outputs(make, added, project_text, tmp_path, monkeypatch):
    package = make(tmp_path / "package")
    manifest, golden = read_manifest(package), read_golden(package / GOLDEN_NAME)
    inputs = {name: array.reshape(-1).tolist() for name, array in golden.inputs.items()}
    examples = pa.table({"flight_id": list("abcdef"), "event_timestamp": [START] * 6} | inputs)
    text = project_text.replace("name: flights-late", f"name: {manifest.name}")
    (tmp_path / "tidegate.yaml").write_text(text.replace("[carrier, distance]", f"[{', '.join(inputs)}]"))
    project = load_project(tmp_path / "tidegate.yaml")
    registry = ModelRegistry(batch.open_store(project.store_uri))
    registry.register(package, reason="initial")
    registry.move_alias(manifest.name, "champion", 1, reason="initial", expected=None)
    monkeypatch.setattr(batch, "open_repository", lambda project: None)
    monkeypatch.setattr(batch, "join_window", lambda project, repository, start, end: examples)

    score(project, tmp_path / "out.parquet")

    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["flight_id", "event_timestamp", *inputs, *added]
    [name] = golden.outputs
    expected = golden.outputs[name]
    assert np.array(table[name].to_pylist(), np.float32) == pytest.approx(expected)
    if "class" in added:
        assert table["class"].to_pylist() == [manifest.classes[best] for best in expected.argmax(axis=1)]
