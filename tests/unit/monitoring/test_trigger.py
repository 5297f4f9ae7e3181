from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from tidegate.errors import MonitoringError
from tidegate.monitoring import trigger
from tidegate.monitoring.records import DriftCheck, Retraining, check_key, encode, read_retrainings, retraining_key
from tidegate.monitoring.trigger import consider_retraining, mark_finished, mark_started
from tidegate.project import DriftPolicySection
from tidegate.storage import ObjectStore

POLICY = DriftPolicySection(drifted_windows=2, of_windows=3, cooldown_days=30, budget=2)
Make = Callable[..., DriftCheck]


@pytest.fixture
def newest(store: ObjectStore, make_check: Make) -> DriftCheck:
    return recorded(store, make_check(0, drifted=True), make_check(7, drifted=True))


def recorded(store: ObjectStore, *checks: DriftCheck) -> DriftCheck:
    for check in checks:
        store.put(check_key(check.model, check.window_end), encode(check))
    return checks[-1]


def claimed(store: ObjectStore, check: DriftCheck, run_id: str) -> Retraining | None:
    return consider_retraining(POLICY, store, check, run_id=run_id)[1]


def test_drift_claims_a_retraining_with_its_reason(store: ObjectStore, newest: DriftCheck) -> None:
    decision, retraining = consider_retraining(POLICY, store, newest, run_id="a")

    assert decision.retrain
    assert read_retrainings(store, "flights") == [retraining]
    assert retraining is not None
    assert (retraining.number, retraining.state, retraining.reason) == (1, "claimed", decision.reason)


def test_no_drift_claims_nothing(store: ObjectStore, make_check: Make) -> None:
    check = recorded(store, make_check(0, drifted=True), make_check(7, drifted=False))

    assert claimed(store, check, "a") is None
    assert read_retrainings(store, "flights") == []


def test_of_many_concurrent_runs_exactly_one_starts_the_release(store: ObjectStore, newest: DriftCheck) -> None:
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda run: claimed(store, newest, f"run-{run}"), range(16)))

    assert sum(outcome is not None for outcome in outcomes) == 1
    assert len(read_retrainings(store, "flights")) == 1


def test_runs_with_different_windows_do_not_both_retrain(store: ObjectStore, newest: DriftCheck, make_check: Make) -> None:
    # given two runs that decided on the same history, for different windows
    later = recorded(store, make_check(8, drifted=True))
    decision, first = consider_retraining(POLICY, store, newest, run_id="a")

    # when the second claims what it decided before it could see the first's claim
    second = trigger.claim_retraining(store, later, decision, number=1, run_id="b")

    # then it loses
    assert first is not None
    assert second is None


def test_the_same_run_tried_again_resumes_its_claim(store: ObjectStore, newest: DriftCheck) -> None:
    first = claimed(store, newest, "a")
    again = claimed(store, newest, "a")

    assert first is not None
    assert again is not None
    assert again.number == first.number
    assert len(read_retrainings(store, "flights")) == 1


def test_another_run_takes_over_only_after_the_lease(
    store: ObjectStore, newest: DriftCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = claimed(store, newest, "a")
    assert claimed(store, newest, "b") is None

    monkeypatch.setattr(trigger, "LEASE", timedelta(0))
    taken = claimed(store, newest, "b")

    assert taken is not None
    assert taken.run_id == "b"
    assert crashed is not None
    with pytest.raises(MonitoringError, match="run 'b'; run 'a' must not go on"):
        mark_started(store, crashed, release_id="r")


def test_a_started_release_is_never_started_by_another_run(
    store: ObjectStore, newest: DriftCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    retraining = claimed(store, newest, "a")
    assert retraining is not None
    started = mark_started(store, retraining, release_id="release-1")

    monkeypatch.setattr(trigger, "LEASE", timedelta(0))

    assert claimed(store, newest, "b") is None
    mark_finished(store, started, outcome="promoted")
    assert claimed(store, newest, "a") is None
    assert read_retrainings(store, "flights")[0].outcome == "promoted"


def test_a_malformed_record_is_named(store: ObjectStore, newest: DriftCheck) -> None:
    store.put(retraining_key("flights", 1), b"{")

    with pytest.raises(MonitoringError, match=r"000001\.json: not a Retraining record"):
        claimed(store, newest, "a")


def test_records_round_trip(make_check: Make) -> None:
    check = make_check(3, drifted=True)

    assert msgspec.json.decode(encode(check), type=DriftCheck) == check
    assert check_key("m", datetime(2013, 6, 1, 12, tzinfo=UTC)) == "monitoring/m/checks/20130601T120000Z.json"
