"""The cluster section of the project file: where the same project runs on Kubeflow and KServe, and with what."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from tidegate.project.patterns import ABSOLUTE_PATH, ENVIRONMENT_NAME, EXTENDED_RESOURCE, KUBERNETES_NAME, QUANTITY
from tidegate.project.types import Name, Section, Text, distinct

_S3_ADDRESS = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")


def _s3_prefix(address: str) -> str:
    if not address.startswith("s3://"):
        raise ValueError("is not on S3; use 's3://bucket/prefix', which every pod reaches")
    if not _S3_ADDRESS.fullmatch(address):
        raise ValueError("names no bucket of S3; use 's3://bucket/prefix'")
    return address.rstrip("/")


def _redis_address(address: str) -> str:
    if not address.startswith(("redis://", "rediss://")):
        raise ValueError("is not an address of a Redis; use 'redis://host:6379/0', or 'rediss://…' for TLS")
    if "@" in address:
        raise ValueError("holds credentials; keep the password in a Secret, and name it under cluster.secrets")
    if not _names_a_host(address) or not re.fullmatch(r"(/[0-9]*)?", urlsplit(address).path):
        raise ValueError("needs a host, a port from 1 to 65535 and the number of a database; use 'redis://host:6379/0'")
    return address


def _http_address(address: str) -> str:
    if not address.startswith(("http://", "https://")) or not _names_a_host(address):
        raise ValueError("is not an HTTP address, such as 'http://prometheus.monitoring:9090'")
    return address.rstrip("/")


def _names_a_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no port, or half an IPv6 address
        return False


def _distinct_variables(secrets: tuple["SecretVariable", ...]) -> tuple["SecretVariable", ...]:
    distinct(tuple(secret.variable for secret in secrets))
    return secrets


KubernetesName = Annotated[str, Field(pattern=KUBERNETES_NAME, max_length=63)]
Quantity = Annotated[str, Field(pattern=QUANTITY)]
ExtendedResource = Annotated[str, Field(pattern=EXTENDED_RESOURCE)]
EnvironmentName = Annotated[str, Field(pattern=ENVIRONMENT_NAME)]
S3Prefix = Annotated[Text, AfterValidator(_s3_prefix)]
RedisAddress = Annotated[Text, AfterValidator(_redis_address)]
HttpAddress = Annotated[Text, AfterValidator(_http_address)]
Labels = dict[Text, str]


class SecretVariable(Section):
    """An environment variable whose value is a key of a Secret; the value itself is never in a file of the project."""

    variable: EnvironmentName
    secret: KubernetesName
    key: Text


class Toleration(Section):
    """A Kubernetes toleration."""

    key: Text
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class NodeRule(Section):
    """A term of a pod's node affinity; every required one must hold, and preferred ones weigh the same."""

    key: Text
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = "In"
    values: tuple[str, ...] = ()
    required: bool = True

    @model_validator(mode="after")
    def _values_fit_the_operator(self) -> Self:
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"operator {self.operator} takes no values")
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} needs values")
        if self.operator in ("Gt", "Lt") and (len(self.values) != 1 or not self.values[0].lstrip("-").isdigit()):
            raise ValueError(f"operator {self.operator} needs one whole number")
        return self


class Accelerator(Section):
    """The accelerator of one model server: a whole GPU, a MIG slice, or a share of one.

    Kubernetes tells them apart by the name of the resource alone: `nvidia.com/gpu`, `nvidia.com/mig-1g.10gb`, and for
    time-slicing or MPS what the device plugin was told to rename it to, usually `nvidia.com/gpu.shared`.
    """

    resource: ExtendedResource = "nvidia.com/gpu"
    count: int = Field(default=1, ge=1, le=16)
    node_selector: Labels = Field(default_factory=dict, description="Labels of the node type, such as the GPU's product.")
    tolerations: tuple[Toleration, ...] = (Toleration(key="nvidia.com/gpu"),)
    runtime_class: KubernetesName | None = None
    shared_memory: Quantity | None = Field(default=None, description="Size of /dev/shm; the node's default (64 MiB) if null.")


class Autoscaling(Section):
    """What the number of replicas follows."""

    by: Literal["none", "cpu", "memory", "concurrency", "rps", "prometheus", "kafka"] = Field(
        default="none",
        description="none: min_replicas always; cpu, memory: HPA; concurrency, rps: Knative; prometheus, kafka: KEDA.",
    )
    target: int = Field(default=80, ge=1, description="Percent of the request for cpu and memory; else the number per replica.")
    query: Text | None = Field(default=None, description="PromQL, for prometheus.")
    brokers: Text | None = Field(default=None, description="host:port of Kafka, for kafka.")
    topic: Text | None = Field(default=None, description="For kafka.")
    consumer_group: Text | None = Field(default=None, description="For kafka.")

    @model_validator(mode="after")
    def _what_it_needs_is_given(self) -> Self:
        if self.by in ("cpu", "memory") and self.target > 100:
            raise ValueError(f"target ({self.target}) is percent of the requested {self.by}; it must be at most 100")
        needed = {"prometheus": ("query",), "kafka": ("brokers", "topic", "consumer_group")}.get(self.by, ())
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"by {self.by} needs {', '.join(missing)}")
        return self


