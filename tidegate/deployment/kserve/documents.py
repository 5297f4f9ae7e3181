"""InferenceService documents for a cluster, from a `Service` and the project's cluster section, in both canary dialects.

    document = standard_document(service, cluster)                          # spec.canary[], Gateway API
    document = knative_document(service, cluster, latest=v2, percent=5)     # canaryTrafficPercent, Knative revisions
    read_service(document) == service

The documents are built with the models of KServe's SDK, checked (`rules.py`) before they are returned, and equal for equal
arguments. The SDK takes seconds to import, so it is imported when the first document is built.
"""

import json
from dataclasses import asdict
from typing import Any

from tidegate.deployment.inference_service import API_VERSION, MODE_ANNOTATION, Revision, Service
from tidegate.deployment.kserve.autoscaling import Scaling, knative_scaling, standard_scaling
from tidegate.deployment.kserve.naming import (
    ENDPOINT_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    MASKED,
    REVISION_LABEL,
    SERVICE_ANNOTATION,
    TAG_ROUTING_ANNOTATION,
)
from tidegate.deployment.kserve.pods import environment, grace, lifecycle, placement, ports, resources, shared_memory
from tidegate.deployment.kserve.replicas import standard_replicas
from tidegate.deployment.kserve.rules import check_document
from tidegate.deployment.kserve.sdk import kserve_models, kubernetes_models
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection


def standard_document(service: Service, cluster: ClusterSection, *, in_place: bool = False) -> dict[str, Any]:
    """Return the InferenceService of `service` for Standard mode: a Deployment for each revision, split by Gateway API.

    While there is a canary both keep what their share of the traffic needs (`replicas.py`).

    KServe's payload logger sees a canary's requests only once it is promoted: until then the canary's Service leads past
    the logger's container (reconcileCanaryDeployments in the same file passes no logger on; service_reconciler.go).
    Tidegate's own inference log has them all.

    Args:
        service: What should run.
        cluster: The project's cluster section.
        in_place: One Deployment, whose pods are replaced one after another without a surge, so that a second accelerator is
            never needed; there is no canary then.

    Returns:
        The document as plain dicts and lists.

    Raises:
        DeploymentError: The cluster is in Knative mode, `in_place` is asked for with a canary, or KServe or Kubernetes
            would refuse the document.
    """
    if cluster.mode != "Standard":
        raise DeploymentError("cluster.mode is Knative, whose webhook refuses spec.canary; build the Knative document")
    if in_place and service.canary is not None:
        raise DeploymentError(
            f"service {service.name} is replaced in place, so there can be no canary {service.canary.name}; "
            "set rollout.strategy to canary, or remove the canary"
        )
    replicas = standard_replicas(service, spare_capacity=cluster.serving.accelerator is None)
    scaling = standard_scaling(cluster, replicas.stable)
    predictor = _predictor(service.name, service.stable, cluster, scaling, replicas=replicas.stable, fields=scaling.fields)
    spec: dict[str, Any] = {}
    if in_place:
        predictor.deployment_strategy = _one_after_another()
    else:
        predictor.name = service.stable.name
    if service.canary is not None:
        spec["canary"] = [_canary(service, service.canary, cluster, scaling, replicas.canary)]
    return _document(service, predictor, annotations={MODE_ANNOTATION: "Standard", **scaling.annotations}, **spec)


def knative_document(service: Service, cluster: ClusterSection, *, latest: Revision, percent: int | None) -> dict[str, Any]:
    """Return the InferenceService of `service` for Knative mode: one predictor, whose versions are Knative's revisions.

    Tag routing is on, so that a revision with 0 percent can be reached, and keeps its replicas.

    Knative must be told to allow some of what a project can ask for, in the ConfigMap config-features of its namespace:
    kubernetes.podspec-nodeselector, -tolerations, -runtimeclassname and -topologyspreadconstraints. It refuses timeouts
    over max-revision-timeout-seconds, by default 600 (ConfigMap config-defaults).

    Args:
        service: What should run; its namespace and name, and what `read_service` finds again.
        cluster: The project's cluster section.
        latest: The revision that the predictor describes: the stable, the canary, or, after a rollback, the revision that
            was rolled back and gets nothing.
        percent: `canaryTrafficPercent`, the share of `latest` (0 to 100); None gives it everything. It splits only once
            another revision was rolled out: before that KServe gives `latest` everything whatever it says
            (reconcilers/knative/ksvc_reconciler.go, createKnativeService; KServe at aaac4e2).

    Returns:
        The document as plain dicts and lists.

    Raises:
        DeploymentError: The cluster is in Standard mode, the percent is out of range, `latest` would get traffic that
            `service` does not give it, or KServe or Kubernetes would refuse the document.
    """
    if cluster.mode != "Knative":
        raise DeploymentError("cluster.mode is Standard, where canaryTrafficPercent is ignored; build the Standard document")
    _check_share(service, latest, percent)
    scaling = knative_scaling(cluster, latest.min_replicas)
    predictor = _predictor(service.name, latest, cluster, scaling, replicas=latest.min_replicas, fields=scaling.fields)
    predictor.canary_traffic_percent = percent
    annotations = {MODE_ANNOTATION: "Knative", TAG_ROUTING_ANNOTATION: "true", **scaling.annotations}
    return _document(service, predictor, annotations=annotations)


