"""Follows a run in Kubeflow Pipelines to its end: its tasks as they change, through lost connections, and why it failed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pipelines.ir import specification, steps
from pipelines.kubeflow.api_errors import ApiRefusal, LostReply, Unreachable, error_text
from pipelines.kubeflow.client import API, KubeflowPipelines
from pipelines.kubeflow.run_cause import run_cause
from pipelines.launcher import TaskEvent
from tidegate.errors import PipelineError

# kubeflow/pipelines 2.17, backend/api/v2beta1/run.proto, RuntimeState. An Argo Error becomes FAILED.
_ENDED = {"SUCCEEDED": "succeeded", "SKIPPED": "skipped", "FAILED": "failed", "CANCELED": "terminated"}
_TASK_STATES: dict[str, Literal["started", "succeeded", "failed"]] = {
    "RUNNING": "started",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "failed",
}
_POLL_SECONDS = 3.0
_LONGEST_OUTAGE_SECONDS = 900.0


class StillRunning(PipelineError):
    """Following ended before the run did: it took longer than we were to wait, or could not be asked any more."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended; `cause` names the failed task and its error, and is empty for a run that succeeded."""

    run_id: str
    name: str
    state: str
    seconds: float
    cause: str
    events: tuple[TaskEvent, ...]

    @property
    def succeeded(self) -> bool:
        """Whether the run did what it should; one that Kubeflow skipped did."""
        return self.state in ("succeeded", "skipped")


def follow(
    api: KubeflowPipelines,
    run_id: str,
    *,
    on_event: Callable[[TaskEvent], None] = lambda _: None,
    on_outage: Callable[[str], None] = lambda _: None,
    timeout_seconds: float | None = None,
    poll_seconds: float = _POLL_SECONDS,
    outage_seconds: float = _LONGEST_OUTAGE_SECONDS,
) -> RunOutcome:
    """Follow a run to its end.

    Args:
        api: The client.
        run_id: The run.
        on_event: Told of every task that starts or ends.
        on_outage: Told, in one line, that the connection is lost and following goes on trying.
        timeout_seconds: How long to wait for the end at most; without, as long as it takes.
        poll_seconds: Between two questions.
        outage_seconds: How long the API may be away in one stretch.

    Raises:
        StillRunning: The time is over, or the API was away for too long; the run goes on.
        PipelineError: There is no such run, or we may not see it.
    """
    begun = time.monotonic()
    last_answer = begun
    shown = _Tasks(api)
    while True:
        try:
            run = api.get(f"{API}/runs/{run_id}")
            last_answer = time.monotonic()
            for event in shown.changes(run):
                on_event(event)
        except (Unreachable, LostReply) as failure:
            away = time.monotonic() - last_answer
            if not failure.passing or away > outage_seconds:
                raise StillRunning(f"{failure}; the run goes on") from failure
            on_outage(str(failure))
            run = {}
        except ApiRefusal as refusal:
            if refusal.unauthenticated and shown.known:
                raise StillRunning(f"{refusal}; the run goes on") from refusal
            raise
        if not run.get("state") and (broken := error_text(run.get("error"))):
            raise PipelineError(f"run {run_id}: Kubeflow cannot tell how it is: {broken}")
        if run.get("state") in _ENDED:
            return _outcome(api, run, shown)
        if timeout_seconds is not None and time.monotonic() - begun + poll_seconds > timeout_seconds:
            raise StillRunning(f"run {run_id} has not ended within {timeout_seconds:g} s; it goes on")
        time.sleep(poll_seconds)


class _Tasks:
    """What is known of a run's tasks, among which the API also lists drivers and other nodes of the workflow."""

    def __init__(self, api: KubeflowPipelines) -> None:
        self._api = api
        self._names: frozenset[str] | None = None
        self._states: dict[str, str] = {}
        self.events: list[TaskEvent] = []
        self.known = False

    def changes(self, run: dict[str, Any]) -> Iterator[TaskEvent]:
        """Yield an event for every task whose state is another than before."""
        self.known = True
        for task in self.of(run):
            key = task.get("task_id") or task.get("pod_name") or f"{task.get('display_name')} {task.get('create_time')}"
            state = _TASK_STATES.get(task.get("state", ""))
            before = self._states.get(key)
            if state is None or state == before:
                continue
            self._states[key] = state
            name = task["display_name"]
            seconds = 0.0 if state == "started" else _seconds(task.get("start_time"), task.get("end_time"))
            if before is None and state != "started":
                yield self._noted(TaskEvent(task=name, state="started"))
            yield self._noted(TaskEvent(task=name, state=state, seconds=seconds))

    def of(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the tasks that are steps of the pipeline, in the order in which they started."""
        details = (run.get("run_details") or {}).get("task_details") or []
        names = self._step_names(run)
        tasks = [task for task in details if task.get("display_name") in names]
        return sorted(tasks, key=lambda task: task.get("start_time") or "")

    def _step_names(self, run: dict[str, Any]) -> frozenset[str]:
        if self._names is None:
            try:
                self._names = frozenset(steps(_executed(self._api, run)))
            except ApiRefusal:  # whoever may see the run need not see the pipeline
                self._names = frozenset()
        return self._names

    def _noted(self, event: TaskEvent) -> TaskEvent:
        self.events.append(event)
        return event


def _executed(api: KubeflowPipelines, run: dict[str, Any]) -> dict[str, Any]:
    """Return the IR that a run executes, which the run holds itself or names by its version."""
    if held := run.get("pipeline_spec"):
        return specification(held)
    reference = run.get("pipeline_version_reference") or {}
    pipeline, version = reference.get("pipeline_id"), reference.get("pipeline_version_id")
    if not (pipeline and version):
        return {}
    return specification(api.get(f"{API}/pipelines/{pipeline}/versions/{version}").get("pipeline_spec"))


def _outcome(api: KubeflowPipelines, run: dict[str, Any], tasks: _Tasks) -> RunOutcome:
    state = _ENDED[run["state"]]
    return RunOutcome(
        run_id=run.get("run_id", ""),
        name=run.get("display_name", ""),
        state=state,
        seconds=_seconds(run.get("created_at"), run.get("finished_at")),
        cause="" if state in ("succeeded", "skipped") else run_cause(api, run, tasks.of(run)),
        events=tuple(tasks.events),
    )


def _seconds(begin: str | None, end: str | None) -> float:
    try:
        return max((datetime.fromisoformat(end or "") - datetime.fromisoformat(begin or "")).total_seconds(), 0.0)
    except ValueError:
        return 0.0
