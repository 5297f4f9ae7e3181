"""Schedules are upserted by name, though Kubeflow cannot change one: whatever breaks off, the same command finishes it."""

import dataclasses
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.kubeflow.authentication import Nobody
from pipelines.kubeflow.client import API, KubeflowPipelines
from pipelines.kubeflow.schedules import Schedules, Wanted
from pipelines.kubeflow.submission import Submitter, Uploaded
from tests.kfp_api.api import ACTIVE, KfpApi, Outage
from tests.kfp_api.server import serving
from tidegate.errors import PipelineError

NAME = "flights-late-drift"


class Crash(BaseException):
    """This process ends here."""


class Cut:
    """Ends the process at its request number `at`, before or after the server has done what was asked."""

    def __init__(self, session: Any, at: int | None, *, after: bool) -> None:
        self._request, self._at, self._after = session.request, at, after
        self.count = 0
        session.request = self

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self.count == self._at and not self._after:
            raise Crash
        answer = self._request(*arguments, **options)
        if self.count == self._at:
            raise Crash
        return answer


class Place:
    """A server with a pipeline in two versions, and commands that may crash."""

    def __init__(self, server: KfpApi, url: str) -> None:
        self.server, self.url = server, url
        self.experiment = self.schedules()._api.create(f"{API}/experiments", {"display_name": "flights-late"})

    def schedules(self, *, crash_at: int | None = None, after: bool = False) -> Schedules:
        api = KubeflowPipelines(self.url, Nobody(), timeout_seconds=5.0, patience_seconds=3.0, sleep=lambda _: None)
        submitter = Submitter(api, namespace=None)
        self.cut = Cut(api._session, crash_at, after=after)
        return Schedules(submitter)

    def wanted(self, version: str = "a", **changed: Any) -> Wanted:
        uploaded = Uploaded(pipeline_id="p1", version_id=f"id-{version}", version=f"{NAME}-{version}", fresh=False)
        plain = Wanted(
            name=NAME,
            cron="0 0 6 * * *",
            catch_up=False,
            uploaded=uploaded,
            parameters={"clock": "wall"},
            experiment_id=self.experiment["experiment_id"],
            service_account="tidegate-pipelines",
        )
        return dataclasses.replace(plain, **changed)

    def kept(self) -> list[tuple[str, bool]]:
        """Return the version and state of every recurring run there is."""
        return [
            (one["pipeline_version_reference"]["pipeline_version_id"], one["status"] == "ENABLED")
            for one in self.server.recurring.values()
        ]

    def fire(self) -> str:
        """Start a run, as the controller does, of what is enabled and has none going on."""
        (one,) = self.server.enabled(NAME)
        return self.server.fire(one["recurring_run_id"])

    def end_runs(self) -> None:
        for run in self.server.runs.values():
            run["state"] = "SUCCEEDED"


@pytest.fixture
def place():
    server = KfpApi()
    with serving(server) as url:
        yield Place(server, url)


def test_new_schedule_is_what_was_asked_for(place):
    change = place.schedules().put(place.wanted())

    (made,) = place.server.recurring.values()
    assert change.change == "created"
    assert change.kept is not None
    assert change.kept.recurring_run_id == made["recurring_run_id"]
    assert made["display_name"] == NAME
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 6 * * *"}}
    assert (made["max_concurrency"], made["no_catchup"], made["status"]) == ("1", True, "ENABLED")
    assert made["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "id-a"}
    assert made["runtime_config"] == {"parameters": {"clock": "wall"}}
    assert made["service_account"] == "tidegate-pipelines"


def test_equal_schedule_is_left_alone(place):
    first = place.schedules().put(place.wanted()).kept

    change = place.schedules().put(place.wanted())

    assert (change.change, change.kept) == ("unchanged", first)
    assert place.cut.count == 2  # it looked, and looked again


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"cron": "0 0 7 * * *"}, id="cron"),
        pytest.param({"catch_up": True}, id="catch-up"),
        pytest.param({"parameters": {"clock": "replay:x"}}, id="parameters"),
        pytest.param({"service_account": "other"}, id="service-account"),
        pytest.param({"uploaded": Uploaded("p1", "id-b", f"{NAME}-b", fresh=True)}, id="version-and-so-image"),
    ],
)
@pytest.mark.parametrize("enabled", [True, False])
def test_different_schedule_replaces_it_and_stays_as_enabled_or_paused_as_it_was(place, changed, enabled):
    old = place.schedules().put(place.wanted(), enabled=enabled).kept

    change = place.schedules().put(place.wanted(**changed))

    assert change.change == "replaced"
    assert change.kept.enabled is enabled
    assert old.recurring_run_id not in place.server.recurring
    assert len(place.server.recurring) == 1
    assert place.server.most_enabled[NAME] <= 1


