"""The rules about replicas and autoscaling of an InferenceService's components; `rules.py` says where each comes from."""

from typing import Any

from tidegate.deployment.kserve.naming import (
    AUTOSCALER_ANNOTATION,
    KNATIVE_CLASS_ANNOTATION,
    KNATIVE_HPA,
    KNATIVE_METRIC_ANNOTATION,
)
from tidegate.deployment.kserve.quantity import mebibytes
from tidegate.errors import DeploymentError

Document = dict[str, Any]


def check_replicas(component: str, fields: Document) -> None:
    """Check the numbers of replicas: validateReplicas in component.go."""
    least, most = fields.get("minReplicas", 1), fields.get("maxReplicas", 0)
    if least < 0 or most < 0:
        raise DeploymentError(f"{component}: minReplicas {least} and maxReplicas {most} must be at least 0")
    if 0 < most < least:
        raise DeploymentError(f"{component}.minReplicas {least} must not exceed maxReplicas {most}")


def check_scaling(mode: str, annotations: dict[str, str], component: str, fields: Document) -> None:
    """Check a component's autoscaling: validateAutoScalingCompExtension.

    Args:
        mode: The deployment mode, Standard or Knative.
        annotations: Of the InferenceService.
        component: What messages call it.
        fields: The component.

    Raises:
        DeploymentError: A rule is broken.
    """
    if mode == "Standard":
        scaler = annotations.get(AUTOSCALER_ANNOTATION)
        if scaler == "hpa":
            _check_hpa(component, fields)
        elif scaler == "keda":
            _check_keda(component, fields)
        if fields.get("minReplicas") == 0 and scaler not in ("keda", "external"):
            raise DeploymentError(f"{component}.minReplicas 0 needs KEDA in Standard mode: nothing else brings a pod back")
        return
    if fields.get("deploymentStrategy") is not None:
        raise DeploymentError(f"{component}.deploymentStrategy is for Standard mode: Knative makes a revision for every change")
    if annotations.get(KNATIVE_CLASS_ANNOTATION) == KNATIVE_HPA:
        _check_hpa(component, fields)
        if fields.get("minReplicas") == 0:
            raise DeploymentError(f"{component}.minReplicas 0: an HPA never scales to zero; set it to at least 1")
    else:
        _check_knative(component, fields)


def _check_hpa(component: str, fields: Document) -> None:
    """Check what an HPA takes: validateScalingHPACompExtension and validateHPAMetrics."""
    metric, target = fields.get("scaleMetric", "cpu"), fields.get("scaleTarget")
    if metric not in ("cpu", "memory"):
        raise DeploymentError(f"{component}.scaleMetric {metric!r} must be cpu or memory, which an HPA knows")
    if target is not None and not 1 <= target <= 100:
        raise DeploymentError(f"{component}.scaleTarget {target} must lie between 1 and 100 percent of the request")
    for source in _sources(fields):
        if source.get("type") != "Resource" or source.get("resource") is None:
            raise DeploymentError(f"{component}.autoScaling: an HPA takes metrics of type Resource only, with their resource")


def _check_keda(component: str, fields: Document) -> None:
    """Check what KEDA takes: validateScalingKedaCompExtension; its schema requires triggers, so there must be a metric."""
    if fields.get("scaleMetric") is not None:
        raise DeploymentError(f"{component}.scaleMetric is not for KEDA; use autoScaling.metrics")
    sources = _sources(fields)
    if not sources:
        raise DeploymentError(f"{component}.autoScaling.metrics is empty: KEDA refuses a ScaledObject without triggers")
    for source in sources:
        kind = source.get("type")
        if kind == "Resource":
            _check_keda_resource(component, source.get("resource") or {})
        elif kind in ("External", "PodMetric"):
            _check_keda_query(component, kind, source.get("external" if kind == "External" else "podmetric") or {})
        else:
            raise DeploymentError(f"{component}.autoScaling: metric type {kind!r} must be Resource, External or PodMetric")


def _check_keda_resource(component: str, resource: Document) -> None:
    name, target = resource.get("name"), resource.get("target") or {}
    kind = target.get("type")
    if name not in ("cpu", "memory"):
        raise DeploymentError(f"{component}.autoScaling: resource {name!r} must be cpu or memory")
    if name == "cpu" and kind != "Utilization":
        raise DeploymentError(f"{component}.autoScaling: the target of cpu must be of type Utilization, not {kind!r}")
    if name == "memory" and kind not in ("Utilization", "AverageValue"):
        raise DeploymentError(
            f"{component}.autoScaling: the target of memory must be Utilization or AverageValue, not {kind!r}"
        )
    if name == "memory" and kind == "AverageValue" and mebibytes(str(target.get("averageValue") or "0")) < 1:
        raise DeploymentError(f"{component}.autoScaling: the target of memory must be at least 1Mi")
    _check_target(component, target)


def _check_keda_query(component: str, kind: str, source: Document) -> None:
    if not (source.get("metric") or {}).get("query"):
        raise DeploymentError(f"{component}.autoScaling: a metric of type {kind} needs a query")
    target = source.get("target") or {}
    if target.get("value") is None:
        raise DeploymentError(f"{component}.autoScaling: a metric of type {kind} needs target.value")
    _check_target(component, target)


def _check_target(component: str, target: Document) -> None:
    """Check a target: validateScaleTarget."""
    field = {"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}.get(target.get("type", ""))
    if field is None or target.get(field) is None:
        raise DeploymentError(f"{component}.autoScaling: target of type {target.get('type')!r} needs {field or 'a known type'}")
    if field == "averageUtilization" and not 1 <= target[field] <= 100:
        raise DeploymentError(f"{component}.autoScaling: averageUtilization {target[field]} must lie between 1 and 100")


def _check_knative(component: str, fields: Document) -> None:
    """Check what Knative takes: validateScalingKPACompExtension and validateKPAMetrics."""
    metric, target = fields.get("scaleMetric", "concurrency"), fields.get("scaleTarget")
    if metric not in ("concurrency", "rps"):
        raise DeploymentError(
            f"{component}.scaleMetric {metric!r} must be concurrency or rps; "
            f"for cpu set the annotation {KNATIVE_CLASS_ANNOTATION} to {KNATIVE_HPA}"
        )
    if metric == "rps" and target is not None and target < 1:
        raise DeploymentError(f"{component}.scaleTarget {target} must be at least 1 request a second")
    if (fields.get("annotations") or {}).get(KNATIVE_METRIC_ANNOTATION, metric) not in ("concurrency", "rps"):
        raise DeploymentError(f"{component}: annotation {KNATIVE_METRIC_ANNOTATION} needs the class {KNATIVE_HPA}")


def _sources(fields: Document) -> list[Document]:
    return list((fields.get("autoScaling") or {}).get("metrics") or [])
