"""Settling a release from whatever its rollout left: the states that a killed step can leave, and those it must not touch."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tidegate.deployment.inference_service import Service
from tidegate.errors import DeploymentError, RolloutError
from tidegate.project import Project
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.release import settlement
from tidegate.release.record import ReleaseLedger
from tidegate.release.settlement import settle_rollout
from tidegate.rollout.record import RolloutJournal
from tidegate.rollout.rollout import start_rollout
from tidegate.storage import ObjectStore

RELEASE = "run-2"


class Target:
    """Holds the desired service; whatever is desired is in force."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.broken = False

    def apply(self, service: Service) -> None:
        if self.broken:
            raise DeploymentError("the cluster does not answer")
        self.service = service

    def get(self, name: str) -> Service | None:
        return self.service

    def wait(self, name: str, **_: object) -> None:
        pass

    def delete(self, name: str) -> None:
        self.service = None


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Target:
    target = Target()
    monkeypatch.setattr("tidegate.deployment.opening.open_target", lambda project: target)
    return target


@pytest.fixture
def ledger(store: ObjectStore, project: Project) -> ReleaseLedger:
    return ReleaseLedger(store, project.name)


@pytest.fixture
def registry(store: ObjectStore, make_package: Callable[..., Path], ledger: ReleaseLedger) -> ModelRegistry:
    """Version 1 is champion; version 2 was registered by the release."""
    registry = ModelRegistry(store)
    for content in ("first", "second"):
        registry.register(make_package(content), reason="test")
    registry.move_alias("flights-late", CHAMPION, 1, reason="test", expected=None)
    ledger.begin(RELEASE, event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="test")
    ledger.registered(RELEASE, 2)
    return registry


@pytest.fixture
def journal(project: Project, store: ObjectStore, registry: ModelRegistry, target: Target) -> RolloutJournal:
    """The rollout of version 2 beside version 1, which was started and nothing more."""
    start_rollout(project=project, store=store, registry=registry, target=target, version=1, env={}, reason="test")
    journal = RolloutJournal(store, project.name)
    first = journal.current()
    target.service = first.alone(first.canary)
    moved = first.moved_to("promoted", now=first.logged_at, reason="test")
    journal.save(msgspec.structs.replace(moved, outcome="the first"))
    start_rollout(project=project, store=store, registry=registry, target=target, version=2, env={}, reason="test")
    return RolloutJournal(store, project.name)


def leave(journal: RolloutJournal, target: Target, state: str) -> None:
    """Leave the rollout as a step leaves it that is killed in `state`, its traffic moved."""
    record = journal.current()
    record = journal.save(msgspec.structs.replace(record.moved_to(state, now=record.logged_at, reason="test"), in_force=0))
    target.service = record.desired()


@pytest.mark.parametrize("state", ["pending", "progressing", "promoting", "rolling_back"])
def test_unfinished_rollout_is_rolled_back(project, ledger, registry, journal, target, state):
    leave(journal, target, state)
    ledger.stop(RELEASE, "rollout: Prometheus does not answer")

    words = settle_rollout(project, release_id=RELEASE)

    assert (target.service.stable.name, target.service.canary) == ("v1", None)
    assert registry.alias("flights-late", CHAMPION).version == 1
    record, rollout = ledger.find(RELEASE), RolloutJournal(journal._store, project.name).current()
    assert (record.state, record.rollout_id, record.stopped_by) == ("rolled_back", rollout.rollout_id, "")
    assert words == f"version 2 was rolled back: {rollout.outcome}"
    cause = "aborted: the step that rolls out ended before the outcome: rollout: Prometheus does not answer"
    assert rollout.outcome == ("test" if state == "rolling_back" else cause)


def test_promotion_whose_alias_has_moved_is_completed(project, ledger, registry, journal, target):
    leave(journal, target, "promoting")
    registry.move_alias("flights-late", CHAMPION, 2, reason="test", expected=1)

    assert settle_rollout(project, release_id=RELEASE) == "version 2 was promoted: test"

    assert (target.service.stable.name, ledger.find(RELEASE).state) == ("v2", "promoted")


@pytest.mark.parametrize("state", ["promoted", "rolled_back"])
def test_finished_rollout_is_left_alone_and_written_down(project, ledger, registry, journal, target, state):
    leave(journal, target, state)
    before = (target.service, journal.current())
    target.broken = True  # nothing may be asked of it

    settle_rollout(project, release_id=RELEASE)
    again = settle_rollout(project, release_id=RELEASE)

    assert (target.service, journal.current()) == before
    assert (ledger.find(RELEASE).state, again) == (state, f"version 2 was {state.replace('_', ' ')}: ")


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        pytest.param("", "the step that rolls out ended before it began", id="killed"),
        pytest.param("rollout: no cluster", "rollout: no cluster", id="error"),
    ],
)
def test_rollout_that_never_began_is_told_with_its_cause(project, ledger, registry, target, cause, words):
    if cause:
        ledger.stop(RELEASE, cause)

    assert settle_rollout(project, release_id=RELEASE) == f"version 2 was not rolled out: {words}"

    assert (ledger.find(RELEASE).state, ledger.find(RELEASE).stopped_by) == ("stopped", words)


def test_rollout_of_another_version_is_none_of_this_release(project, store, ledger, registry, target):
    start_rollout(project=project, store=store, registry=registry, target=target, version=1, env={}, reason="test")
    before = RolloutJournal(store, project.name).current()

    assert settle_rollout(project, release_id=RELEASE).startswith("version 2 was not rolled out")

    assert RolloutJournal(store, project.name).current() == before


def test_rollback_that_fails_is_tried_again_when_the_step_is(project, ledger, registry, journal, target):
    leave(journal, target, "progressing")
    target.broken = True
    with pytest.raises(DeploymentError, match="the cluster does not answer"):
        settle_rollout(project, release_id=RELEASE)
    assert ledger.find(RELEASE).state == "registered"

    target.broken = False
    settle_rollout(project, release_id=RELEASE)

    assert (target.service.stable.name, target.service.canary) == ("v1", None)
    assert ledger.find(RELEASE).state == "rolled_back"


def test_rollout_that_someone_else_ends_at_the_same_moment_is_theirs(project, ledger, registry, journal, target, monkeypatch):
    leave(journal, target, "progressing")

    def ended_by_another(**_: object) -> None:
        record = journal.current()
        journal.save(
            msgspec.structs.replace(record.moved_to("rolled_back", now=record.logged_at, reason=""), outcome="by hand")
        )
        raise RolloutError("the rollout is rolled_back already")

    monkeypatch.setattr("tidegate.rollout.rollout.abort_rollout", ended_by_another)

    assert settlement.settle_rollout(project, release_id=RELEASE) == "version 2 was rolled back: by hand"


@pytest.mark.parametrize("begun", [pytest.param(True, id="no-version"), pytest.param(False, id="never-begun")])
def test_release_without_a_version_has_nothing_to_settle(project, ledger, begun):
    if begun:
        ledger.begin(RELEASE, event_time=datetime(2013, 4, 1, tzinfo=UTC), reason="test")

    with pytest.raises(RolloutError, match="release 'run-2' of flights-late registered no version"):
        settle_rollout(project, release_id=RELEASE)
