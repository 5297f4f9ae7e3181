"""Confidence sequences: what they must contain, and how often they may miss over all looks together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.rollout.confidence import quantile_estimate, quantile_interval, rate_interval
from tidegate.rollout.metrics_source import LatencyHistogram

BOUNDS = tuple(float(bound) for bound in 1e-3 * 1.1 ** np.arange(60))
LOOKS = 60
RUNS = 150


@given(st.integers(0, 10**6).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))), st.floats(1e-6, 0.5))
def test_rate_interval_holds_the_estimate(counts, alpha):
    events, trials = counts

    interval = rate_interval(events, trials, alpha)

    assert 0 <= interval.low <= (events / trials if trials else 0) + 1e-12
    assert (events / trials if trials else 1) - 1e-12 <= interval.high <= 1


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(1e-6, 0.2))
def test_more_confidence_is_a_wider_interval(trials, share, alpha):
    events = round(trials * share)

    narrow, wide = rate_interval(events, trials, alpha), rate_interval(events, trials, alpha / 2)

    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@given(st.integers(1, 5000), st.floats(0, 1))
def test_rates_of_an_event_and_its_opposite_end_where_everything_is_known(trials, share):
    assert rate_interval(0, trials, 0.05).low == 0
    assert rate_interval(trials, trials, 0.05).high == 1


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.2, 0.7])
def test_rate_is_missed_at_any_look_by_few_runs_only(rate):
    alpha, rng = 0.1, np.random.default_rng(3)
    events = np.cumsum(rng.binomial(20, rate, (RUNS, LOOKS)), axis=1)

    missed = sum(any(not covers(rate, run[look], 20 * (look + 1), alpha) for look in range(LOOKS)) for run in events)

    assert missed <= RUNS * alpha


def test_a_fixed_sample_interval_would_miss_too_often():
    """The test above can fail: an ordinary 90 % interval, looked at as often, misses more than 10 %."""
    rate, rng = 0.2, np.random.default_rng(3)
    events = np.cumsum(rng.binomial(20, rate, (RUNS, LOOKS)), axis=1)
    trials = 20 * np.arange(1, LOOKS + 1)
    estimate = events / trials
    misses = np.abs(estimate - rate) > 1.645 * np.sqrt(np.maximum(estimate * (1 - estimate), 1e-9) / trials)

    assert misses.any(axis=1).mean() > 0.3


@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_quantile_is_missed_at_any_look_by_few_runs_only(quantile):
    alpha, rng = 0.1, np.random.default_rng(4)
    truth = float(np.exp(np.log(0.01) + 0.5 * {0.5: 0.0, 0.95: 1.6449}[quantile]))
    missed = 0
    for _ in range(RUNS):
        latencies = rng.lognormal(np.log(0.01), 0.5, (LOOKS, 20))
        counts = np.cumsum([np.histogram(look, [0, *BOUNDS, np.inf])[0] for look in latencies], axis=0)
        intervals = [quantile_interval(LatencyHistogram(BOUNDS, tuple(map(int, each))), quantile, alpha) for each in counts]
        missed += any(not interval.low <= truth <= interval.high for interval in intervals)

    assert missed <= RUNS * alpha


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        pytest.param((0, 0, 0), 0.0, math.inf, id="nothing-seen"),
        pytest.param((3, 0, 0), 0.0, math.inf, id="too-few"),
        pytest.param((1000, 0, 0), 0.0, 0.1, id="all-fast"),
        pytest.param((0, 1000, 0), 0.1, 0.2, id="all-in-one-bucket"),
        pytest.param((0, 0, 1000), 0.2, math.inf, id="all-beyond-the-last-bound"),
        pytest.param((500, 500, 0), 0.1, 0.2, id="half-and-half"),
    ],
)
def test_quantile_interval_at_the_resolution_of_the_buckets(counts, low, high):
    interval = quantile_interval(LatencyHistogram((0.1, 0.2), counts), 0.95, 0.05)

    assert (interval.low, interval.high) == (low, high)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param((), None, id="no-buckets"),
        pytest.param((0, 0, 0), None, id="nothing-seen"),
        pytest.param((96, 4, 0), 0.1, id="in-the-first"),
        pytest.param((94, 6, 0), 0.2, id="in-the-second"),
        pytest.param((0, 0, 1), math.inf, id="beyond-the-last-bound"),
    ],
)
def test_quantile_estimate(counts, expected):
    assert quantile_estimate(LatencyHistogram((0.1, 0.2) if counts else (), counts), 0.95) == expected


def covers(rate: float, events: int, trials: int, alpha: float) -> bool:
    interval = rate_interval(int(events), trials, alpha)
    return interval.low <= rate <= interval.high
