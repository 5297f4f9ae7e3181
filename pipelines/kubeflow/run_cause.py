"""Why a run in Kubeflow Pipelines failed, in one line: which task, and with which error."""

from collections.abc import Iterator
from typing import Any

from pipelines.failure import last_exception
from pipelines.kubeflow.api_errors import error_text
from pipelines.kubeflow.client import KubeflowPipelines
from tidegate.errors import PipelineError

# The templates whose pods run a step, without and with retries; a pod is named WORKFLOW-TEMPLATE-HASH, and its node
# WORKFLOW-HASH: kubeflow/pipelines 2.17, argocompiler/container.go and backend/src/common/util/workflow.go RetrievePodName.
_TEMPLATES = ("system-container-impl", "retry-system-container-impl")
_LOGS_ASKED = 8


def run_cause(api: KubeflowPipelines, run: dict[str, Any], steps: list[dict[str, Any]]) -> str:
    """Say why a run did not succeed.

    Args:
        api: The client, for the failed task's log: the API itself rarely tells a task's error.
        run: The run, as the API tells it.
        steps: Those of its tasks that are steps of the pipeline.
    """
    failed = next((task for task in steps if task.get("state") == "FAILED"), None)
    if failed is None:
        ended = "it was terminated" if run.get("state") == "CANCELED" else "Kubeflow tells no failed task"
        return _told(run) or ended
    error = _told(failed) or _logged(api, run, failed)
    return f"{failed['display_name']}: {error or 'Kubeflow tells no error; see the log on the page of the run'}"


def _told(item: dict[str, Any]) -> str:
    errors = [item.get("error"), *(status.get("error") for status in reversed(item.get("state_history") or []))]
    return next((text for error in errors if (text := error_text(error))), "")


def _logged(api: KubeflowPipelines, run: dict[str, Any], failed: dict[str, Any]) -> str:
    for _, pod in zip(range(_LOGS_ASKED), _pods(run, failed), strict=False):
        try:
            log = api.text(f"/apis/v1alpha1/runs/{run.get('run_id')}/nodes/{pod}/log")
        except PipelineError:
            continue
        if found := last_exception(log.splitlines()):
            return found
    return ""


def _pods(run: dict[str, Any], failed: dict[str, Any]) -> Iterator[str]:
    """Yield the names that the failed step's pods may have: the API tells its children, and those of a retried step's."""
    details = (run.get("run_details") or {}).get("task_details") or []
    attempts = (task for task in details if task.get("state") == "FAILED" and task.get("display_name") == "executor")
    nodes = [child.get("pod_name") for task in (failed, *attempts) for child in task.get("child_tasks") or []]
    for node in dict.fromkeys(filter(None, (failed.get("pod_name"), *nodes))):
        workflow, _, number = node.rpartition("-")
        yield from (f"{workflow}-{template}-{number}" for template in _TEMPLATES)
        yield node
