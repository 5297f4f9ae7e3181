"""Deployments of Standard mode, read as backends."""

from collections.abc import Mapping

from tidegate.deployment.kserve.applied import template_of
from tidegate.deployment.kserve.connection import Document
from tidegate.deployment.kserve.naming import REVISION_LABEL
from tidegate.deployment.kserve.view import Backend


def deployed(deployment: Document, percents: Mapping[str, int]) -> Backend:
    """Return the backend that a Deployment is; `percents` holds the shares of the traffic by the name of the Service."""
    name, template = deployment["metadata"]["name"], deployment["spec"]["template"]
    reason = _unready(deployment)
    return Backend(
        name=name,
        revision=str((template["metadata"].get("labels") or {}).get(REVISION_LABEL, "")),
        template=template_of(template),
        ready=not reason,
        reason=reason,
        percent=percents.get(name, 0),
        pods=tuple(sorted(deployment["spec"]["selector"]["matchLabels"].items())),
    )


def _unready(deployment: Document) -> str:
    """Return why a Deployment is not ready, or "": all its pods are of the current template, and enough are available."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return "Kubernetes has not taken up its Deployment yet"
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    for kind, bad in (("ReplicaFailure", "True"), ("Progressing", "False")):
        condition = conditions.get(kind)
        if condition is not None and condition["status"] == bad:
            return f"{condition.get('reason', kind)}: {condition.get('message', '')}".rstrip(": ")
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if updated < wanted or status.get("replicas", 0) > updated:
        return f"{updated} of {wanted} pods are of the current template"
    available_condition = conditions.get("Available")
    if available < min(wanted, 1) or (available_condition is not None and available_condition["status"] != "True"):
        return f"{available} of {wanted} pods are available"
    return ""