@pytest.mark.parametrize(
    ("given_state", "asked", "change", "left"),
    [
        pytest.param(True, False, "changed", False, id="pause-an-enabled-one"),
        pytest.param(False, True, "changed", True, id="enable-a-paused-one"),
        pytest.param(False, None, "unchanged", False, id="leave-a-paused-one"),
    ],
)
def test_schedule_command_may_pause_and_resume(place, given_state, asked, change, left):
    place.schedules().put(place.wanted(), enabled=given_state)

    assert place.schedules().put(place.wanted(), enabled=asked).change == change
    assert place.kept() == [("id-a", left)]


def test_pause_resume_and_remove(place):
    place.schedules().put(place.wanted())

    assert place.schedules().switch(NAME, enabled=False).change == "paused"
    assert place.schedules().switch(NAME, enabled=False).change == "unchanged"
    assert place.kept() == [("id-a", False)]
    assert place.schedules().switch(NAME, enabled=True).change == "resumed"
    assert place.schedules().remove(NAME).change == "removed"
    assert place.kept() == []
    for missing in (lambda: place.schedules().remove(NAME), lambda: place.schedules().switch(NAME, enabled=True)):
        with pytest.raises(PipelineError, match=f"there is no schedule {NAME}; make one by"):
            missing()


def test_recurring_run_of_somebody_else_is_not_touched(place):
    body = place.wanted().body(generation=1, enabled=True, to_be_enabled=True, was_enabled=True) | {
        "description": "made in the UI"
    }
    place.schedules()._api.create(f"{API}/recurringruns", body)

    with pytest.raises(PipelineError, match="was not made by `python -m pipelines schedule`; delete it"):
        place.schedules().put(place.wanted())

    assert place.kept() == [("id-a", True)]


@pytest.mark.parametrize("enabled", [None, True, False])
@pytest.mark.parametrize("was_enabled", [True, False])
def test_schedule_whose_run_goes_on_is_not_replaced(place, enabled, was_enabled):
    place.server.knows_orphan = False
    place.schedules().put(place.wanted())
    run = place.fire()
    place.schedules().switch(NAME, enabled=was_enabled)

    with pytest.raises(PipelineError, match=f"{NAME} stays as it was: its run {run} goes on, and the new"):
        place.schedules().put(place.wanted("b"), enabled=enabled)

    assert place.kept() == [("id-a", was_enabled)]
    assert place.server.killed_runs == []
    place.end_runs()
    place.schedules().put(place.wanted("b"))
    assert place.kept() == [("id-b", was_enabled)]


@pytest.mark.parametrize("enabled", [True, False], ids=["resume", "pause"])
def test_replacement_that_broke_off_while_a_run_goes_on_is_taken_back_by_pause_and_resume(place, enabled):
    place.schedules().put(place.wanted())
    place.fire()
    (old,) = place.server.recurring.values()
    place.schedules()._api.create(
        f"{API}/recurringruns", place.wanted("b").body(generation=2, enabled=False, to_be_enabled=True, was_enabled=True)
    )
    old["status"] = "DISABLED"

    change = place.schedules().switch(NAME, enabled=enabled)

    assert change.change == ("resumed" if enabled else "paused")
    assert place.kept() == [("id-a", enabled)]


def test_what_a_schedule_runs_is_its_versions_name_and_image(place):
    place.server.versions["id-a"] = {
        "display_name": f"{NAME}-a",
        "pipeline_spec": {
            "pipeline_spec": {"deploymentSpec": {"executors": {"exec-x": {"container": {"image": "registry/x@sha256:1"}}}}},
            "platform_spec": {"platforms": {}},
        },
    }
    kept = place.schedules().put(place.wanted()).kept

    assert place.schedules().runs_what(kept) == (f"{NAME}-a", "registry/x@sha256:1")
    place.server.versions.clear()
    assert place.schedules().runs_what(kept) == ("deleted", "unknown")


def test_schedule_whose_run_goes_on_is_paused_but_not_yet_removed(place):
    place.server.knows_orphan = False
    place.schedules().put(place.wanted())
    run = place.fire()

    with pytest.raises(PipelineError, match=f"is paused, and not yet removed: its run {run} goes on"):
        place.schedules().remove(NAME)

    assert (place.kept(), place.server.killed_runs) == ([("id-a", False)], [])
    place.end_runs()
    place.schedules().remove(NAME)
    assert place.kept() == []


def test_history_tells_the_runs_of_this_schedule_and_of_what_it_replaced(place):
    reference = {"pipeline_id": "p1", "pipeline_version_id": "id-a"}
    place.schedules().put(place.wanted())
    first = place.fire()
    place.end_runs()
    place.server.versions["id-a"] = {"pipeline_spec": {"root": {}}}
    by_hand = {
        "display_name": "by hand",
        "experiment_id": place.experiment["experiment_id"],
        "pipeline_version_reference": reference,
    }
    place.schedules()._api.create(f"{API}/runs", by_hand)
    place.schedules().put(place.wanted("b"))
    second = place.fire()

    told = place.schedules().history(NAME, limit=5)

    assert [(run.run_id, run.state, run.version_id) for run in told] == [
        (second, "running", "id-b"),
        (first, "succeeded", "id-a"),
    ]
    assert told[0].link.endswith(f"/#/runs/details/{second}")
    assert [run.run_id for run in place.schedules().history(NAME, limit=1)] == [second]


