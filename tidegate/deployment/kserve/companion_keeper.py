"""Keeps the documents that accompany an InferenceService: made, brought up to date, and removed when they are not wanted.

They are owned by the InferenceService, so Kubernetes removes them with it.
"""

from typing import Any

from tidegate.deployment.inference_service import API_VERSION, Service
from tidegate.deployment.kserve.autoscaling import PROMETHEUS_AUTHENTICATION
from tidegate.deployment.kserve.companions import companion_documents
from tidegate.deployment.kserve.connection import (
    SCALED_OBJECTS,
    TRIGGER_AUTHENTICATIONS,
    Connection,
    Document,
    Forbidden,
    NoSuchApi,
)
from tidegate.deployment.kserve.naming import MANAGED_BY, MANAGED_BY_LABEL
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection


class CompanionKeeper:
    """Keeps the companions of one namespace's services, by the project's cluster section."""

    def __init__(self, cluster: ClusterSection, *, in_place: bool) -> None:
        self._cluster = cluster
        self._in_place = in_place
        self._done: dict[str, tuple[str, list[Document]]] = {}

    def keep(self, api: Connection, desired: Service, live: Document) -> None:
        """Bring the companions of `live` in line with `desired`; nothing is asked of the cluster if that was done before.

        In Knative mode there are none.

        Raises:
            DeploymentError: KEDA is not installed though it is needed, or an object of that name is somebody else's.
            Stale: Somebody wrote one at the same moment.
        """
        if self._cluster.mode == "Knative":
            return
        wanted = companion_documents(desired, self._cluster, in_place=self._in_place)
        uid = live["metadata"]["uid"]
        if self._done.get(desired.name) == (uid, wanted):
            return
        by_kind = {document["kind"]: _owned(document, live) for document in wanted}
        self._keep_scaled_object(api, by_kind.get("ScaledObject"), desired)
        self._keep_authentication(api, by_kind.get("TriggerAuthentication"), desired)
        self._done[desired.name] = (uid, wanted)

    def _keep_scaled_object(self, api: Connection, wanted: Document | None, desired: Service) -> None:
        try:
            found = api.read(SCALED_OBJECTS, desired.namespace, desired.name)
        except (NoSuchApi, Forbidden):
            if wanted is not None:
                raise
            return
        if found is not None and not _is_ours(found, needed=wanted is not None):
            return
        if found is None and wanted is not None:
            api.create(SCALED_OBJECTS, wanted)
        elif found is not None and wanted is None:
            api.delete(SCALED_OBJECTS, found)
        elif found is not None and wanted is not None and found.get("spec") != wanted["spec"]:
            api.replace(SCALED_OBJECTS, {**found, "spec": wanted["spec"]})

    def _keep_authentication(self, api: Connection, wanted: Document | None, desired: Service) -> None:
        if wanted is None:  # it grants nothing by itself, and may serve another service of the namespace
            return
        found = api.read(TRIGGER_AUTHENTICATIONS, desired.namespace, PROMETHEUS_AUTHENTICATION)
        if found is None:
            api.create(TRIGGER_AUTHENTICATIONS, wanted)
        elif _is_ours(found, needed=True) and found.get("spec") != wanted["spec"]:
            api.replace(TRIGGER_AUTHENTICATIONS, {**found, "spec": wanted["spec"]})


def _owned(document: Document, live: Document) -> Document:
    if document["kind"] == "TriggerAuthentication":
        return document
    owner: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "name": live["metadata"]["name"],
        "uid": live["metadata"]["uid"],
    }
    return {**document, "metadata": {**document["metadata"], "ownerReferences": [owner]}}


def _is_ours(found: Document, *, needed: bool) -> bool:
    metadata = found["metadata"]
    if (metadata.get("labels") or {}).get(MANAGED_BY_LABEL) == MANAGED_BY:
        return True
    if needed:
        raise DeploymentError(
            f"{found['kind']} {metadata['namespace']}/{metadata['name']} is not Tidegate's, but stands where its own would be; "
            "remove or rename it"
        )
    return False
