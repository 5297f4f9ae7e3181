"""KServe's SDK and the Kubernetes client, imported when they are first needed: together they take seconds."""

from typing import Any

from tidegate.errors import DeploymentError


def kserve_models() -> Any:
    """Return the models of KServe's SDK; raises DeploymentError if it is not installed."""
    try:
        # A folder called kserve, such as this repository's, imports as an empty namespace: ask for what only the SDK has.
        from kserve import models
    except ImportError as error:
        raise _missing("KServe's SDK") from error
    return models


def kubernetes_models() -> Any:
    """Return the Kubernetes client, which holds the models of its API; raises DeploymentError if it is not installed."""
    try:
        from kubernetes import client
    except ImportError as error:
        raise _missing("the Kubernetes client") from error
    return client


def _missing(what: str) -> DeploymentError:
    return DeploymentError(f"{what} is not installed; run: pip install 'tidegate[cluster]'")
