"""A project with its object store in a temporary folder."""

from pathlib import Path

import pytest

from tidegate.project import Project, load_project
from tidegate.storage import ObjectStore, open_store


@pytest.fixture
def project(tmp_path: Path, project_text: str) -> Project:
    file = tmp_path / "tidegate.yaml"
    file.write_text(project_text)
    (tmp_path / "train.py").write_text("def train(data): ...\n")
    return load_project(file)


@pytest.fixture
def store(project: Project) -> ObjectStore:
    return open_store(project.store_uri)
