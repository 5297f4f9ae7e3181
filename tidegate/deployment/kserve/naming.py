"""The names that documents carry: KServe's annotations and labels, Tidegate's own, and what Kubernetes allows of a name.

KServe copies every label and annotation of an InferenceService to the template of its pods, and there a predictor's own
win (pkg/controller/v1beta1/inferenceservice/components/predictor.go, buildObjectMeta; KServe at aaac4e2). So what changes while
a rollout goes on would restart pods in Standard mode, and make a new revision in Knative mode. `SERVICE_ANNOTATION` does
change; each predictor therefore carries the same key with the constant `MASKED`.
"""

AUTOSCALER_ANNOTATION = "serving.kserve.io/autoscalerClass"
TAG_ROUTING_ANNOTATION = "serving.kserve.io/enable-tag-routing"
KNATIVE_CLASS_ANNOTATION = "autoscaling.knative.dev/class"
KNATIVE_METRIC_ANNOTATION = "autoscaling.knative.dev/metric"
KNATIVE_TARGET_ANNOTATION = "autoscaling.knative.dev/target"
KNATIVE_HPA = "hpa.autoscaling.knative.dev"

SERVICE_ANNOTATION = "tidegate.dev/service"
MASKED = "stands on the InferenceService"
REVISION_LABEL = "tidegate.dev/revision"
ENDPOINT_LABEL = "endpoint"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "tidegate"

LONGEST_NAME = 63


def predictor_service(service: str, predictor: str | None) -> str:
    """Return what KServe calls a predictor's Deployment and Service in Standard mode (pkg/constants, PredictorServiceName)."""
    return f"{service}-{predictor}-predictor" if predictor else f"{service}-predictor"
