"""The judge's verdicts on counted traffic, and how often it errs over whole simulated rollouts."""

import math

import msgspec
import numpy as np
import pytest

from tidegate.errors import RolloutError
from tidegate.project import RolloutSection
from tidegate.rollout.judge import Judgement, Observation, Pair, judge, requests_needed
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters

BOUNDS = tuple(float(bound) for bound in 1e-4 * 1.1 ** np.arange(90))
RULES = RolloutSection(max_step_seconds=600)
FIRST, QUARTER, HALF, LAST = 0, 1, 2, 3


def counters(requests: int, errors: int = 0, median: float = 0.002, observed: int | None = None) -> RevisionCounters:
    """Counters whose latencies follow a lognormal exactly, rounded down, with the rest in the median's bucket."""
    z = (np.log(BOUNDS) - np.log(median)) / 0.4
    cumulative = np.array([0.5 * (1 + math.erf(each / math.sqrt(2))) for each in z])
    observed = requests if observed is None else observed
    counts = np.floor(np.diff(np.concatenate([[0], cumulative, [1]])) * observed).astype(int)
    counts[int(np.searchsorted(BOUNDS, median))] += observed - counts.sum()
    return RevisionCounters(requests, errors, LatencyHistogram(BOUNDS, tuple(int(count) for count in counts)))


def look(stable, canary, *, step=FIRST, seconds=10.0, rules=RULES, stable_before=None, canary_before=None) -> Judgement:
    """Judge one look; `*_before` is what was counted in earlier steps."""
    in_step = Pair(stable=stable, canary=canary)
    in_rollout = Pair(stable=stable_before or stable, canary=canary_before or canary)
    return judge(rules, Observation(step=step, step_seconds=seconds, in_step=in_step, in_rollout=in_rollout))


@pytest.mark.parametrize(
    ("given", "verdict", "reason"),
    [
        pytest.param({"stable": counters(0), "canary": counters(0)}, "continue", "no traffic", id="no-traffic"),
        pytest.param(
            {"stable": counters(0), "canary": counters(0), "seconds": 600.0},
            "rollback",
            "undecided after 600 s at 5 %: no traffic",
            id="no-traffic-for-too-long",
        ),
        pytest.param(
            {"stable": counters(950), "canary": counters(50)}, "continue", "50 of 200 canary requests", id="too-few-requests"
        ),
        pytest.param({"stable": counters(3800), "canary": counters(200)}, "advance", "200 requests", id="good"),
        pytest.param(
            {"stable": counters(3800, 190), "canary": counters(200, 10)}, "advance", "200 requests", id="both-fail-alike"
        ),
        pytest.param(
            {"stable": counters(133), "canary": counters(7, 7)},
            "rollback",
            "error rate: the canary's is at least",
            id="fails-its-first-seven",
        ),
        pytest.param({"stable": counters(57), "canary": counters(3, 3)}, "continue", "3 of 200", id="fails-its-first-three"),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, 6)},
            "continue",
            "error rate 3.00%",
            id="looks-worse-not-yet-shown",
        ),
        pytest.param({"stable": counters(9500), "canary": counters(500, 25)}, "rollback", "error rate", id="shown-worse"),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, median=0.008)},
            "rollback",
            "latency: the canary's p95 is at least",
            id="four-times-slower",
        ),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, median=0.0036)},
            "continue",
            "p95 6.63 ms against",
            id="looks-slower-not-yet-shown",
        ),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, median=0.0005)}, "advance", "200 requests", id="faster"
        ),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, observed=0)},
            "continue",
            "no latency observed of the canary",
            id="server-tells-nothing",
        ),
        pytest.param(
            {"stable": counters(3800), "canary": counters(200, observed=0), "seconds": 600.0},
            "rollback",
            "no latency observed of the canary",
            id="server-tells-nothing-for-too-long",
        ),
        pytest.param({"stable": counters(400), "canary": counters(0)}, "rollback", "silence", id="silent"),
        pytest.param({"stable": counters(50), "canary": counters(0)}, "continue", "0 of 200", id="too-early-for-silence"),
        pytest.param(
            {"stable": counters(8000), "canary": counters(100)}, "rollback", "gets 1.23%", id="gets-a-quarter-of-its-share"
        ),
        pytest.param(
            {"stable": counters(600), "canary": counters(200), "step": QUARTER}, "advance", "200 requests", id="second-step"
        ),
        pytest.param(
            {"stable": counters(300), "canary": counters(300), "step": HALF},
            "continue",
            "error rate is shown to be at most",
            id="not-yet-proven",
        ),
        pytest.param(
            {"stable": counters(900, median=0.002), "canary": counters(900, median=0.0026), "step": HALF},
            "continue",
            "p95 is shown to be at most",
            id="latency-not-yet-proven",
        ),
        pytest.param({"stable": counters(2000), "canary": counters(2000), "step": HALF}, "advance", "shown good", id="proven"),
        pytest.param(
            {"stable": counters(2000, median=2e-5), "canary": counters(2000, median=2e-5), "step": HALF},
            "advance",
            "shown good",
            id="both-faster-than-the-histogram-can-tell",
        ),
        pytest.param(
            {"stable": counters(0), "canary": counters(200), "step": LAST, "stable_before": counters(5000)},
            "advance",
            "200 requests",
            id="last-step",
        ),
        pytest.param(
            {"stable": counters(0), "canary": counters(30, 30), "step": LAST, "stable_before": counters(5000)},
            "rollback",
            "error rate",
            id="last-step-fails",
        ),
        pytest.param(
            {"stable": counters(0), "canary": counters(2000), "step": LAST},
            "continue",
            "no request of the stable",
            id="stable-never-seen",
        ),
    ],
)
def test_verdict(given, verdict, reason):
    judgement = look(**given)

    assert judgement.verdict == verdict
    assert reason in judgement.reason


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        pytest.param(RolloutSection(max_error_increase=0.0), "max_error_increase", id="no-error-allowance"),
        pytest.param(RolloutSection(max_latency_ratio=1.0), "max_latency_ratio", id="no-latency-allowance"),
    ],
)
def test_rules_that_nothing_could_meet_are_refused(rules, field):
    with pytest.raises(RolloutError, match=f"rollout.{field} is 1?0?: .* use"):
        look(counters(10), counters(10), rules=rules)