class ServingPods(Section):
    """The pods of the model server."""

    runtime: Literal["tidegate-onnx", "tidegate-onnx-gpu", "tidegate-triton"] = "tidegate-onnx"
    service_account: KubernetesName = "tidegate-serving"
    min_replicas: int = Field(default=1, ge=0, description="0 scales to zero; needs Knative, or KEDA in Standard mode.")
    max_replicas: int = Field(default=1, ge=1)
    cpu: Quantity = "1"
    memory: Quantity = "1Gi"
    accelerator: Accelerator | None = None
    node_selector: Labels = Field(default_factory=dict)
    node_affinity: tuple[NodeRule, ...] = Field(default=(), description="Which nodes; for what a selector cannot say.")
    tolerations: tuple[Toleration, ...] = ()
    spread: bool = Field(default=False, description="Prefer different nodes for the replicas.")
    autoscaling: Autoscaling = Autoscaling()
    request_timeout_seconds: int = Field(default=60, ge=1, le=3600)
    log_payloads_to: HttpAddress | None = Field(default=None, description="Sink of KServe's payload logger (CloudEvents).")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must not be less than min_replicas ({self.min_replicas})")
        if self.autoscaling.by == "none" and self.max_replicas > max(self.min_replicas, 1):
            raise ValueError(f"max_replicas ({self.max_replicas}) is never reached without autoscaling; set autoscaling.by")
        if self.runtime == "tidegate-onnx-gpu" and self.accelerator is None:
            raise ValueError("runtime tidegate-onnx-gpu needs an accelerator")
        if self.runtime == "tidegate-onnx" and self.accelerator is not None:
            raise ValueError("runtime tidegate-onnx runs on CPU; use tidegate-onnx-gpu or tidegate-triton with an accelerator")
        return self


class StepPods(Section):
    """The pods of the pipelines' steps."""

    service_account: KubernetesName = "tidegate-pipelines"
    cpu: Quantity = "1"
    memory: Quantity = "4Gi"
    ephemeral_storage: Quantity = "10Gi"
    node_selector: Labels = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    timeout_seconds: int = Field(default=3600, ge=60, description="Of every step but the rollout, which has its own limits.")
    retries: int = Field(default=2, ge=0, le=10, description="Of steps that may be repeated safely.")


class Prometheus(Section):
    """Where the judge sees a cluster's traffic."""

    url: HttpAddress
    gateway: Literal["istio", "envoy"] = Field(
        default="istio", description="Whose counters of first attempts there are: istio_requests_total, or Envoy's clusters."
    )
    token: EnvironmentName | None = Field(default=None, description="Variable that holds a bearer token.")
    pushgateway: HttpAddress | None = Field(default=None, description="Takes the numbers of drift checks, for alerts on them.")


class ClusterSection(Section):
    """A cluster that the project runs on, as `--target kserve`."""

    namespace: Name = "default"
    mode: Literal["Standard", "Knative"] = Field(default="Standard", description="KServe's deployment mode.")
    store: S3Prefix = Field(description="Object store of packages, records and logs.")
    data: S3Prefix | None = Field(default=None, description="Mirrored to WORKSPACE/data before features are read.")
    workspace: Annotated[str, Field(pattern=ABSOLUTE_PATH)] = Field(
        default="/tmp/tidegate",  # noqa: S108
        description="Scratch folder inside a step's pod; nothing in it outlives the step.",
    )
    online_store: RedisAddress | None = Field(default=None, description="Redis of the online features.")
    prometheus: Prometheus | None = Field(default=None, description="Needed to judge a canary.")
    secrets: Annotated[tuple[SecretVariable, ...], AfterValidator(_distinct_variables)] = Field(
        default=(), description="For the model server's and the steps' pods."
    )
    serving: ServingPods = ServingPods()
    steps: StepPods = StepPods()

    @model_validator(mode="after")
    def _mode_allows(self) -> Self:
        by = self.serving.autoscaling.by
        if self.mode == "Standard" and by in ("concurrency", "rps"):
            raise ValueError(f"serving.autoscaling.by {by} is Knative's; in Standard mode use cpu, memory, prometheus or kafka")
        if self.mode == "Knative" and by in ("prometheus", "kafka"):
            raise ValueError(f"serving.autoscaling.by {by} is KEDA's, which KServe uses in Standard mode only")
        if self.mode == "Standard" and self.serving.min_replicas == 0 and by not in ("prometheus", "kafka"):
            raise ValueError("serving.min_replicas 0 needs Knative, or autoscaling by prometheus or kafka in Standard mode")
        return self
