"""Whether the places that a project names can be used: its workspace, its object store, its feature repository."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tidegate.doctor.finding import Finding, examine
from tidegate.errors import StorageError
from tidegate.project import Project
from tidegate.storage import open_store
from tidegate.storage.probe import probe_conditional_writes

_LEAST_FREE_GIB = 2.0


def examine_places(project: Project) -> Iterator[Finding]:
    """Yield what is found at each of the project's places."""
    yield Finding("project file", "ok", f"{project.name}, target {project.target}")
    yield examine("object store", lambda: _store(project), "check the address, that the bucket is there, and the AWS settings")
    if project.target == "local":
        yield examine("workspace", lambda: _workspace(project.paths.workspace))
    repository = project.paths.repository / "feature_store.yaml"
    if repository.is_file():
        yield Finding("feature repository", "ok", str(project.paths.repository))
    else:
        yield Finding("feature repository", "missing", f"no {repository}", "correct features.repository")


def _store(project: Project) -> str:
    probe_conditional_writes(open_store(project.store_uri))
    return f"{project.store_uri} honours conditional writes"


def _workspace(workspace: Path) -> str:
    there = next(path for path in (workspace, *workspace.parents) if path.exists())
    if not os.access(there, os.W_OK):
        raise StorageError(f"{workspace} cannot be written; correct workspace, or its owner")
    free = shutil.disk_usage(there).free / 2**30
    if free < _LEAST_FREE_GIB:
        raise StorageError(f"{workspace}: {free:.1f} GiB are free, and a release needs about {_LEAST_FREE_GIB:g}")
    return f"{workspace}, {free:.0f} GiB free"
