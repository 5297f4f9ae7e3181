"""The judge: a pure function from what was counted to whether a canary continues, advances, or is rolled back.

It decides by confidence sequences, so its promises hold over all looks and all steps of a rollout together:

- a canary that keeps within the allowances is rolled back for errors, latency or silence with probability at most
  1 - confidence;
- a canary beyond an allowance gets all of the traffic with probability at most 1 - confidence.

Three rules:

    roll back   once the counts of this step *show* that the canary is beyond an allowance, or gets far less traffic than it
                was given (silence is evidence), or when the step stays undecided for `max_step_seconds`;
    prove       the last step in which the stable still gets traffic is passed only once the counts of this step *show* that
                the canary keeps within both allowances: after it, more requests of the canary alone could not show it;
    advance     every step is passed only after `min_requests`, while its estimates lie within the allowances.

A canary is compared with the stable's requests of the same step, so that what befalls both is held against neither. Where the
stable gets less than half of the traffic it is represented by all its requests since the rollout began.
"""

import math
from typing import Literal

import msgspec

from tidegate.errors import RolloutError
from tidegate.project import RolloutSection
from tidegate.rollout.confidence import Interval, quantile_estimate, quantile_interval, rate_interval
from tidegate.rollout.metrics_source import RevisionCounters

QUANTILE = 0.95
_CHECKS = 3  # errors, latency, silence: each may roll back, so each gets a third of the error budget
_SILENT_SHARE = 0.5  # a canary is silent once it is shown to get less than this part of its due traffic


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted of both revisions over the same time."""

    stable: RevisionCounters
    canary: RevisionCounters


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """All that the judge sees at one look.

    `step` indexes the rollout's steps; `step_seconds` is how long it has lasted; `in_step` and `in_rollout` are what was
    counted since the step, and since the first step, began.
    """

    step: int
    step_seconds: float
    in_step: Pair
    in_rollout: Pair


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of both revisions: estimates, and the intervals that hold at all looks at once.

    Error rates are shares, latencies are seconds; an estimate or an upper bound is None while unknown.
    `canary_low > allowed_high` shows the canary beyond the allowance, `proof_high <= proof_allowed` shows it within.
    """

    stable: float | None
    canary: float | None
    canary_low: float
    allowed_high: float | None  # the stable's upper bound with the allowance
    proof_high: float | None
    proof_allowed: float  # the stable's lower bound with the allowance
    within: bool  # the estimates lie within the allowance

    @property
    def shown_beyond(self) -> bool:
        """The canary is shown to be beyond the allowance."""
        return self.allowed_high is not None and self.canary_low > self.allowed_high

    @property
    def shown_within(self) -> bool:
        """The canary is shown to keep within the allowance."""
        return self.proof_high is not None and self.proof_high <= self.proof_allowed


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers behind a judgement, of the current step."""

    stable_requests: int
    stable_errors: int
    canary_requests: int
    canary_errors: int
    canary_share: float | None
    canary_share_high: float  # upper bound, at all looks at once
    errors: Comparison
    latency: Comparison


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What to do after a look, why, and on which numbers."""

    verdict: Literal["continue", "advance", "rollback"]
    reason: str
    evidence: Evidence


def judge(rules: RolloutSection, observation: Observation) -> Judgement:
    """Decide after one look; to advance from the last step is to promote.

    Raises:
        RolloutError: The rules allow nothing that could ever be shown, see `check_rules`.
    """
    check_rules(rules)
    evidence = _weigh(rules, observation)
    verdict, reason = _decide(rules, observation, evidence)
    return Judgement(verdict=verdict, reason=reason, evidence=evidence)


def check_rules(rules: RolloutSection) -> None:
    """Refuse rules under which no canary could ever be shown good; raises RolloutError naming the field."""
    if rules.max_error_increase <= 0:
        raise RolloutError(
            "rollout.max_error_increase is 0: no number of requests can show that two error rates are equal; "
            "use a small allowance such as 0.001"
        )
    if rules.max_latency_ratio <= 1.1:
        raise RolloutError(
            f"rollout.max_latency_ratio is {rules.max_latency_ratio:g}: latency is counted in buckets of 10 %, which cannot "
            "show a smaller difference; use more than 1.1, such as 1.5"
        )


def requests_needed(rules: RolloutSection) -> int:
    """Return how many canary requests without any error it takes to show the canary within the error allowance."""
    low, high = 1, 1 << 40
    while low < high:
        middle = (low + high) // 2
        if rate_interval(0, middle, (1 - rules.confidence) / 2).high <= rules.max_error_increase:
            high = middle
        else:
            low = middle + 1
    return low


def _weigh(rules: RolloutSection, observation: Observation) -> Evidence:
    in_step, in_rollout = observation.in_step, observation.in_rollout
    percent = rules.steps[observation.step]
    reference = in_step.stable if percent <= 50 else in_rollout.stable
    alpha = (1 - rules.confidence) / (_CHECKS * len(rules.steps))
    total = in_step.stable.requests + in_step.canary.requests
    return Evidence(
        stable_requests=reference.requests,
        stable_errors=reference.errors,
        canary_requests=in_step.canary.requests,
        canary_errors=in_step.canary.errors,
        canary_share=in_step.canary.requests / total if total else None,
        canary_share_high=rate_interval(in_step.canary.requests, total, alpha).high,
        errors=_compare_errors(rules, in_step.canary, reference, alpha),
        latency=_compare_latency(rules, in_step.canary, reference, alpha),
    )


