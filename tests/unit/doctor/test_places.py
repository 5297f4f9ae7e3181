"""What the doctor sees of a project's places."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tidegate.doctor.finding import Finding
from tidegate.doctor.places import examine_places
from tidegate.project import Project, load_project


@pytest.fixture
def project(tmp_path: Path, project_text: str) -> Project:
    (tmp_path / "tidegate.yaml").write_text(project_text)
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo/feature_store.yaml").write_text("project: flights\n")
    return load_project(tmp_path / "tidegate.yaml")


def found(project: Project, subject: str) -> Finding:
    return next(finding for finding in examine_places(project) if finding.subject == subject)


def test_everything_is_there(project: Project) -> None:
    assert {finding.state for finding in examine_places(project)} == {"ok"}
    assert "honours conditional writes" in found(project, "object store").found
    assert not list(project.paths.workspace.rglob("probe/*")), "the proof is removed again"


def test_no_feature_repository(project: Project) -> None:
    shutil.rmtree(project.paths.repository)

    finding = found(project, "feature repository")

    assert (finding.state, finding.fix) == ("missing", "correct features.repository")


def test_a_full_disk(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(1, 1, 2**29)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    assert "0.5 GiB are free" in found(project, "workspace").found


def test_a_store_that_is_not_a_folder(project: Project) -> None:
    project.paths.workspace.mkdir(parents=True)
    (project.paths.workspace / "store").write_text("a file")

    assert found(project, "object store").state == "missing"
