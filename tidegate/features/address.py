"""Where a Feast repository keeps its online rows, read from feature_store.yaml without importing Feast."""

from pathlib import Path
from string import Template

import yaml

from tidegate.errors import FeatureError
from tidegate.features.online_file import online_uri


def online_store_address(repository: Path, workspace: Path) -> str:
    """Return the online store's address, as a model server opens it: `sqlite:///ABSOLUTE/PATH`.

    Args:
        repository: The folder that holds feature_store.yaml.
        workspace: What `${TIDEGATE_WORKSPACE}` stands for.

    Raises:
        FeatureError: The file is missing, is not YAML, or its online store has no path.
    """
    file = repository / "feature_store.yaml"
    try:
        settings = yaml.safe_load(Template(file.read_text(encoding="utf-8")).safe_substitute(TIDEGATE_WORKSPACE=workspace))
        path = Path(settings["online_store"]["path"])
    except OSError as error:
        raise FeatureError(f"{file}: {error.strerror}; name a Feast repository folder") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise FeatureError(f"{file}: online_store.path: {' '.join(str(error).split())}; the model server needs it") from error
    return online_uri(repository / path)
