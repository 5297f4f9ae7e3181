"""The rules by which KServe's webhooks and Kubernetes refuse an InferenceService, checked before it is sent."""

from typing import Any

from tidegate.deployment.inference_service import MODE_ANNOTATION
from tidegate.errors import DeploymentError


def check_document(document: dict[str, Any]) -> None:
    """Check an InferenceService document; raises DeploymentError for the first rule that it breaks."""
    mode = document["metadata"]["annotations"].get(MODE_ANNOTATION)
    if mode not in ("Standard", "Knative"):
        raise DeploymentError(f"annotation {MODE_ANNOTATION} is {mode!r}; set 'Standard' or 'Knative'")