def test_requests_needed_is_the_first_number_that_shows_a_flawless_canary_good():
    needed = requests_needed(RULES)

    def verdict(requests: int) -> str:
        return look(counters(requests), counters(requests), step=HALF).reason

    assert "error rate is shown" in verdict(needed - 1)
    assert "error rate is shown" not in verdict(needed)


def test_judgement_is_deterministic_and_survives_json():
    first = look(counters(3800, 3), counters(200, 1))

    assert first == look(counters(3800, 3), counters(200, 1))
    assert msgspec.json.decode(msgspec.json.encode(first), type=Judgement) == first


def test_canary_alike_is_rolled_back_in_at_most_one_rollout_in_twenty():
    verdicts = [simulate(seed, stable_rate=0.005, canary_rate=0.005)[0] for seed in range(60)]

    assert verdicts.count("rollback") <= 3


def test_canary_at_the_very_allowance_is_hardly_ever_shown_worse():
    reasons = [simulate(seed, stable_rate=0.0, canary_rate=0.01)[2] for seed in range(60)]

    assert sum(reason.startswith("error rate: ") for reason in reasons) <= 3


def test_canary_beyond_the_allowance_is_promoted_in_at_most_one_rollout_in_twenty():
    promoted = [simulate(seed, stable_rate=0.0, canary_rate=0.02)[0] for seed in range(60)].count("advance")

    assert promoted <= 3


@pytest.mark.parametrize(
    ("rate", "within"),
    [
        pytest.param(1.0, 10, id="fails-everything"),
        pytest.param(0.2, 60, id="fails-one-in-five"),
        pytest.param(0.05, 500, id="fails-one-in-twenty"),
    ],
)
def test_failing_canary_is_found_within_so_many_canary_requests(rate, within):
    outcomes = [simulate(seed, stable_rate=0.0, canary_rate=rate, requests_per_look=20) for seed in range(20)]

    assert all(verdict == "rollback" for verdict, _, _ in outcomes)
    assert np.median([requests for _, requests, _ in outcomes]) <= within


def simulate(seed, *, stable_rate, canary_rate, requests_per_look=1000) -> tuple[str, int, str]:
    """Play a whole rollout; return its last verdict, its canary requests, and the reason."""
    rng = np.random.default_rng(seed)
    rules = RolloutSection(max_step_seconds=200)
    totals = np.zeros((2, 2), dtype=int)
    for step, percent in enumerate(rules.steps):
        in_step = np.zeros((2, 2), dtype=int)
        for number in range(1, 1000):
            to_canary = rng.binomial(requests_per_look, percent / 100)
            requests = np.array([requests_per_look - to_canary, to_canary])
            grown = np.array([requests, rng.binomial(requests, [stable_rate, canary_rate])])
            in_step, totals = in_step + grown, totals + grown
            judgement = judge(
                rules, Observation(step=step, step_seconds=10.0 * number, in_step=pair(in_step), in_rollout=pair(totals))
            )
            if judgement.verdict != "continue":
                break
        if judgement.verdict == "rollback":
            break
    return judgement.verdict, int(totals[0, 1]), judgement.reason


def pair(counts: np.ndarray) -> Pair:
    stable, canary = (
        RevisionCounters(int(requests), int(errors), LatencyHistogram((0.1, 0.11, 0.121), (0, int(requests), 0, 0)))
        for requests, errors in counts.T
    )
    return Pair(stable=stable, canary=canary)
