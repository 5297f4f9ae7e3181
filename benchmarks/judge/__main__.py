"""Plays simulated rollouts to three judges, and counts wrong verdicts and how late the right ones come.

    python -m benchmarks.judge [--rollouts 100] [--json judge.json]

Every judge sees the same rules and the same kind of traffic: 200 requests a second, a look every 2 s, steps 5, 25, 50, 100 %.
Tidegate's judge is the product's own code. A rollout ends when the judge rolls back or has passed the last step.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.judge.rivals import FixedThresholds, Interval, RepeatedZTest
from tidegate.project import RolloutSection
from tidegate.rollout.judge import Observation, Pair, judge
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters

BOUNDS = 1e-4 * 1.1 ** np.arange(70)
LOOK_SECONDS = 2.0
REQUESTS_PER_LOOK = 400
SPREAD = 0.4  # of the logarithm of the latency
Look = Callable[[int, float, Interval, Interval, Interval], str]


@dataclass(frozen=True)
class Scenario:
    """What the two revisions really do."""

    name: str
    good: bool | None  # None: exactly at the allowance, where either verdict is right
    stable_errors: float = 0.002
    canary_errors: float = 0.002
    slowdown: float = 1.0
    min_requests: int = 200


SCENARIOS = (
    Scenario("alike", good=True),
    Scenario("alike, 1000 requests a step", good=True, min_requests=1000),
    Scenario("alike, no errors", good=True, stable_errors=0.0, canary_errors=0.0),
    Scenario("errors at the allowance (+1 %)", good=None, canary_errors=0.012),
    Scenario("errors +2 %", good=False, canary_errors=0.022),
    Scenario("errors +5 %", good=False, canary_errors=0.052),
    Scenario("errors +20 %", good=False, canary_errors=0.202),
    Scenario("errors 100 %", good=False, canary_errors=1.0),
    Scenario("latency x2", good=False, slowdown=2.0),
    Scenario("latency x4", good=False, slowdown=4.0),
)


@dataclass(frozen=True)
class Result:
    """How one judge fared in one scenario. `wrong` is the share of false rollbacks, or of false promotions."""

    scenario: str
    judge: str
    promoted: float
    rolled_back: float
    undecided: float
    wrong: float | None
    median_looks: float
    median_canary_requests: float
    median_failed_canary_requests: float


def tidegate_judge(rules: RolloutSection) -> Look:
    """Return Tidegate's judge; a rollback for lack of a decision is told apart."""

    def look(step: int, seconds: float, interval: Interval, in_step: Interval, in_rollout: Interval) -> str:
        observation = Observation(step=step, step_seconds=seconds, in_step=pair(in_step), in_rollout=pair(in_rollout))
        judgement = judge(rules, observation)
        return "undecided" if judgement.reason.startswith("undecided") else judgement.verdict

    return look


def rival(judged: FixedThresholds | RepeatedZTest) -> Look:
    """Let a rival judge; at 100 % it compares with the stable's earlier requests, as Tidegate's does."""

    def look(step: int, seconds: float, interval: Interval, in_step: Interval, in_rollout: Interval) -> str:
        if interval.requests[0] == 0:
            interval, in_step = with_stable(interval, in_rollout), with_stable(in_step, in_rollout)
        return judged.look(interval, in_step)

    return look


def play(scenario: Scenario, rules: RolloutSection, look: Look, seed: int) -> tuple[str, int, int, int]:
    """Play one rollout; return its outcome, looks, canary requests, and canary errors."""
    rng = np.random.default_rng(seed)
    shares = np.array([bucket_shares(0.002), bucket_shares(0.002 * scenario.slowdown)])
    rates = np.array([scenario.stable_errors, scenario.canary_errors])
    in_rollout, looks = nothing(), 0
    for step, percent in enumerate(rules.steps):
        in_step, verdict, seconds = nothing(), "continue", 0.0
        while verdict == "continue":
            to_canary = rng.binomial(REQUESTS_PER_LOOK, percent / 100)
            requests = np.array([REQUESTS_PER_LOOK - to_canary, to_canary])
            interval = Interval(requests, rng.binomial(requests, rates), rng.multinomial(requests, shares))
            in_step, in_rollout = plus(in_step, interval), plus(in_rollout, interval)
            looks, seconds = looks + 1, seconds + LOOK_SECONDS
            verdict = look(step, seconds, interval, in_step, in_rollout)
        if verdict != "advance":
            break
    outcome = "promoted" if verdict == "advance" else verdict
    return outcome, looks, int(in_rollout.requests[1]), int(in_rollout.errors[1])


