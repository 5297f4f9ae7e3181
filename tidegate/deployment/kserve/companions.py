"""Documents that KServe does not write for an InferenceService, though its autoscaling needs them: KEDA's own.

KServe makes KEDA's ScaledObject for resources, Prometheus and Graphite (pkg/apis/serving/v1beta1/component.go,
ExternalMetrics; KServe at aaac4e2). A lag of Kafka is not among them, and a Prometheus that asks for a token needs a
TriggerAuthentication.
"""

from typing import Any

from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.autoscaling import PROMETHEUS_AUTHENTICATION
from tidegate.deployment.kserve.naming import MANAGED_BY, MANAGED_BY_LABEL, predictor_service
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

_KEDA = "keda.sh/v1alpha1"


def companion_documents(service: Service, cluster: ClusterSection, *, in_place: bool = False) -> list[dict[str, Any]]:
    """Return what is to be applied together with the InferenceService of `service` in Standard mode; often nothing.

    The names do not change with the revisions, so applying the documents again after a promotion moves the ScaledObject to
    the new stable's Deployment.

    Args:
        service: What should run.
        cluster: The project's cluster section.
        in_place: Whether the InferenceService has one Deployment that is replaced in place.

    Raises:
        DeploymentError: The variable that holds Prometheus's token is not among cluster.secrets.
    """
    by = cluster.serving.autoscaling.by
    if cluster.mode == "Standard" and by == "kafka":
        return [_kafka_scaled_object(service, cluster, in_place=in_place)]
    if cluster.mode == "Standard" and by == "prometheus" and cluster.prometheus is not None and cluster.prometheus.token:
        return [_prometheus_authentication(service, cluster, cluster.prometheus.token)]
    return []


def _kafka_scaled_object(service: Service, cluster: ClusterSection, *, in_place: bool) -> dict[str, Any]:
    scaling = cluster.serving.autoscaling
    least = max(service.stable.min_replicas, 1) if service.canary else service.stable.min_replicas
    return {
        "apiVersion": _KEDA,
        "kind": "ScaledObject",
        "metadata": _metadata(service, service.name),
        "spec": {
            "scaleTargetRef": {"name": predictor_service(service.name, None if in_place else service.stable.name)},
            "minReplicaCount": least,
            "maxReplicaCount": max(cluster.serving.max_replicas, least),
            "triggers": [
                {
                    "type": "kafka",
                    "metadata": {
                        "bootstrapServers": scaling.brokers,
                        "consumerGroup": scaling.consumer_group,
                        "topic": scaling.topic,
                        "lagThreshold": str(scaling.target),
                    },
                }
            ],
        },
    }


def _prometheus_authentication(service: Service, cluster: ClusterSection, token: str) -> dict[str, Any]:
    for secret in cluster.secrets:
        if secret.variable == token:
            return {
                "apiVersion": _KEDA,
                "kind": "TriggerAuthentication",
                "metadata": _metadata(service, PROMETHEUS_AUTHENTICATION),
                "spec": {"secretTargetRef": [{"parameter": "bearerToken", "name": secret.secret, "key": secret.key}]},
            }
    raise DeploymentError(f"cluster.prometheus.token: no secret of cluster.secrets is for the variable {token}; add one")


def _metadata(service: Service, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": service.namespace, "labels": {MANAGED_BY_LABEL: MANAGED_BY}}