COMMANDS: dict[str, Callable[[Schedules, Place], object]] = {
    "same": lambda schedules, place: schedules.put(place.wanted("a")),
    "other": lambda schedules, place: schedules.put(place.wanted("b")),
    "other-enabled": lambda schedules, place: schedules.put(place.wanted("b"), enabled=True),
    "other-paused": lambda schedules, place: schedules.put(place.wanted("b"), enabled=False),
    "pause": lambda schedules, place: schedules.switch(NAME, enabled=False),
    "resume": lambda schedules, place: schedules.switch(NAME, enabled=True),
    "remove": lambda schedules, place: schedules.remove(NAME),
}
BEGINNINGS = {"none": None, "enabled": True, "paused": False}


def begin(place: Place, beginning: str, *, run_goes_on: bool) -> None:
    place.server.recurring.clear()
    place.server.runs.clear()
    place.server.most_enabled.clear()
    if beginning != "none":
        place.schedules().put(place.wanted("a"))
        if run_goes_on:
            place.fire()
        place.schedules().switch(NAME, enabled=bool(BEGINNINGS[beginning]))


@pytest.mark.parametrize("run_goes_on", [False, True], ids=["idle", "a-run-goes-on"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_command_that_crashed_anywhere_is_finished_by_the_same_command(place, beginning, command, run_goes_on):
    """Every request of every command is a crash point, before and after the server has done it."""
    place.server.knows_orphan = False
    begin(place, beginning, run_goes_on=run_goes_on)
    with suppress(PipelineError):
        COMMANDS[command](place.schedules(), place)
    expected, requests = place.kept(), place.cut.count

    for crash_at in range(1, requests + 1):
        for after in (False, True):
            begin(place, beginning, run_goes_on=run_goes_on)
            with suppress(Crash, PipelineError):
                COMMANDS[command](place.schedules(crash_at=crash_at, after=after), place)
            with suppress(PipelineError):
                COMMANDS[command](place.schedules(), place)

            assert place.kept() == expected, f"crash at {crash_at}, after its effect: {after}"
            assert place.server.most_enabled.get(NAME, 0) <= 1
            assert place.server.killed_runs == []


STEP = st.tuples(st.sampled_from([*COMMANDS, "fire", "end"]), st.none() | st.integers(1, 14), st.booleans())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEP, max_size=9))
def test_whatever_happened_before_a_schedule_command_leaves_exactly_one_as_wanted(place, steps):
    place.server.knows_orphan = False
    begin(place, "none", run_goes_on=False)
    for name, crash_at, after in steps:
        if name == "fire":
            idle = [one for one in place.server.enabled(NAME) if not active_runs(place.server, one["recurring_run_id"])]
            for one in idle:
                place.server.fire(one["recurring_run_id"])
        elif name == "end":
            place.end_runs()
        else:
            with suppress(Crash, PipelineError):
                COMMANDS[name](place.schedules(crash_at=crash_at, after=after), place)
        assert len(active_runs(place.server)) <= 1
        assert place.server.most_enabled.get(NAME, 0) <= 1
    place.end_runs()

    place.schedules().put(place.wanted("c"), enabled=True)

    assert place.kept() == [("id-c", True)]
    assert place.server.most_enabled[NAME] == 1
    assert place.server.killed_runs == []


def active_runs(server: KfpApi, recurring_run_id: str | None = None) -> list[str]:
    return [
        run["run_id"]
        for run in server.runs.values()
        if run["state"] in ACTIVE and recurring_run_id in (None, run.get("recurring_run_id"))
    ]


@pytest.mark.parametrize("kind", ["drop", "lose", 500, 503])
@pytest.mark.parametrize("number", range(8))
def test_lost_connection_anywhere_leaves_one_schedule(place, kind, number):
    place.schedules().put(place.wanted())
    seen = []
    place.server.outages = [Outage(kind, when=lambda *_: seen.append(1) or len(seen) == number + 2)]

    place.schedules().put(place.wanted("b"))

    assert place.kept() == [("id-b", True)]
    assert place.server.most_enabled[NAME] == 1


def test_two_commands_at_the_same_time_end_with_one_schedule(place):
    place.schedules().put(place.wanted())
    barrier = threading.Barrier(4)

    def put(version: str) -> None:
        schedules = place.schedules()
        barrier.wait()
        with suppress(PipelineError):
            schedules.put(place.wanted(version))

    threads = [threading.Thread(target=put, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place.schedules().put(place.wanted("z"))

    assert place.kept() == [("id-z", True)]