def _compare_errors(rules: RolloutSection, canary: RevisionCounters, stable: RevisionCounters, alpha: float) -> Comparison:
    allowance = rules.max_error_increase
    stable_rate, canary_rate = _error_rate(stable), _error_rate(canary)
    return Comparison(
        stable=stable_rate,
        canary=canary_rate,
        canary_low=_error_interval(canary, alpha / 2).low,
        allowed_high=_error_interval(stable, alpha / 2).high + allowance,
        proof_high=_error_interval(canary, (1 - rules.confidence) / 2).high,
        proof_allowed=_error_interval(stable, (1 - rules.confidence) / 2).low + allowance,
        within=stable_rate is not None and canary_rate is not None and canary_rate <= stable_rate + allowance,
    )


def _compare_latency(rules: RolloutSection, canary: RevisionCounters, stable: RevisionCounters, alpha: float) -> Comparison:
    ratio = rules.max_latency_ratio
    stable_p95, canary_p95 = (quantile_estimate(each.latency, QUANTILE) for each in (stable, canary))
    finest = canary.latency.bounds[0] if canary.latency.bounds else 0.0
    proof_alpha = (1 - rules.confidence) / 2
    return Comparison(
        stable=stable_p95,
        canary=canary_p95,
        canary_low=quantile_interval(canary.latency, QUANTILE, alpha / 2).low,
        allowed_high=_known(quantile_interval(stable.latency, QUANTILE, alpha / 2).high * ratio),
        proof_high=_known(quantile_interval(canary.latency, QUANTILE, proof_alpha).high),
        proof_allowed=max(quantile_interval(stable.latency, QUANTILE, proof_alpha).low * ratio, finest),
        within=stable_p95 is not None and canary_p95 is not None and canary_p95 <= stable_p95 * ratio,
    )


def _decide(
    rules: RolloutSection, observation: Observation, evidence: Evidence
) -> tuple[Literal["continue", "advance", "rollback"], str]:
    percent = rules.steps[observation.step]
    proving = observation.step == max(len(rules.steps) - 2, 0)
    beyond = _shown_beyond(percent, evidence)
    if beyond:
        return "rollback", beyond
    missing = _missing(rules, evidence, proving)
    if not missing:
        return "advance", _praise(evidence, proving)
    if observation.step_seconds >= rules.max_step_seconds:
        return "rollback", f"undecided after {observation.step_seconds:.0f} s at {percent} %: {missing}"
    return "continue", missing


def _shown_beyond(percent: int, evidence: Evidence) -> str:
    errors, latency = evidence.errors, evidence.latency
    if errors.shown_beyond:
        return (
            f"error rate: the canary's is at least {_percent(errors.canary_low)} ({evidence.canary_errors} of "
            f"{evidence.canary_requests} requests), more than the {_percent(errors.allowed_high)} that the stable's allows"
        )
    if latency.shown_beyond:
        return (
            f"latency: the canary's p95 is at least {_milliseconds(latency.canary_low)}, more than the "
            f"{_milliseconds(latency.allowed_high)} that the stable's allows"
        )
    if percent < 100 and evidence.canary_share_high < _SILENT_SHARE * percent / 100:
        return (
            f"silence: the canary is to get {percent} % of the traffic, but gets {_percent(evidence.canary_share)} "
            f"({evidence.canary_requests} requests), shown to be less than half of it"
        )
    return ""


def _missing(rules: RolloutSection, evidence: Evidence, proving: bool) -> str:
    """Say what keeps this step from being passed, or nothing."""
    errors, latency = evidence.errors, evidence.latency
    if evidence.canary_requests + evidence.stable_requests == 0:
        return "no traffic"
    if evidence.canary_requests < rules.min_requests:
        return f"{evidence.canary_requests} of {rules.min_requests} canary requests"
    if errors.stable is None:
        return "no request of the stable to compare with"
    if not errors.within:
        return f"error rate {_percent(errors.canary)} against the stable's {_percent(errors.stable)}: not yet shown good or bad"
    if latency.stable is None or latency.canary is None:
        return f"no latency observed of the {'canary' if latency.canary is None else 'stable'}"
    if not latency.within:
        return (
            f"p95 {_milliseconds(latency.canary)} against the stable's {_milliseconds(latency.stable)}: "
            "not yet shown good or bad"
        )
    if proving and not errors.shown_within:
        return f"error rate is shown to be at most {_percent(errors.proof_high)}, not yet {_percent(errors.proof_allowed)}"
    if proving and not latency.shown_within:
        high, allowed = _milliseconds(latency.proof_high), _milliseconds(latency.proof_allowed)
        return f"p95 is shown to be at most {high}, not yet {allowed}"
    return ""


def _praise(evidence: Evidence, proving: bool) -> str:
    errors, latency = evidence.errors, evidence.latency
    if proving:
        return (
            f"shown good: error rate at most {_percent(errors.proof_high)} (allowed {_percent(errors.proof_allowed)}), "
            f"p95 at most {_milliseconds(latency.proof_high)} (allowed {_milliseconds(latency.proof_allowed)})"
        )
    return (
        f"{evidence.canary_requests} requests; error rate {_percent(errors.canary)} against {_percent(errors.stable)}, "
        f"p95 {_milliseconds(latency.canary)} against {_milliseconds(latency.stable)}"
    )


def _error_rate(counters: RevisionCounters) -> float | None:
    return min(counters.errors / counters.requests, 1.0) if counters.requests else None


def _error_interval(counters: RevisionCounters, alpha: float) -> Interval:
    return rate_interval(min(counters.errors, counters.requests), counters.requests, alpha)


def _known(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.2%}"


def _milliseconds(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds * 1000:.3g} ms"
