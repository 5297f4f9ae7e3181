"""Revisions, read back from the predictors of a live InferenceService."""

from collections.abc import Mapping

from tidegate.deployment.inference_service import Revision
from tidegate.deployment.kserve.connection import Document
from tidegate.deployment.kserve.naming import REVISION_LABEL
from tidegate.deployment.kserve.pods import identity
from tidegate.errors import DeploymentError


def revision_name(predictor: Document) -> str:
    """Return the name of the revision that a predictor describes, or "" if Tidegate did not write it."""
    return str((predictor.get("labels") or {}).get(REVISION_LABEL, ""))


def read_revision(predictor: Document, known: Mapping[str, Revision]) -> Revision:
    """Return the revision that a predictor describes.

    Args:
        predictor: The predictor of a live InferenceService.
        known: The desired revisions by name: one that the predictor still says is returned as it is, since a predictor
            does not tell a setting from what the cluster section adds.

    Raises:
        DeploymentError: The predictor is not one that Tidegate writes.
    """
    name, model = revision_name(predictor), predictor.get("model") or {}
    uri, env = model.get("storageUri"), {entry["name"]: entry.get("value", "") for entry in model.get("env") or ()}
    if not name or not uri:
        raise DeploymentError(f"the predictor has no label {REVISION_LABEL} or no model.storageUri: Tidegate did not write it")
    expected = known.get(name)
    if expected is not None and uri == expected.storage_uri and expected.env.items() <= env.items():
        return expected
    return Revision(
        name=name,
        storage_uri=uri,
        env={key: value for key, value in env.items() if key not in _IDENTITY},
        min_replicas=predictor.get("minReplicas", 1),
    )


_IDENTITY = frozenset(identity("", Revision(name="v1", storage_uri="/")))
