"""Counting: what one worker counts is found in the text of all."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving.metrics.reading import samples
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.names import (
    BATCH_QUEUE_ROWS,
    BATCH_REQUESTS,
    BATCH_ROWS,
    FEATURE_MISSING,
    LATENCY,
    LATENCY_BOUNDS,
    LOG_DROPPED_ROWS,
    LOG_FAILURES,
    LOG_QUEUE_ROWS,
    LOG_ROWS,
    LOG_SAMPLED_OUT_ROWS,
    PREDICTIONS,
    PROVIDER_FALLBACK,
    REJECTED,
    REJECTIONS,
    REQUESTS,
    STATUSES,
    UNUSUAL_VALUES,
)
from tidegate.serving.metrics.text import render

Workers = tuple[WorkerMetrics, WorkerMetrics]


@pytest.fixture
def memory(tiny_manifest: Manifest) -> MetricsMemory:
    return MetricsMemory(MetricsLayout(tiny_manifest), 2, {"model": "tiny"})


@pytest.fixture
def workers(memory: MetricsMemory) -> Workers:
    return WorkerMetrics(memory, 0), WorkerMetrics(memory, 1)


def counted(memory: MetricsMemory, name: str) -> dict[str, float]:
    """Return a metric's samples that are not 0, by what is their own: `{status="200"}`, or `_sum`."""
    return {series: value for series, value in samples(render(memory), name).items() if value}


def test_latency_bounds_rise_by_at_most_a_tenth_from_50_us_to_30_s() -> None:
    ratios = [after / before for before, after in itertools.pairwise(LATENCY_BOUNDS)]
    assert LATENCY_BOUNDS[0] == 50e-6
    assert LATENCY_BOUNDS[-1] == 30
    assert min(ratios) > 1
    assert max(ratios) <= 1.1


def test_requests_of_all_workers_are_summed_by_status(memory: MetricsMemory, workers: Workers) -> None:
    for worker in workers:
        worker.count_request(200, 1_000_000)
    workers[1].count_request(503, 5)
    assert counted(memory, REQUESTS) == {'{status="200"}': 2, '{status="503"}': 1}


def test_every_status_and_every_reason_has_a_cell_of_its_own(memory: MetricsMemory, workers: Workers) -> None:
    for status in STATUSES:
        workers[0].count_request(status, 1)
    for reason in REJECTIONS:
        workers[0].count_rejected(reason)
    assert counted(memory, REQUESTS) == {f'{{status="{status}"}}': 1 for status in STATUSES}
    assert counted(memory, REJECTED) == {f'{{reason="{reason}"}}': 1 for reason in REJECTIONS}


def test_latency_is_a_cumulative_histogram_of_answered_requests(memory: MetricsMemory, workers: Workers) -> None:
    for nanoseconds in (10_000, 50_000, 1_000_000, 40_000_000_000):
        workers[0].count_request(200, nanoseconds)
    workers[0].count_request(400, 1)
    found = samples(render(memory), LATENCY)
    assert found['_bucket{le="5e-05"}'] == 2
    assert found['_bucket{le="30"}'] == 3
    assert found['_bucket{le="+Inf"}'] == 4
    assert found["_count"] == 4
    assert found["_sum"] == pytest.approx(40.00106)
    buckets = [value for series, value in found.items() if series.startswith("_bucket")]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(LATENCY_BOUNDS) + 1


@settings(max_examples=50, deadline=None)
@given(nanoseconds=st.integers(0, 60_000_000_000))
def test_a_latency_lies_in_the_first_bucket_that_holds_it(tiny_manifest: Manifest, nanoseconds: int) -> None:
    memory = MetricsMemory(MetricsLayout(tiny_manifest), 1)
    WorkerMetrics(memory, 0).count_request(200, nanoseconds)
    found = samples(render(memory), LATENCY)
    holding = [float(series.split('"')[1]) for series, count in found.items() if series.startswith("_bucket") and count]
    assert holding == [bound for bound in (*LATENCY_BOUNDS, float("inf")) if bound * 1e9 >= nanoseconds]


