"""Where online rows are kept: in the project's cluster, or where its Feast repository says; found without importing Feast."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from tidegate.errors import FeatureError, ProjectError
from tidegate.features.online_file import online_uri
from tidegate.project import Project


def project_online_store(project: Project) -> str:
    """Return the address of a project's online store: its cluster's, or on one machine that of its Feast repository.

    Raises:
        ProjectError: It is to run on a cluster that has none.
        FeatureError: See `online_store_address`.
    """
    if project.target == "local":
        return online_store_address(project.paths.repository, project.paths.workspace)
    address = project.on_cluster.online_store
    if address is None:
        raise ProjectError(
            f"project file {project.file}: cluster.online_store: required, since model servers look up the features of "
            f"{project.features.service!r} by entity key; name a Redis, such as 'redis://redis.features:6379/0'"
        )
    return address


def online_store_address(repository: Path, workspace: Path) -> str:
    """Return the online store's address, as a model server opens it: `sqlite:///ABSOLUTE/PATH` or `redis://HOST:PORT/DB`.

    Args:
        repository: The folder that holds feature_store.yaml.
        workspace: What `${TIDEGATE_WORKSPACE}` stands for.

    Raises:
        FeatureError: The file is missing, is not YAML, or its online store has neither a path nor a connection string.
    """
    file = repository / "feature_store.yaml"
    try:
        settings = yaml.safe_load(Template(file.read_text(encoding="utf-8")).safe_substitute(TIDEGATE_WORKSPACE=workspace))
        return configured_address(settings["online_store"], repository)
    except OSError as error:
        raise FeatureError(f"{file}: {error.strerror}; name a Feast repository folder") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FeatureError(f"{file}: online_store.path: {' '.join(str(error).split())}; the model server needs it") from error


def configured_address(settings: Mapping[str, Any], repository: Path) -> str:
    """Return the address in the settings of a PackedOnlineStore: its `connection_string`, or else its `path`.

    Args:
        settings: The section `online_store` of feature_store.yaml.
        repository: The folder of that file, to which a path may be relative.

    Raises:
        KeyError, TypeError: There is neither.
    """
    if "connection_string" in settings and settings["connection_string"] is not None:
        return str(settings["connection_string"])
    return online_uri(repository / settings["path"])