def measure(scenario: Scenario, rollouts: int) -> list[Result]:
    """Play a scenario to every judge."""
    rules = RolloutSection(look_seconds=LOOK_SECONDS, min_requests=scenario.min_requests, max_step_seconds=120)
    judges: dict[str, Callable[[], Look]] = {
        "tidegate": lambda: tidegate_judge(rules),
        "fixed thresholds, 5 failures": lambda: rival(FixedThresholds(rules, BOUNDS, tolerated=5)),
        "fixed thresholds, 1 failure": lambda: rival(FixedThresholds(rules, BOUNDS, tolerated=1)),
        "repeated z-test": lambda: rival(RepeatedZTest(rules, BOUNDS)),
    }
    return [
        summarize(scenario, name, [play(scenario, rules, make(), seed) for seed in range(rollouts)])
        for name, make in judges.items()
    ]


def summarize(scenario: Scenario, name: str, played: list[tuple[str, int, int, int]]) -> Result:
    """Turn the rollouts of one judge into rates and medians."""
    outcomes = [outcome for outcome, *_ in played]
    share = {outcome: outcomes.count(outcome) / len(outcomes) for outcome in ("promoted", "rollback", "undecided")}
    wrong = None if scenario.good is None else share["rollback" if scenario.good else "promoted"]
    looks, requests, errors = (float(np.median(values)) for values in list(zip(*played, strict=True))[1:])
    return Result(
        scenario=scenario.name,
        judge=name,
        promoted=share["promoted"],
        rolled_back=share["rollback"],
        undecided=share["undecided"],
        wrong=wrong,
        median_looks=looks,
        median_canary_requests=requests,
        median_failed_canary_requests=errors,
    )


def bucket_shares(median: float) -> np.ndarray:
    """Return the share of latencies in each bucket of a lognormal."""
    below = [0.5 * (1 + math.erf((math.log(bound) - math.log(median)) / SPREAD / math.sqrt(2))) for bound in BOUNDS]
    return np.diff([0.0, *below, 1.0])


def nothing() -> Interval:
    """Return an interval in which nothing happened."""
    return Interval(np.zeros(2, int), np.zeros(2, int), np.zeros((2, len(BOUNDS) + 1), int))


def plus(one: Interval, other: Interval) -> Interval:
    """Return both intervals together."""
    return Interval(one.requests + other.requests, one.errors + other.errors, one.latencies + other.latencies)


def with_stable(interval: Interval, of: Interval) -> Interval:
    """Return the interval with the stable's counts of another."""
    return Interval(
        *(np.array([theirs[0], ours[1]]) for ours, theirs in zip(vars(interval).values(), vars(of).values(), strict=True))
    )


def pair(interval: Interval) -> Pair:
    """Return the interval as the product's judge reads it."""
    bounds = tuple(BOUNDS.tolist())
    stable, canary = (
        RevisionCounters(int(requests), int(errors), LatencyHistogram(bounds, tuple(latencies.tolist())))
        for requests, errors, latencies in zip(interval.requests, interval.errors, interval.latencies, strict=True)
    )
    return Pair(stable=stable, canary=canary)


def main() -> None:
    """Run every scenario, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100, help="simulated rollouts of each scenario and judge")
    parser.add_argument("--json", type=Path, help="write the results there as JSON")
    options = parser.parse_args()
    started = time.perf_counter()
    print(
        f"{'scenario':<32}{'judge':<30}{'wrong':>7}{'promoted':>10}{'undecided':>11}{'looks':>7}{'requests':>10}{'failed':>8}"
    )
    results = []
    for scenario in SCENARIOS:
        for result in measure(scenario, options.rollouts):
            results.append(result)
            wrong = "" if result.wrong is None else f"{result.wrong:.1%}"
            print(
                f"{result.scenario:<32}{result.judge:<30}{wrong:>7}{result.promoted:>10.1%}{result.undecided:>11.1%}"
                f"{result.median_looks:>7.0f}{result.median_canary_requests:>10.0f}{result.median_failed_canary_requests:>8.0f}",
                flush=True,
            )
    seconds = time.perf_counter() - started
    print(f"{options.rollouts} rollouts each, {seconds:.0f} s; looks, canary requests, failed canary requests: medians")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
