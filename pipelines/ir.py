"""What we read in a pipeline's intermediate representation: its steps, and the images they run."""

from collections.abc import Iterator
from typing import Any


def specification(held: dict[str, Any] | None) -> dict[str, Any]:
    """Return the pipeline of what the API holds of one, which is that alone, or beside its platform's settings."""
    pipeline: dict[str, Any] = (held or {}).get("pipeline_spec") or held or {}
    return pipeline


def steps(ir: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the tasks that run a container, as Kubeflow tells them of a run."""
    components = ir.get("components", {})
    for component in (ir.get("root", {}), *components.values()):
        for name, task in component.get("dag", {}).get("tasks", {}).items():
            if "executorLabel" in components.get(task.get("componentRef", {}).get("name"), {}):
                yield name


def images(ir: dict[str, Any]) -> list[str]:
    """Return the images that the steps run."""
    executors = ir.get("deploymentSpec", {}).get("executors", {}).values()
    return sorted({image for executor in executors if (image := executor.get("container", {}).get("image"))})