@pytest.mark.parametrize(
    ("probabilities", "bins"),
    [
        pytest.param([0.05], {"0.0-0.1": 1}, id="one"),
        pytest.param([1.0], {"0.9-1.0": 1}, id="certainty belongs to the last"),
        pytest.param([-0.5], {"0.0-0.1": 1}, id="below 0"),
        pytest.param([0.0, 0.05, 0.55, 1.0], {"0.0-0.1": 2, "0.5-0.6": 1, "0.9-1.0": 1}, id="many"),
        pytest.param([float("nan")], {}, id="NaN belongs to none"),
        pytest.param([float("nan"), 0.3], {"0.3-0.4": 1}, id="NaN among others"),
        pytest.param([float("nan"), -1.0, 0.3, 2.0] * 50, {"0.0-0.1": 50, "0.3-0.4": 50, "0.9-1.0": 50}, id="very many"),
    ],
)
def test_predictions_are_counted_by_bin(
    memory: MetricsMemory, workers: Workers, probabilities: list[float], bins: dict[str, int]
) -> None:
    workers[0].count_probabilities(np.array(probabilities, np.float64))
    assert counted(memory, PREDICTIONS) == {f'{{bin="{name}"}}': count for name, count in bins.items()}


@pytest.mark.parametrize(
    ("runs", "rows", "requests"),
    [
        pytest.param([(1, 1), (1, 1)], {"1": 2}, {"1": 2}, id="lone rows"),
        pytest.param([(3, 3), (64, 64)], {"4": 1, "64": 1}, {"4": 1, "64": 1}, id="requests of one row joined"),
        pytest.param([(100, 100)], {"128": 1}, {"128": 1}, id="many requests of one row joined"),
        pytest.param([(1, 64)], {"64": 1}, {"1": 1}, id="one request of many rows"),
        pytest.param([(2, 65), (1, 1)], {"1": 1, "128": 1}, {"1": 1, "2": 1}, id="both kinds"),
        pytest.param([(5000, 5000)], {"+Inf": 1}, {"+Inf": 1}, id="beyond the last bound"),
    ],
)
def test_a_run_of_the_graph_is_counted_by_its_rows_and_requests(
    memory: MetricsMemory, workers: Workers, runs: list[tuple[int, int]], rows: dict[str, int], requests: dict[str, int]
) -> None:
    for run in runs:
        workers[0].count_batch(*run)
    for name, expected, sizes in (
        (BATCH_ROWS, rows, [run[1] for run in runs]),
        (BATCH_REQUESTS, requests, [run[0] for run in runs]),
    ):
        found = samples(render(memory), name)
        buckets = {series.split('"')[1]: count for series, count in found.items() if series.startswith("_bucket")}
        apart = {bound: after - before for (bound, after), before in zip(buckets.items(), (0, *buckets.values()), strict=False)}
        assert {bound: count for bound, count in apart.items() if count} == expected
        assert (found["_sum"], found["_count"]) == (sum(sizes), len(sizes))


def test_what_the_log_and_validation_count_is_found(memory: MetricsMemory, workers: Workers) -> None:
    workers[0].count_log_written(5)
    workers[0].count_log_dropped(2)
    workers[0].count_log_lost(3)
    workers[0].count_log_sampled_out(4)
    workers[0].count_log_failure()
    workers[1].count_missing("weather", 2)
    workers[1].count_unusual("hour", 1)
    assert counted(memory, LOG_ROWS) == {"": 5}
    assert counted(memory, LOG_SAMPLED_OUT_ROWS) == {"": 4}
    assert counted(memory, LOG_DROPPED_ROWS) == {'{reason="queue-full"}': 2, '{reason="store-failed"}': 3}
    assert counted(memory, LOG_FAILURES) == {"": 1}
    assert counted(memory, FEATURE_MISSING) == {'{view="weather"}': 2}
    assert counted(memory, UNUSUAL_VALUES) == {'{input="hour"}': 1}


def test_gauges_end_with_the_worker_or_the_version_but_counters_stay(memory: MetricsMemory, workers: Workers) -> None:
    for worker in workers:
        worker.set_fallback(True)
    workers[0].count_log_written(5)
    workers[0].set_queued(7)
    workers[0].set_batch_queue(8)
    assert counted(memory, PROVIDER_FALLBACK) == {"": 1}
    assert (counted(memory, LOG_QUEUE_ROWS), counted(memory, BATCH_QUEUE_ROWS)) == ({"": 7}, {"": 8})
    for index in range(2):
        WorkerMetrics(memory, index).forget_gauges()
    assert [counted(memory, name) for name in (PROVIDER_FALLBACK, LOG_QUEUE_ROWS, BATCH_QUEUE_ROWS)] == [{}, {}, {}]
    assert counted(memory, LOG_ROWS) == {"": 5}