def read_service(document: dict[str, Any]) -> Service:
    """Return the service that a document of either dialect was built from.

    It is what Tidegate asked for last, even if somebody edited the rest of the document since; build the document again and
    compare to notice that.

    Raises:
        DeploymentError: Tidegate did not write the document, or the annotation is damaged.
    """
    try:
        metadata = document["metadata"]
        named, raw = metadata["name"], (metadata.get("annotations") or {}).get(SERVICE_ANNOTATION)
    except (KeyError, TypeError, AttributeError) as error:
        raise DeploymentError(f"InferenceService document is malformed: {error!r}") from error
    if raw is None:
        raise DeploymentError(
            f"InferenceService {named} has no annotation {SERVICE_ANNOTATION}: Tidegate did not write it; choose another name"
        )
    try:
        fields = json.loads(raw)
        canary = fields["canary"]
        service = Service(
            name=fields["name"],
            namespace=fields["namespace"],
            stable=Revision(**fields["stable"]),
            canary=Revision(**canary) if canary is not None else None,
            canary_percent=fields["canary_percent"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeploymentError(
            f"InferenceService {named}: annotation {SERVICE_ANNOTATION} is damaged: {error!r}; deploy again"
        ) from error
    if service.name != named:
        raise DeploymentError(
            f"InferenceService {named}: annotation {SERVICE_ANNOTATION} is about {service.name!r}; remove the copy"
        )
    return service


def _check_share(service: Service, latest: Revision, percent: int | None) -> None:
    if percent is not None and not 0 <= percent <= 100:
        raise DeploymentError(f"canaryTrafficPercent {percent} must lie between 0 and 100; nothing in KServe checks it")
    if latest.name == service.stable.name:
        return
    if percent is None:
        raise DeploymentError(
            f"revision {latest.name} without canaryTrafficPercent would get all traffic, "
            f"but the stable is {service.stable.name}; give a percent"
        )
    if percent > 0 and (service.canary is None or latest.name != service.canary.name):
        raise DeploymentError(f"revision {latest.name} is neither stable nor canary; it may get 0 percent, not {percent}")


def _predictor(
    service: str,
    revision: Revision,
    cluster: ClusterSection,
    scaling: Scaling,
    *,
    replicas: int,
    fields: dict[str, Any],
) -> Any:
    models = kserve_models()
    pods = cluster.serving
    volumes, mounts = shared_memory(pods)
    in_standard_mode = cluster.mode == "Standard"
    return models.V1beta1PredictorSpec(
        min_replicas=replicas,
        service_account_name=pods.service_account,
        timeout=pods.request_timeout_seconds,
        labels={REVISION_LABEL: revision.name, ENDPOINT_LABEL: revision.name},
        annotations={SERVICE_ANNOTATION: MASKED, **scaling.predictor_annotations},
        logger=models.V1beta1LoggerSpec(mode="all", url=pods.log_payloads_to) if pods.log_payloads_to else None,
        volumes=volumes or None,
        termination_grace_period_seconds=grace(revision) if in_standard_mode else None,
        model=models.V1beta1ModelSpec(
            model_format=models.V1beta1ModelFormat(name="onnx"),
            protocol_version="v2",
            runtime=pods.runtime,
            storage_uri=revision.storage_uri,
            env=environment(service, revision, cluster),
            resources=resources(pods),
            volume_mounts=mounts or None,
            **({"ports": ports(), "lifecycle": lifecycle()} if in_standard_mode else {}),
        ),
        **placement(service, revision, pods),
        **fields,
    )


def _canary(service: Service, canary: Revision, cluster: ClusterSection, scaling: Scaling, replicas: int) -> Any:
    models = kserve_models()
    predictor = _predictor(service.name, canary, cluster, scaling, replicas=replicas, fields={})
    predictor.name = canary.name
    predictor.annotations = {**predictor.annotations, **scaling.canary_annotations}
    return models.V1beta1CanarySpec(traffic_percent=service.canary_percent, predictor=predictor)


def _one_after_another() -> Any:
    client = kubernetes_models()
    return client.V1DeploymentStrategy(
        type="RollingUpdate",
        rolling_update=client.V1RollingUpdateDeployment(max_surge=0, max_unavailable=1),
    )


def _document(service: Service, predictor: Any, *, annotations: dict[str, str], **spec: Any) -> dict[str, Any]:
    client, models = kubernetes_models(), kserve_models()
    built = models.V1beta1InferenceService(
        api_version=API_VERSION,
        kind="InferenceService",
        metadata=client.V1ObjectMeta(
            name=service.name,
            namespace=service.namespace,
            labels={MANAGED_BY_LABEL: MANAGED_BY},
            annotations={**annotations, SERVICE_ANNOTATION: _canonical(service)},
        ),
        spec=models.V1beta1InferenceServiceSpec(predictor=predictor, **spec),
    )
    document: dict[str, Any] = client.ApiClient().sanitize_for_serialization(built)
    check_document(document)
    return document


def _canonical(service: Service) -> str:
    return json.dumps(asdict(service), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
