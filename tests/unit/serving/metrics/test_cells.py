"""Counting, and the Prometheus text of all workers together."""

import itertools

import numpy as np
import pytest

from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.cells import (
    LATENCY,
    LATENCY_BOUNDS,
    LOG_DROPPED_ROWS,
    LOG_ROWS,
    PREDICTIONS,
    QUEUE_ROWS,
    REQUESTS,
    WORKERS_READY,
    MetricsLayout,
    MetricsMemory,
    WorkerMetrics,
    render,
)

LABELS = {"model": "tiny", "version": "3", "revision": 'v"3'}


@pytest.fixture
def memory(tiny_manifest: Manifest) -> MetricsMemory:
    return MetricsMemory(MetricsLayout(tiny_manifest), 2)


@pytest.fixture
def workers(memory: MetricsMemory) -> tuple[WorkerMetrics, WorkerMetrics]:
    return WorkerMetrics(memory, 0), WorkerMetrics(memory, 1)


def samples(memory: MetricsMemory, name: str) -> dict[str, float]:
    """Return the value of every sample of a metric, by its text after the common labels."""
    common = 'model="tiny",version="3",revision="v\\"3"'
    found = {}
    for line in render(memory, LABELS).decode().splitlines():
        if line.startswith((f"{name}{{", f"{name}_")):
            series, value = line.rsplit(" ", 1)
            found[series.replace(common, "").removeprefix(name)] = float(value)
    return found


def test_latency_bounds_rise_by_at_most_a_tenth_from_50_us_to_30_s() -> None:
    ratios = [after / before for before, after in itertools.pairwise(LATENCY_BOUNDS)]
    assert LATENCY_BOUNDS[0] == 50e-6
    assert LATENCY_BOUNDS[-1] == 30
    assert min(ratios) > 1
    assert max(ratios) <= 1.1


def test_one_scrape_sees_all_workers(memory: MetricsMemory, workers: tuple[WorkerMetrics, WorkerMetrics]) -> None:
    for worker in workers:
        worker.count_request(200, 1_000_000)
        worker.set_ready(True)
    workers[1].count_request(503, 5)
    assert samples(memory, REQUESTS)['{,status="200"}'] == 2
    assert samples(memory, REQUESTS)['{,status="503"}'] == 1
    assert samples(memory, WORKERS_READY) == {"{}": 2}


def test_latency_is_a_cumulative_histogram_of_answered_requests(
    memory: MetricsMemory, workers: tuple[WorkerMetrics, WorkerMetrics]
) -> None:
    for nanoseconds in (10_000, 50_000, 1_000_000, 40_000_000_000):
        workers[0].count_request(200, nanoseconds)
    workers[0].count_request(400, 1)
    found = samples(memory, LATENCY)
    assert found['_bucket{,le="5e-05"}'] == 2
    assert found['_bucket{,le="30"}'] == 3
    assert found['_bucket{,le="+Inf"}'] == 4
    assert found["_count{}"] == 4
    assert found["_sum{}"] == pytest.approx(40.00106)
    buckets = [value for series, value in found.items() if series.startswith("_bucket")]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(LATENCY_BOUNDS) + 1


@pytest.mark.parametrize(
    ("probabilities", "bins"),
    [
        pytest.param([0.05], {"0.0-0.1": 1}, id="one"),
        pytest.param([1.0], {"0.9-1.0": 1}, id="certainty belongs to the last"),
        pytest.param([0.0, 0.05, 0.55, 1.0], {"0.0-0.1": 2, "0.5-0.6": 1, "0.9-1.0": 1}, id="many"),
        pytest.param([float("nan")], {}, id="NaN belongs to none"),
        pytest.param([float("nan"), 0.3], {"0.3-0.4": 1}, id="NaN among others"),
    ],
)
def test_predictions_are_counted_by_bin(
    memory: MetricsMemory, workers: tuple[WorkerMetrics, WorkerMetrics], probabilities: list[float], bins: dict[str, int]
) -> None:
    workers[0].count_probabilities(np.array(probabilities, np.float64))
    found = samples(memory, PREDICTIONS)
    assert {series: count for series, count in found.items() if count} == {f'{{,bin="{bin_}"}}': n for bin_, n in bins.items()}


def test_a_dead_workers_gauges_are_forgotten_but_not_its_counters(
    memory: MetricsMemory, workers: tuple[WorkerMetrics, WorkerMetrics]
) -> None:
    workers[0].count_log_written(5)
    workers[0].count_log_dropped(2)
    workers[0].count_log_lost(3)
    workers[0].set_queued(7)
    workers[0].set_ready(True)
    WorkerMetrics(memory, 0).forget_gauges()
    assert samples(memory, LOG_ROWS) == {"{}": 5}
    assert samples(memory, LOG_DROPPED_ROWS) == {'{,reason="queue-full"}': 2, '{,reason="store-failed"}': 3}
    assert samples(memory, QUEUE_ROWS) == {"{}": 0}
    assert samples(memory, WORKERS_READY) == {"{}": 0}
