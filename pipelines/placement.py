"""Where each task of a pipeline runs on a cluster, and with what: the project file's `cluster:` section, by kfp-kubernetes.

    place = Placement(project.cluster)
    examples = place.repeatable(build_training_set(...))
    place.as_serving(select_variant(...))     # measured where the model will be served
    place.once(roll_out(...))

Without a cluster section a task is placed nowhere in particular; kfp.local runs the pipelines that are compiled so. Caching is
off for every task: each looks at the world or writes to it, and a cached check is a silent failure.

Every step but the rollout, which moves users' traffic, is repeatable: it writes its own artifacts, which a second try replaces,
and its part of a record, which it finds again (a release by its run, a version by its content, a retraining by its claim).

The service account belongs to a run, not to a task, so whoever submits the run names it. kfp-kubernetes 2.17 knows neither a
request of ephemeral storage nor a runtime class: the scratch folder is an emptyDir of limited size, which the kubelet enforces,
and the nodes with accelerators must run their containers with the accelerator's runtime by default.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes

from tidegate.deployment.kserve.quantity import mebibytes
from tidegate.errors import PipelineError
from tidegate.project import ClusterSection
from tidegate.project.cluster import Labels, NodeRule, StepPods, Toleration

_FIRST_RETRY_AFTER = "30s"
_SCRATCH = "scratch"
_SHARED_MEMORY = "shared-memory"
_KFP_CPU = re.compile(r"([0-9]*\.)?[0-9]+m?")
_KFP_MEMORY = re.compile(r"[0-9]+(Ki|Mi?|Gi?|Ti?)?")


@dataclass(frozen=True, slots=True)
class Placement:
    """Places tasks on a cluster, or nowhere in particular if there is none."""

    cluster: ClusterSection | None = None

    def repeatable(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Place a step that leaves the same behind however often it is tried: it is retried, and ended at its timeout."""
        if self.cluster is not None:
            _place(task, self.cluster)
            _repeat(task, self.cluster.steps)
        return self.uncached(task)

    def once(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Place a step that must not be tried again by itself, and that knows its own limits of time: the rollout."""
        if self.cluster is not None:
            _place(task, self.cluster)
        return self.uncached(task)

    def as_serving(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Place a repeatable step where the model will be served, since it builds or measures for that node type.

        It has the CPUs and the accelerator of one model server, and the memory of a step.
        """
        if self.cluster is not None:
            _place_as_serving(task, self.cluster)
            _repeat(task, self.cluster.steps)
        return self.uncached(task)

    def uncached(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Turn caching off for a task or a nested pipeline, and return it."""
        return task.set_caching_options(enable_caching=False)


def _place(task: dsl.PipelineTask, cluster: ClusterSection) -> None:
    _describe_pod(task, cluster, kfp_cpu("cluster.steps.cpu", cluster.steps.cpu))
    _choose_nodes(task, cluster.steps.node_selector, cluster.steps.tolerations)


def _place_as_serving(task: dsl.PipelineTask, cluster: ClusterSection) -> None:
    _describe_pod(task, cluster, kfp_cpu("cluster.serving.cpu", cluster.serving.cpu))
    accelerator = cluster.serving.accelerator
    selector = {**cluster.serving.node_selector, **(accelerator.node_selector if accelerator else {})}
    tolerations = (*cluster.serving.tolerations, *(accelerator.tolerations if accelerator else ()))
    if not (
        selector or tolerations or cluster.serving.node_affinity
    ):  # the model server runs on any node, so the steps' own are as good
        selector, tolerations = cluster.steps.node_selector, cluster.steps.tolerations
    _choose_nodes(task, selector, tolerations)
    _prefer_nodes(task, cluster.serving.node_affinity)
    if accelerator is not None:
        task.set_accelerator_type(accelerator.resource).set_accelerator_limit(accelerator.count)
        if accelerator.shared_memory is not None:
            kubernetes.empty_dir_mount(
                task,
                volume_name=_SHARED_MEMORY,
                mount_path="/dev/shm",  # noqa: S108 - where Linux keeps it
                medium="Memory",
                size_limit=accelerator.shared_memory,
            )


def _describe_pod(task: dsl.PipelineTask, cluster: ClusterSection, cpu: str) -> None:
    memory = kfp_memory(cluster.steps.memory)
    task.set_cpu_request(cpu).set_cpu_limit(cpu).set_memory_request(memory).set_memory_limit(memory)
    scratch = cluster.steps.ephemeral_storage
    kubernetes.empty_dir_mount(task, volume_name=_SCRATCH, mount_path=cluster.workspace, size_limit=scratch)
    for secret in cluster.secrets:
        kubernetes.use_secret_as_env(task, secret_name=secret.secret, secret_key_to_env={secret.key: secret.variable})


def _choose_nodes(task: dsl.PipelineTask, selector: Labels, tolerations: tuple[Toleration, ...]) -> None:
    for label, value in sorted(selector.items()):
        kubernetes.add_node_selector(task, label_key=label, label_value=value)
    for toleration in dict.fromkeys(tolerations):
        kubernetes.add_toleration(task, toleration.key, toleration.operator, toleration.value or None, toleration.effect)


def _prefer_nodes(task: dsl.PipelineTask, rules: tuple[NodeRule, ...]) -> None:
    required = [_expression(rule) for rule in rules if rule.required]
    if required:
        kubernetes.add_node_affinity(task, match_expressions=required)
    for rule in rules:
        if not rule.required:
            kubernetes.add_node_affinity(task, match_expressions=[_expression(rule)], weight=1)


def _expression(rule: NodeRule) -> dict[str, Any]:
    return {"key": rule.key, "operator": rule.operator, "values": list(rule.values)}


def _repeat(task: dsl.PipelineTask, steps: StepPods) -> None:
    if steps.retries:
        task.set_retry(steps.retries, backoff_duration=_FIRST_RETRY_AFTER)
    kubernetes.set_timeout(task, seconds=steps.timeout_seconds)


def kfp_cpu(field: str, quantity: str) -> str:
    """Return a quantity of CPUs as kfp reads it; raises PipelineError if it is none."""
    if not _KFP_CPU.fullmatch(quantity):
        raise PipelineError(f"{field}: {quantity!r} is no number of CPUs; give one such as '2' or '500m'")
    return quantity


def kfp_memory(quantity: str) -> str:
    """Return a quantity of memory as kfp reads it, which knows no fraction and no small k: then in bytes, rounded up."""
    return quantity if _KFP_MEMORY.fullmatch(quantity) else str(math.ceil(mebibytes(quantity) * 2**20))
