"""Bad data ends a release in one line that names what is wrong; nothing is trained, registered or left running."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.launcher import REPOSITORY
from tidegate.clock import ReplayClock
from tidegate.project import load_project
from tidegate.release.record import ReleaseLedger
from tidegate.storage import open_store

pytestmark = pytest.mark.timeout(300)


def rewrite(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(file)), file)


def as_text(table: pa.Table, column: str) -> pa.Table:
    position = table.schema.get_field_index(column)
    return table.set_column(position, column, pa.array(["2024"] * table.num_rows))


@pytest.mark.parametrize(
    ("spoil", "task", "message"),
    [
        pytest.param(
            lambda data: rewrite(data / "parcels.parquet", lambda table: table.drop_columns(["distance"])),
            "build-training-set",
            "parcels.parquet: no column 'distance'; it has parcel, asked_at",
            id="missing data column",
        ),
        pytest.param(
            lambda data: rewrite(data / "parcels.parquet", lambda table: as_text(table, "asked_at")),
            "build-training-set",
            "parcels.parquet: column 'asked_at' is string; a timestamp (UTC) is needed",
            id="wrong dtype",
        ),
        pytest.param(
            lambda data: rewrite(data / "parcels.parquet", lambda table: table.slice(table.num_rows - 10)),
            "build-training-set",
            "no labelled example in the window 2024-01-01T00:00:00+00:00 to 2024-03-01T00:00:00+00:00",
            id="empty window",
        ),
        pytest.param(
            lambda data: rewrite(data / "weather.parquet", lambda table: table.drop_columns(["rain"])),
            "materialize-features",
            "rain",
            id="missing feature column",
        ),
        pytest.param(
            lambda data: (data / "load.parquet").unlink(), "materialize-features", "load.parquet", id="missing feature source"
        ),
        pytest.param(
            lambda data: (data / "load.parquet").write_bytes(b"PAR1 not really"),
            "materialize-features",
            "load.parquet",
            id="feature source is no Parquet",
        ),
    ],
)
def test_bad_data_is_one_line_and_nothing_is_registered(world, tmp_path, spoil, task, message):
    until = world.week(1)[0]
    project, clock = copy_of(world, tmp_path, until)
    spoil(project.paths.workspace / "data")

    run = (sys.executable, "-m", "pipelines", "run", "release", "--local")
    given = ("--project", str(project.file), "--param", f"clock={clock.spec}")
    done = subprocess.run([*run, *given], cwd=REPOSITORY, capture_output=True, text=True, timeout=200)

    assert (done.returncode, done.stdout) == (1, "")
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: pipeline release failed: {task}: ")
    assert message in line
    assert "Traceback" not in done.stderr
    store = open_store(project.store_uri)
    assert [key for key in store.list() if not key.startswith("releases/")] == []
    [record] = ReleaseLedger(store, project.name).records()
    assert (record.state, record.version) == ("running", None)
    assert not list(project.paths.workspace.rglob("training_set"))


def copy_of(world, folder: Path, until: datetime):
    """Copy the project with its data to a folder of its own, its clock at `until`."""
    for name in ("feature_repo", "train.py", "tidegate.yaml"):
        source = world.root / name
        shutil.copytree(source, folder / name) if source.is_dir() else shutil.copy(source, folder / name)
    project = load_project(folder / "tidegate.yaml")
    shutil.copytree(world.workspace / "data", project.paths.workspace / "data")
    return project, ReplayClock.create(project.paths.workspace / "clock", until)
