"""The pods of a model server, as the predictor of an InferenceService describes them: resources, placement, environment."""

from typing import Any

from tidegate.deployment.inference_service import Revision
from tidegate.deployment.kserve.naming import REVISION_LABEL
from tidegate.deployment.kserve.sdk import kubernetes_models
from tidegate.deployment.stopping import stopping_seconds
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection, NodeRule, ServingPods, Toleration

_SHARED_MEMORY = "shared-memory"
_SECONDS_UNTIL_PROXIES_KNOW = 5


def environment(service: str, revision: Revision, cluster: ClusterSection) -> list[Any]:
    """Return the container's variables: the revision's settings, what it is called, and secrets by reference.

    Raises:
        DeploymentError: A secret has the name of a setting.
    """
    client = kubernetes_models()
    settings = {**revision.env, **identity(service, revision)}
    for secret in cluster.secrets:
        if secret.variable in settings:
            raise DeploymentError(f"cluster.secrets: {secret.variable} is a setting of the model server already; rename it")
    plain = [client.V1EnvVar(name=name, value=value) for name, value in sorted(settings.items())]
    secrets = [
        client.V1EnvVar(
            name=secret.variable,
            value_from=client.V1EnvVarSource(
                secret_key_ref=client.V1SecretKeySelector(name=secret.secret, key=secret.key),
            ),
        )
        for secret in sorted(cluster.secrets, key=lambda secret: secret.variable)
    ]
    return plain + secrets


def identity(service: str, revision: Revision) -> dict[str, str]:
    """Return the variables by which the model server knows what it serves; its metrics and its log carry them."""
    return {
        "TIDEGATE_NAME": service,
        "TIDEGATE_REVISION": revision.name,
        "TIDEGATE_VERSION": revision.storage_uri.rstrip("/").rpartition("/")[2],
    }


def resources(pods: ServingPods) -> Any:
    """Return requests and limits, which are equal, so that a node has what it promises and no neighbour takes it away."""
    client = kubernetes_models()
    amounts = {"cpu": pods.cpu, "memory": pods.memory}
    if pods.accelerator is not None:
        amounts[pods.accelerator.resource] = str(pods.accelerator.count)
    return client.V1ResourceRequirements(requests=amounts, limits=dict(amounts))


def placement(service: str, revision: Revision, pods: ServingPods) -> dict[str, Any]:
    """Return the fields of a predictor that choose its nodes; only those that the project asks for."""
    client = kubernetes_models()
    accelerator = pods.accelerator
    selector = {**pods.node_selector, **(accelerator.node_selector if accelerator else {})}
    tolerations = [*pods.tolerations, *(accelerator.tolerations if accelerator else ())]
    fields: dict[str, Any] = {}
    if selector:
        fields["node_selector"] = selector
    if tolerations:
        fields["tolerations"] = [_toleration(toleration) for toleration in dict.fromkeys(tolerations)]
    if pods.node_affinity:
        fields["affinity"] = client.V1Affinity(node_affinity=_node_affinity(pods.node_affinity))
    if accelerator is not None and accelerator.runtime_class is not None:
        fields["runtime_class_name"] = accelerator.runtime_class
    if pods.spread:
        fields["topology_spread_constraints"] = [
            client.V1TopologySpreadConstraint(
                max_skew=1,
                topology_key="kubernetes.io/hostname",
                when_unsatisfiable="ScheduleAnyway",
                label_selector=client.V1LabelSelector(
                    match_labels={"serving.kserve.io/inferenceservice": service, REVISION_LABEL: revision.name}
                ),
            )
        ]
    return fields


def shared_memory(pods: ServingPods) -> tuple[list[Any], list[Any]]:
    """Return the volumes of the pod and the mounts of the container that give it a /dev/shm of the size asked for."""
    client = kubernetes_models()
    if pods.accelerator is None or pods.accelerator.shared_memory is None:
        return [], []
    volume = client.V1Volume(
        name=_SHARED_MEMORY,
        empty_dir=client.V1EmptyDirVolumeSource(medium="Memory", size_limit=pods.accelerator.shared_memory),
    )
    return [volume], [client.V1VolumeMount(name=_SHARED_MEMORY, mount_path="/dev/shm")]  # noqa: S108


def ports() -> list[Any]:
    """Return the container's ports in Standard mode, where KServe's Service has them all, the first one as port 80.

    Knative allows one port only, which the runtime names. KServe takes a name with `h2c` for gRPC
    (reconcilers/service/service_reconciler.go, isGrpcPort; KServe at aaac4e2).
    """
    client = kubernetes_models()
    return [
        client.V1ContainerPort(name="http1", container_port=8080, protocol="TCP"),
        client.V1ContainerPort(name="h2c", container_port=8081, protocol="TCP"),
    ]


def lifecycle() -> Any:
    """Return what a container does before it is told to end: it serves on until no proxy sends it new requests.

    A pod that ends is taken out of its Service at the same time as it is told so, and proxies learn of that later. Knative
    has its own way, and refuses the field.
    """
    client = kubernetes_models()
    return client.V1Lifecycle(
        pre_stop=client.V1LifecycleHandler(_exec=client.V1ExecAction(command=["sleep", str(_SECONDS_UNTIL_PROXIES_KNOW)]))
    )


def grace(revision: Revision) -> int:
    """Return the seconds that a pod has to end, from the moment at which it is told so; Knative has a time of its own."""
    return _SECONDS_UNTIL_PROXIES_KNOW + stopping_seconds(revision.env)


def _node_affinity(rules: tuple[NodeRule, ...]) -> Any:
    client = kubernetes_models()
    required, preferred = ([_requirement(rule) for rule in rules if rule.required is wanted] for wanted in (True, False))
    return client.V1NodeAffinity(
        required_during_scheduling_ignored_during_execution=client.V1NodeSelector(
            node_selector_terms=[client.V1NodeSelectorTerm(match_expressions=required)]
        )
        if required
        else None,
        preferred_during_scheduling_ignored_during_execution=[
            client.V1PreferredSchedulingTerm(weight=1, preference=client.V1NodeSelectorTerm(match_expressions=[requirement]))
            for requirement in preferred
        ]
        or None,
    )


def _requirement(rule: NodeRule) -> Any:
    client = kubernetes_models()
    return client.V1NodeSelectorRequirement(key=rule.key, operator=rule.operator, values=list(rule.values) or None)


def _toleration(toleration: Toleration) -> Any:
    client = kubernetes_models()
    return client.V1Toleration(
        key=toleration.key,
        operator=toleration.operator,
        value=toleration.value or None,
        effect=toleration.effect,
    )
