"""Loads a Feast repository's definitions in this process, wherever it lies, without leaving its modules behind."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.repo_config import RepoConfig, load_repo_config

from tidegate.errors import FeatureError, TidegateError

WORKSPACE_VARIABLE = "TIDEGATE_WORKSPACE"
_KINDS = (DataSource, Entity, FeatureView, OnDemandFeatureView, FeatureService)


def load_config(repository: Path, workspace: Path) -> RepoConfig:
    """Read `feature_store.yaml` of `repository`, in which `${TIDEGATE_WORKSPACE}` stands for `workspace`.

    Raises:
        FeatureError: There is no such file, or Feast refuses it.
    """
    file = repository / "feature_store.yaml"
    if not file.is_file():
        raise FeatureError(f"feature repository {repository}: no feature_store.yaml there; name a Feast repository folder")
    with _environment(workspace):
        try:
            return load_repo_config(repository, file)
        except Exception as error:  # Feast wraps no error of its own around YAML's, pydantic's and its importer's
            raise FeatureError(f"{file}: {_one_line(error)}") from error


def load_definitions(repository: Path, workspace: Path) -> list[Any]:
    """Run every Python file of `repository` and return the Feast objects they define, each once.

    The files see `TIDEGATE_WORKSPACE` and may import each other by name.

    Raises:
        FeatureError: A file fails, or none defines a feature view.
    """
    names = sorted(
        ".".join(file.relative_to(repository).with_suffix("").parts)
        for file in repository.rglob("*.py")
        if file.name != "__init__.py" and not any(part.startswith(".") for part in file.relative_to(repository).parts)
    )
    with _environment(workspace), _importable(repository, names):
        modules = [_import(repository, name) for name in names]
    objects = [value for module in modules for value in vars(module).values() if isinstance(value, _KINDS)]
    unique = list({id(value): value for value in objects}.values())
    if not any(isinstance(value, FeatureView) for value in unique):
        raise FeatureError(f"feature repository {repository}: no Python file in it defines a feature view")
    return unique


def _import(repository: Path, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except TidegateError:
        raise
    except Exception as error:  # a definition file may fail in any way
        raise FeatureError(f"feature repository {repository}: {name}.py fails: {_one_line(error)}") from error


@contextmanager
def _environment(workspace: Path) -> Iterator[None]:
    before = os.environ.get(WORKSPACE_VARIABLE)
    os.environ[WORKSPACE_VARIABLE] = str(workspace)
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKSPACE_VARIABLE]
        else:
            os.environ[WORKSPACE_VARIABLE] = before


@contextmanager
def _importable(repository: Path, names: list[str]) -> Iterator[None]:
    """Let the repository's files be imported by name, hiding modules that happen to be called the same meanwhile."""
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(repository))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(repository))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
