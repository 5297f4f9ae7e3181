"""What follows from measured turns: intervals, ratios, throughput and the rows of the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.optimization.benchmark.timings import Load, Timings, Turn, median_interval

SINGLE, BULK, BUSY = Load(1), Load(64), Load(64, 2)


def turns(seconds: np.ndarray, wall: float = 1.0, cpu: float = 1.0) -> list[Turn]:
    return [Turn(row, wall, cpu) for row in seconds]


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


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=40))
def test_the_median_lies_in_its_interval(values: list[float]) -> None:
    median, low, high = median_interval(np.array(values))

    assert low <= median <= high


def test_a_machine_that_slows_down_for_a_while_does_not_change_the_ratio(rng: np.random.Generator) -> None:
    weather = np.repeat(rng.uniform(1, 3, 15), 50).reshape(15, 50)
    timings = Timings((SINGLE,), {("slow", SINGLE): turns(12e-6 * weather), ("fast", SINGLE): turns(10e-6 * weather)})

    [row] = timings.rows("slow", "fast")

    assert (row.ratio, row.ratio_low, row.ratio_high) == pytest.approx((1.2, 1.2, 1.2))


def test_a_row_of_the_table_says_what_was_measured() -> None:
    calls = np.full((4, 100), 2e-3)
    calls[:, 99] = 8e-3
    timings = Timings((BULK,), {("m", BULK): turns(calls)})

    [row] = timings.rows("m", "m")

    assert (row.variant, row.batch, row.concurrency, row.ratio) == ("m", 64, 1, 1)
    assert (row.p50_us, row.p95_us) == pytest.approx((2000, 2000))
    assert row.p99_us > 2000
    assert row.rows_per_second == pytest.approx(64 / 2e-3), "a stall is no throughput lost"


def test_callers_share_the_time_of_their_turn() -> None:
    timings = Timings((BUSY,), {("m", BUSY): turns(np.full((3, 20), 9e-3), wall=0.1, cpu=0.16)})

    assert timings.seconds_per_row("m", BUSY) == pytest.approx(0.1 / (20 * 64))
    assert timings.processor_seconds_per_row("m", BUSY) == pytest.approx(0.16 / (20 * 64))


def test_the_loads_have_names() -> None:
    timings = Timings((SINGLE, Load(8), BULK, BUSY))

    assert (timings.single, timings.bulk, timings.busiest) == (SINGLE, BULK, BUSY)
    assert timings.rows("never timed", "m") == ()
