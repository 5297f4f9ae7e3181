"""The drift policy: hysteresis, cooldown and retrain budget turn drift checks into at most one retraining.

Pure, and in event time only: the same history gives the same decision, live or replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tidegate.monitoring.records import DriftCheck, Retraining
from tidegate.project import DriftPolicySection


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to retrain, and why, in words; `windows` are the drifted windows' ends that count towards it."""

    retrain: bool
    reason: str
    at: datetime
    windows: tuple[datetime, ...] = ()


def decide(
    policy: DriftPolicySection, checks: Sequence[DriftCheck], retrainings: Sequence[Retraining], now: datetime
) -> Decision:
    """Decide whether drift calls for a retraining now.

    Only checks of the newest check's version count, and only windows that end after the last retraining: a promotion or
    a retraining starts a new history, since the reference changed or the evidence is spent. Of two checks of one window
    the later counts. A window with too few rows takes its place among the last n, as not drifted.

    Args:
        policy: The project file's `monitoring.policy`.
        checks: The model's drift checks.
        retrainings: The model's retrainings, whatever became of them: one that failed has used its budget too.
        now: Event time of the decision.
    """
    earlier = [retraining for retraining in retrainings if retraining.at <= now]
    history = _history(checks, earlier, now)
    recent = history[-policy.of_windows :]
    windows = tuple(check.window_end for check in recent if check.drifted)
    seen = f"{len(windows)} of the last {len(recent)} windows drifted"
    if len(windows) < policy.drifted_windows:
        return Decision(False, f"{seen}; {policy.drifted_windows} of {policy.of_windows} are needed", now, windows)
    if earlier:
        ready = max(retraining.at for retraining in earlier) + timedelta(days=policy.cooldown_days)
        if now < ready:
            return Decision(False, f"{seen}, but the cooldown lasts until {ready:%Y-%m-%dT%H:%M}Z", now, windows)
    spent = sum(retraining.at > now - timedelta(days=policy.budget_days) for retraining in earlier)
    if spent >= policy.budget:
        budget = f"budget of {policy.budget} retrainings in {policy.budget_days:g} days"
        return Decision(False, f"{seen}, but the {budget} is spent", now, windows)
    return Decision(True, f"drift: {seen}; newest: {recent[-1].summary}", now, windows)


def _history(checks: Sequence[DriftCheck], retrainings: Sequence[Retraining], now: datetime) -> list[DriftCheck]:
    latest: dict[datetime, DriftCheck] = {}
    for check in checks:
        if check.window_end <= now:
            latest[check.window_end] = check
    history = [latest[end] for end in sorted(latest)]
    spent = max((retraining.window_end for retraining in retrainings), default=None)
    return [check for check in history if check.version == history[-1].version and (spent is None or check.window_end > spent)]
