"""Following a run: its tasks as they change, through outages and expired tokens, and in one line why it failed."""

import time
from typing import Any

import pytest

from pipelines.kubeflow.api_errors import ApiRefusal
from pipelines.kubeflow.authentication import FixedHeader
from pipelines.kubeflow.following import StillRunning, follow
from pipelines.kubeflow.submission import Submitter
from tests.kfp_api.api import KfpApi, Outage
from tests.unit.pipelines.conftest import GIVEN
from tidegate.errors import PipelineError

TRACEBACK = """\
Traceback (most recent call last):
  File "x.py", line 3, in check_drift
    raise MonitoringError("no window")
tidegate.errors.MonitoringError: no window
F1122 03:00:00.000000      19 main.go:49] failed to execute component: exit status 1
"""


def task(state: str, *, number: int = 1, name: str = "check-drift", **more: Any) -> dict[str, Any]:
    times = {"start_time": f"2026-11-22T03:00:0{number}Z", "end_time": f"2026-11-22T03:00:1{number}Z"}
    return {"task_id": f"t{number}", "display_name": name, "state": state} | times | more


def step(state: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"state": state, "run_details": {"task_details": list(tasks)}} | more


@pytest.fixture
def started(connect, compiled):
    """A run on a server with a script, and the client that started it."""

    def start(*progress: dict[str, Any], **server: Any):
        api = KfpApi(progress=list(progress), **server)
        client = connect(api)
        run = Submitter(client, namespace=None).start(compiled(), GIVEN)
        return api, client, run.run_id

    return start


def test_tasks_are_told_as_they_change_and_only_the_pipelines_own(started):
    _, client, run = started(
        step("PENDING"),
        step("RUNNING", task("SUCCEEDED", name="root-driver", number=9), task("RUNNING")),
        step("RUNNING", task("SUCCEEDED"), task("RUNNING", number=2)),
        step("RUNNING", task("SUCCEEDED"), task("RUNNING", number=2)),
        step("SUCCEEDED", task("SUCCEEDED"), task("SUCCEEDED", number=2), task("SKIPPED", number=3)),
    )
    events = []

    outcome = follow(client, run, on_event=events.append, poll_seconds=0.0)

    assert [(event.task, event.state, event.seconds) for event in events] == [
        ("check-drift", "started", 0.0),
        ("check-drift", "succeeded", 10.0),
        ("check-drift", "started", 0.0),
        ("check-drift", "succeeded", 10.0),
    ]
    assert (outcome.succeeded, outcome.state, outcome.cause, outcome.run_id) == (True, "succeeded", "", run)
    assert outcome.events == tuple(events)


@pytest.mark.parametrize(
    ("end", "state", "cause"),
    [
        pytest.param(step("SKIPPED"), "skipped", "", id="skipped-is-fine"),
        pytest.param(step("CANCELED"), "terminated", "it was terminated", id="terminated"),
        pytest.param(step("FAILED"), "failed", "Kubeflow tells no failed task", id="nothing-told"),
        pytest.param(
            step("FAILED", state_history=[{"state": "FAILED", "error": {"code": 13, "message": "quota\n exceeded"}}]),
            "failed",
            "quota exceeded",
            id="error-of-the-run",
        ),
        pytest.param(
            step("FAILED", task("SUCCEEDED"), task("FAILED", number=2, error={"message": "OOMKilled"})),
            "failed",
            "check-drift: OOMKilled",
            id="error-of-the-task",
        ),
        pytest.param(
            step("FAILED", task("FAILED", state_history=[{"error": None}, {"error": {"message": "evicted"}}])),
            "failed",
            "check-drift: evicted",
            id="error-in-the-history",
        ),
        pytest.param(
            step("FAILED", task("FAILED", child_tasks=[{"pod_name": "wf-123"}])),
            "failed",
            "check-drift: no window",
            id="error-in-the-log",
        ),
        pytest.param(
            step(
                "FAILED",
                task("FAILED", child_tasks=[{"pod_name": "wf-999"}]),
                task("FAILED", number=5, name="executor", child_tasks=[{"pod_name": "wf-5"}]),
            ),
            "failed",
            "check-drift: no window",
            id="error-in-the-log-of-an-attempt",
        ),
        pytest.param(
            step("FAILED", task("FAILED", child_tasks=[{"pod_name": "wf-7"}])),
            "failed",
            "check-drift: Kubeflow tells no error; see the log on the page of the run",
            id="log-is-gone",
        ),
    ],
)
def test_end_is_told_with_its_cause(started, end, state, cause):
    logs = {"wf-system-container-impl-123": TRACEBACK, "wf-retry-system-container-impl-5": TRACEBACK}
    _, client, run = started(end, logs=logs)

    outcome = follow(client, run, poll_seconds=0.0)

    assert (outcome.state, outcome.cause) == (state, cause)


