"""Counts since the step and the rollout began, from counters that may restart at zero."""

import pytest

from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters
from tidegate.rollout.tally import Tally


def counters(requests: int, errors: int = 0, bounds: tuple[float, ...] = (0.1, 0.2)) -> RevisionCounters:
    return RevisionCounters(requests, errors, LatencyHistogram(bounds, (requests, *[0] * len(bounds))))


def test_counts_grow_in_step_and_rollout():
    tally = Tally().begin_rollout(counters(100, 5), with_past=False).add(counters(110, 6)).add(counters(130, 6))

    assert (tally.in_step.requests, tally.in_step.errors) == (30, 1)
    assert tally.in_rollout.latency.counts == (30, 0, 0)


def test_requests_between_steps_count_for_the_rollout_only():
    tally = Tally().begin_rollout(counters(100), with_past=False).add(counters(110))

    tally = tally.begin_step(counters(115)).add(counters(120))

    assert (tally.in_step.requests, tally.in_rollout.requests) == (5, 20)


def test_past_is_taken_over_on_request():
    assert Tally().begin_rollout(counters(100, 5), with_past=True).in_rollout == counters(100, 5)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        pytest.param(counters(4, 1), (4, 1, (4, 0, 0)), id="restarted"),
        pytest.param(counters(100, 2), (0, 0, (0, 0, 0)), id="unchanged"),
        pytest.param(
            RevisionCounters(120, 2, LatencyHistogram((0.1, 0.2), (3, 0, 0))), (20, 0, (3, 0, 0)), id="server-restarted"
        ),
        pytest.param(counters(120, 2, bounds=(0.5,)), (20, 0, (120, 0)), id="other-buckets"),
    ],
)
def test_growth(seen, expected):
    tally = Tally().begin_rollout(counters(100, 2), with_past=False).add(seen)

    assert (tally.in_step.requests, tally.in_step.errors, tally.in_step.latency.counts) == expected
