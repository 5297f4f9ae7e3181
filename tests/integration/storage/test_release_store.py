"""A release on a store that cannot be relied on ends at its first step, in one line, with nothing written."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.launcher import REPOSITORY
from tidegate.storage import open_store

PROJECT = {
    "schema_version": 1,
    "name": "parcels",
    "task": "binary-classification",
    "workspace": "workspace",
    "features": {
        "repository": "feature_repo",
        "service": "parcels_v1",
        "entity_rows": "parcels.parquet",
        "id_column": "parcel",
        "request_inputs": ["distance"],
    },
    "label": {"column": "late", "known_at_column": "landed_at"},
    "training": {"function": "train:train", "window_days": 30, "holdout_days": 7},
    "gates": {"accuracy": {"minimum": 0.6}},
}


def release(folder: Path, store: str) -> str:
    """Run the release pipeline on `store`, which must fail, and return its one line."""
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump({**PROJECT, "store": store}))
    command = [sys.executable, "-m", "pipelines", "run", "release", "--local", "--project", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("✗")]
    return line


def test_store_that_ignores_conditional_writes(faulty_proxy: Any, s3_bucket: str, tmp_path: Path) -> None:
    faulty_proxy.strip_conditions = True

    line = release(tmp_path, f"s3://{s3_bucket}/team")

    assert line.startswith("error: pipeline release failed: materialize-features: ")
    assert f"store s3://{s3_bucket}/team: ignores conditional writes: it created a key that was taken" in line
    assert list(open_store(f"s3://{s3_bucket}/team").list()) == []


@pytest.mark.parametrize(
    "store",
    [
        pytest.param("/proc/store", id="kernel's own"),
        pytest.param("file/store", id="below a file"),
        pytest.param("/dev/full/store", id="below a device"),
    ],
)
def test_unwritable_store(tmp_path: Path, store: str) -> None:
    (tmp_path / "file").write_text("")

    line = release(tmp_path, store)

    assert line.startswith("error: pipeline release failed: materialize-features: store file:///")
    assert "cannot write" in line
    assert "Traceback" not in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tidegate.yaml", "workspace"]
    assert [path.name for path in (tmp_path / "workspace").iterdir()] == ["runs"]
