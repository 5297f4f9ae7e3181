import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.optimization.benchmark import Timings, _rotated, benchmark_rows, judge_latency, measure_timings, median_interval
from tidegate.packaging.inference import PackageModel
from tidegate.project import BenchmarkGate


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [
        pytest.param(5, 1, 5, id="too few for 95 %: the whole range"),
        pytest.param(6, 1, 6, id="6 values"),
        pytest.param(9, 2, 8, id="9 values"),
        pytest.param(15, 4, 12, id="15 values"),
        pytest.param(25, 8, 18, id="25 values"),
    ],
)
def test_the_intervals_are_those_of_the_published_tables(count: int, low: int, high: int) -> None:
    _, found_low, found_high = median_interval(np.arange(count, dtype=float) + 1)

    assert (found_low, found_high) == (low, high)


def test_the_interval_covers_the_true_median_95_times_in_100(rng: np.random.Generator) -> None:
    intervals = [median_interval(rng.lognormal(size=15)) for _ in range(2_000)]

    assert np.mean([low <= 1 <= high for _, low, high in intervals]) > 0.94


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=40))
def test_the_median_lies_in_its_interval(values: list[float]) -> None:
    median, low, high = median_interval(np.array(values))

    assert low <= median <= high


def test_every_variant_goes_first_in_turn() -> None:
    assert [_rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_a_machine_that_slows_down_for_a_while_does_not_change_the_ratio(rng: np.random.Generator) -> None:
    weather = np.repeat(rng.uniform(1, 3, 15), 50).reshape(15, 50)
    timings = Timings({("slow", 1): 12e-6 * weather, ("fast", 1): 10e-6 * weather}, (1,))

    assert timings.ratio("slow", "fast", 1) == pytest.approx((1.2, 1.2, 1.2))


def test_every_batch_size_is_timed_and_one_row_always(candidates) -> None:
    gate = BenchmarkGate(rounds=3, calls_per_round=10, batch_sizes=(8,))
    models = {name: PackageModel(candidates.packages / name) for name in ("mlp", "trees")}

    timings = measure_timings(models, candidates.holdout, gate, seed=0)

    rows = [row for name in models for row in benchmark_rows(timings, name, "trees")]
    assert [(row.variant, row.batch) for row in rows] == [("mlp", 1), ("mlp", 8), ("trees", 1), ("trees", 8)]
    assert all(0 < row.p50_us <= row.p95_us <= row.p99_us for row in rows)
    assert all(row.rows_per_second == pytest.approx(row.batch * 1e6 / row.p50_us) for row in rows)
    assert [row.ratio for row in rows if row.variant == "trees"] == [1, 1]
    assert timings.seconds["mlp", 1].shape == (3, 10)
    assert gc.isenabled()


def test_fewer_rows_than_a_batch_are_repeated(candidates) -> None:
    gate = BenchmarkGate(rounds=3, calls_per_round=10, batch_sizes=(64,))

    timings = measure_timings({"mlp": PackageModel(candidates.packages / "mlp")}, candidates.holdout.slice(0, 3), gate, seed=0)

    assert timings.batch_sizes == (1, 64)


@pytest.mark.parametrize(("bound", "passes"), [(1.0, False), (3.0, True)])
def test_the_latency_gate_is_p99_of_one_row(bound: float, passes: bool) -> None:
    seconds = np.full((3, 100), 0.001)
    seconds[:, 95:] = 0.002
    verdict = judge_latency("m", Timings({("m", 1): seconds}, (1,)), BenchmarkGate(max_p99_ms=bound))

    assert verdict.passed is passes
    assert verdict.value == pytest.approx(2.0)