@pytest.mark.parametrize("kind", ["drop", "lose", 500, 503])
def test_lost_connection_resumes_and_is_told(started, kind):
    server, client, run = started(step("RUNNING", task("RUNNING")), step("SUCCEEDED", task("SUCCEEDED")))
    client._patience = 0.0
    server.outages = [Outage(kind, times=5, when=lambda _, path: "/runs/" in path and len(server.requests) % 2 == 0)]
    outages, events = [], []

    outcome = follow(client, run, on_event=events.append, on_outage=outages.append, poll_seconds=0.0)

    assert outcome.succeeded
    assert outages
    assert all(told.startswith(client.host) for told in outages)
    assert [event.state for event in events][-1] == "succeeded"


def test_outage_without_an_end_says_that_the_run_goes_on(started):
    server, client, run = started(step("RUNNING"))
    client._patience = 0.0
    server.outages = [Outage("drop", times=10**6)]

    with pytest.raises(StillRunning, match=r"the connection broke .*; the run goes on"):
        follow(client, run, poll_seconds=0.01, outage_seconds=0.1)


def test_time_that_is_over_says_that_the_run_goes_on(started):
    _, client, run = started(step("RUNNING"))
    begun = time.monotonic()

    with pytest.raises(StillRunning, match=f"run {run} has not ended within 0.2 s; it goes on"):
        follow(client, run, poll_seconds=0.05, timeout_seconds=0.2)

    assert time.monotonic() - begun < 3.0


def test_token_that_expires_while_following_says_that_the_run_goes_on(started):
    server, client, run = started(step("RUNNING"))
    client._credentials = FixedHeader("Authorization", "Bearer first", source="the token in KF_PIPELINES_TOKEN", secret="first")

    def expires(_: object) -> None:
        server.tokens = {"second"}

    server.progress = [step("RUNNING", task("RUNNING"))]
    with pytest.raises(StillRunning, match=r"not authenticated \(the token in KF_PIPELINES_TOKEN sent\).*; the run goes on"):
        follow(client, run, on_event=expires, poll_seconds=0.0)


def test_run_that_kubeflow_cannot_read_itself_is_not_waited_for(started):
    _, client, run = started({"state": "", "error": {"code": 13, "message": "Failed to parse runtime config"}})

    with pytest.raises(PipelineError, match=f"run {run}: Kubeflow cannot tell how it is: Failed to parse runtime config"):
        follow(client, run)


def test_run_that_does_not_exist_is_one_line(started):
    _, client, _ = started()

    with pytest.raises(ApiRefusal, match=r"none not found \(HTTP 404\)"):
        follow(client, "none")


def test_run_whose_pipeline_may_not_be_seen_is_followed_all_the_same(started):
    server, client, run = started(step("SUCCEEDED", task("SUCCEEDED")))
    server.versions.clear()
    events = []

    outcome = follow(client, run, on_event=events.append)

    assert (outcome.succeeded, events) == (True, [])
