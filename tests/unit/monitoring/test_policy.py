from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.monitoring.policy import decide
from tidegate.monitoring.records import DriftCheck, Retraining
from tidegate.project import DriftPolicySection

START = datetime(2013, 4, 1, tzinfo=UTC)
Make = Callable[..., DriftCheck]
POLICY = DriftPolicySection(drifted_windows=2, of_windows=3, cooldown_days=30, budget=2, budget_days=365)


def at(day: float) -> datetime:
    return START + timedelta(days=day)


def retrained(day: float, number: int = 1, version: int = 1) -> Retraining:
    return Retraining(
        number=number,
        model="flights",
        version=version,
        at=at(day),
        window_end=at(day),
        reason="drift",
        run_id="run",
        claimed_at=at(day),
    )


@pytest.mark.parametrize(
    ("windows", "retrain", "reason"),
    [
        pytest.param("", False, "0 of the last 0", id="no check yet"),
        pytest.param("D", False, "1 of the last 1", id="one of two needed"),
        pytest.param("DD", True, "2 of the last 2", id="two in a row"),
        pytest.param("DND", True, "2 of the last 3", id="two of three"),
        pytest.param("DNND", False, "1 of the last 3", id="the first fell out of the last three"),
        pytest.param("NNN", False, "0 of the last 3", id="no drift"),
    ],
)
def test_hysteresis(make_check: Make, windows: str, retrain: bool, reason: str) -> None:
    checks = [make_check(7 * day, drifted=kind == "D") for day, kind in enumerate(windows)]

    decision = decide(POLICY, checks, [], at(100))

    assert decision.retrain is retrain
    assert reason in decision.reason


def test_an_uncounted_window_takes_its_place_as_not_drifted(make_check: Make) -> None:
    checks = [make_check(0, drifted=True), make_check(7, drifted=False, counted=False), make_check(14, drifted=False)]

    assert not decide(POLICY, [*checks, make_check(21, drifted=True)], [], at(21)).retrain


def test_a_promotion_starts_a_new_history(make_check: Make) -> None:
    checks = [make_check(0, drifted=True), make_check(7, drifted=True, version=2)]

    assert "1 of the last 1" in decide(POLICY, checks, [], at(7)).reason


def test_evidence_before_a_retraining_is_spent(make_check: Make) -> None:
    checks = [make_check(day, drifted=True) for day in (0, 7, 14, 45)]

    assert not decide(POLICY, checks, [retrained(14)], at(45)).retrain
    assert decide(POLICY, [*checks, make_check(52, drifted=True)], [retrained(14)], at(52)).retrain


def test_no_retraining_within_the_cooldown(make_check: Make) -> None:
    checks = [make_check(day, drifted=True) for day in (21, 28)]

    decision = decide(POLICY, checks, [retrained(14)], at(28))

    assert not decision.retrain
    assert "cooldown lasts until 2013-05-15T00:00Z" in decision.reason


def test_no_retraining_above_the_budget(make_check: Make) -> None:
    checks = [make_check(day, drifted=True) for day in (200, 207)]

    decision = decide(POLICY, checks, [retrained(50, 1), retrained(100, 2)], at(207))

    assert not decision.retrain
    assert "budget of 2 retrainings in 365 days is spent" in decision.reason


def test_the_budget_returns_with_time(make_check: Make) -> None:
    checks = [make_check(day, drifted=True) for day in (420, 427)]

    assert decide(POLICY, checks, [retrained(50, 1), retrained(100, 2)], at(427)).retrain


def test_of_two_checks_of_a_window_the_later_counts(make_check: Make) -> None:
    checks = [make_check(0, drifted=True), make_check(7, drifted=True), make_check(7, drifted=False)]

    assert not decide(POLICY, checks, [], at(7)).retrain


def test_a_check_of_the_future_does_not_count(make_check: Make) -> None:
    checks = [make_check(0, drifted=True), make_check(7, drifted=True)]

    assert not decide(POLICY, checks, [], at(3)).retrain


policies = st.builds(
    lambda k, more, cooldown, budget: DriftPolicySection(
        drifted_windows=k, of_windows=k + more, cooldown_days=cooldown, budget=budget, budget_days=100
    ),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 60),
    st.integers(0, 3),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(policy=policies, windows=st.lists(st.booleans(), max_size=40))
def test_a_life_lived_under_the_policy_keeps_its_promises(
    make_check: Make, policy: DriftPolicySection, windows: list[bool]
) -> None:
    checks: list[DriftCheck] = []
    retrainings: list[Retraining] = []
    for week, drifted in enumerate(windows):
        now = 7 * week
        checks.append(make_check(now, drifted=drifted))
        if decide(policy, checks, retrainings, at(now)).retrain:
            retrainings.append(retrained(now, len(retrainings) + 1))

    days = [(retraining.at - START).days for retraining in retrainings]
    assert all(later - earlier >= policy.cooldown_days for earlier, later in pairwise(days))
    for day in days:
        assert sum(day - policy.budget_days < other <= day for other in days) <= policy.budget
        spent = max((other for other in days if other < day), default=-1)
        fresh = [drifted for week, drifted in enumerate(windows) if spent < 7 * week <= day]
        assert sum(fresh[-policy.of_windows :]) >= policy.drifted_windows
    if sum(windows) < policy.drifted_windows:
        assert not days
