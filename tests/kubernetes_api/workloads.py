"""What runs: pods and their fates, scripted by revision. Kubernetes' part of the simulation.

The statuses have the shapes of Kubernetes' own API (core/v1 ContainerStatus, apps/v1 DeploymentCondition); the texts are
what kubelet, scheduler and quota admission say, shortened.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from tests.kubernetes_api.api_server import Document, Store

Fate = Literal[
    "ready", "crash", "image", "no-image", "unschedulable", "memory", "storage", "never", "quota", "runtime", "config"
]
READY_AFTER = 3  # ticks
_STARTED: Document = {"running": {"startedAt": "2026-08-21T12:00:00Z"}}
_BACK_OFF = "back-off 40s restarting failed container=kserve-container"


@dataclass
class Pods:
    """Makes pods, and says how they fare."""

    store: Store
    fates: dict[str, Fate] = field(default_factory=dict)  # by revision; the others become ready
    age: dict[str, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)  # pods that were ready once, and stay so

    def fate(self, labels: Document) -> Fate:
        return self.fates.get(labels.get("tidegate.dev/revision", ""), "ready")

    def ready(self, name: str, namespace: str, template: Document) -> bool:
        """Keep one pod of that name, made from a pod template; tell whether it is ready. Pods age by a tick at each call."""
        labels, fate = template["metadata"].get("labels") or {}, self.fate(template["metadata"].get("labels") or {})
        self.age[name] = self.age.get(name, 0) + 1
        if fate == "ready" and self.age[name] > READY_AFTER:
            self.started.add(name)
        ready = name in self.started
        if fate == "quota" and not ready:
            return False
        pod = {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels,
                "annotations": template["metadata"].get("annotations") or {},
            },
            "spec": {"containers": [{"name": "kserve-container"}]},
        }
        if ("pods", namespace, name) not in self.store.objects:
            self.store.create("pods", pod, "kubelet")
        self.store.set_status("pods", pod, self._status(name, fate, ready=ready))
        return ready

    def remove(self, name: str, namespace: str) -> None:
        self.age.pop(name, None)
        self.started.discard(name)
        if ("pods", namespace, name) in self.store.objects:
            self.store.delete("pods", namespace, name)

    def _status(self, name: str, fate: Fate, *, ready: bool) -> Document:
        fate = "ready" if ready else fate
        if fate == "unschedulable":
            message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
            scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            return {"phase": "Pending", "conditions": [scheduled]}
        conditions = [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Ready", "status": "True" if ready else "False"},
        ]
        container: Document = {
            "name": "kserve-container",
            "image": "registry/tidegate-onnx:1",
            "restartCount": 0,
            "ready": ready,
        }
        status: Document = {"phase": "Running", "conditions": conditions, "containerStatuses": [container]}
        container["state"] = _STARTED
        if fate == "image":
            container["state"] = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}
        elif fate == "no-image":
            message = 'failed to resolve reference "registry/tidegate-onnx:1": not found'
            container["state"] = {"waiting": {"reason": "ErrImagePull", "message": message}}
        elif fate == "config":
            message = 'secret "redis" not found'
            container["state"] = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
        elif fate in ("crash", "memory"):
            self._crash(name, container, fate)
        elif fate == "storage":
            ended = {"exitCode": 1, "reason": "Error", "message": ""}
            init = {
                "name": "storage-initializer",
                "image": "kserve/storage-initializer:v0.20.0",
                "restartCount": 4,
                "ready": False,
            }
            init["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s"}}
            init["lastState"] = {"terminated": ended}
            self.store.logs[name, "storage-initializer"] = (
                "INFO Copying contents of s3://bucket/models/2/\n"
                "aws_secret_access_key=wJalrXUtnFEMI rejected\n"
                "botocore.exceptions.ClientError: An error occurred (403) when calling the HeadObject operation: Forbidden\n"
            )
            status.update(phase="Pending", initContainerStatuses=[init])
            container["state"] = {"waiting": {"reason": "PodInitializing"}}
        return status

    def _crash(self, name: str, container: Document, fate: Fate) -> None:
        restarts = self.age[name] // 2
        ended: dict[str, Any] = (
            {"exitCode": 137, "reason": "OOMKilled"} if fate == "memory" else {"exitCode": 3, "reason": "Error"}
        )
        container["restartCount"] = restarts
        container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": _BACK_OFF}}
        container["lastState"] = {"terminated": ended}
        self.store.logs[name, "kserve-container"] = "starting\npackage digest mismatch: model.onnx\n"
