"""What the number of a predictor's replicas follows: the annotations and fields that KServe, Knative and KEDA read."""

import math
from dataclasses import dataclass, field
from typing import Any

from tidegate.deployment.kserve.naming import (
    AUTOSCALER_ANNOTATION,
    KNATIVE_CLASS_ANNOTATION,
    KNATIVE_HPA,
    KNATIVE_METRIC_ANNOTATION,
    KNATIVE_TARGET_ANNOTATION,
)
from tidegate.deployment.kserve.quantity import mebibytes
from tidegate.deployment.kserve.sdk import kserve_models
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

_STANDARD_CLASSES = {"none": "none", "cpu": "hpa", "memory": "hpa", "prometheus": "keda", "kafka": "external"}
PROMETHEUS_AUTHENTICATION = "tidegate-prometheus"


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the replicas of an InferenceService's stable predictor are chosen.

    Attributes:
        annotations: Of the InferenceService.
        predictor_annotations: Of each predictor.
        canary_annotations: Of a canary, which has a fixed number of replicas.
        fields: Of the stable predictor, by the names of the SDK's models.
    """

    annotations: dict[str, str] = field(default_factory=dict)
    predictor_annotations: dict[str, str] = field(default_factory=dict)
    canary_annotations: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)


def standard_scaling(cluster: ClusterSection, minimum: int) -> Scaling:
    """Return the scaling in Standard mode, by HPA, KEDA or nothing.

    With KEDA a canary takes the class `none`: KServe would make it a ScaledObject without triggers, which KEDA's schema
    refuses (reconcilers/keda/keda_reconciler.go, createKedaScaledObject; KServe at aaac4e2). The annotation is on its pods
    too, so they restart, one after another, when it is promoted. A lag of Kafka is not among the metrics that KServe
    knows: the class is then `external`, and `companions.py` writes the ScaledObject.

    Args:
        cluster: The project's cluster section.
        minimum: Replicas kept without traffic.

    Raises:
        DeploymentError: KEDA is to ask a Prometheus that the project does not name.
    """
    pods = cluster.serving
    by = pods.autoscaling.by
    scaler = _STANDARD_CLASSES.get(by)
    if scaler is None:
        raise DeploymentError(f"cluster.serving.autoscaling.by {by} is Knative's; in Standard mode use cpu or memory")
    annotations = {AUTOSCALER_ANNOTATION: scaler}
    if scaler == "none":
        return Scaling(annotations=annotations)
    maximum = {"max_replicas": max(pods.max_replicas, minimum)}
    if scaler == "hpa":
        metric = {"scale_metric": by, "scale_target": pods.autoscaling.target}
        return Scaling(annotations=annotations, fields={**maximum, **metric})
    return Scaling(
        annotations=annotations,
        canary_annotations={AUTOSCALER_ANNOTATION: "none"},
        fields={**maximum, "auto_scaling": _prometheus(cluster)} if scaler == "keda" else {},
    )


def knative_scaling(cluster: ClusterSection, minimum: int) -> Scaling:
    """Return the scaling in Knative mode, by its own autoscaler or by its HPA class.

    Knative reads a memory target as MiB for a pod, and KServe's webhook refuses a scaleTarget over 100, so that target
    goes to Knative's own annotations.

    Args:
        cluster: The project's cluster section.
        minimum: Replicas kept without traffic.

    Raises:
        DeploymentError: HPA is asked to scale to zero, or the autoscaler is KEDA's.
    """
    pods = cluster.serving
    by, target = pods.autoscaling.by, pods.autoscaling.target
    maximum = {"max_replicas": max(pods.max_replicas, minimum, 1)}
    if by == "none":
        return Scaling(fields=maximum)
    if by in ("concurrency", "rps"):
        return Scaling(fields={**maximum, "scale_metric": by, "scale_target": target})
    if by not in ("cpu", "memory"):
        raise DeploymentError(f"cluster.serving.autoscaling.by {by} is KEDA's, which KServe uses in Standard mode only")
    if minimum == 0:
        raise DeploymentError(
            f"cluster.serving.min_replicas 0 with autoscaling by {by}: an HPA never scales to zero; "
            "use concurrency or rps, or set min_replicas to at least 1"
        )
    annotations = {KNATIVE_CLASS_ANNOTATION: KNATIVE_HPA}
    if by == "cpu":
        return Scaling(annotations=annotations, fields={**maximum, "scale_metric": by, "scale_target": target})
    memory = math.ceil(mebibytes(pods.memory) * target / 100)
    return Scaling(
        annotations=annotations,
        predictor_annotations={KNATIVE_METRIC_ANNOTATION: by, KNATIVE_TARGET_ANNOTATION: str(memory)},
        fields=maximum,
    )


def _prometheus(cluster: ClusterSection) -> Any:
    models = kserve_models()
    if cluster.prometheus is None:
        raise DeploymentError(
            "cluster.serving.autoscaling.by prometheus needs cluster.prometheus.url, such as 'http://prometheus.monitoring:9090'"
        )
    authentication = None
    if cluster.prometheus.token is not None:
        authentication = models.V1beta1ExtMetricAuthentication(
            auth_modes="bearer",
            authentication_ref=models.V1beta1AuthenticationRef(name=PROMETHEUS_AUTHENTICATION),
        )
    metric = models.V1beta1ExternalMetricSource(
        metric=models.V1beta1ExternalMetrics(
            backend="prometheus",
            server_address=cluster.prometheus.url,
            query=cluster.serving.autoscaling.query,
        ),
        target=models.V1beta1MetricTarget(type="Value", value=str(cluster.serving.autoscaling.target)),
        authentication_ref=authentication,
    )
    return models.V1beta1AutoScalingSpec(metrics=[models.V1beta1MetricsSpec(type="External", external=metric)])
