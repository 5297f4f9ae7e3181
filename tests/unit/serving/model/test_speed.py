"""What is known of a graph's speed, and how many rows that allows."""

from collections.abc import Mapping
from time import sleep

import numpy as np
import pytest

from tidegate.packaging.format.golden import Golden
from tidegate.serving.model.speed import Speed, measure, measure_whole

GOLDEN = Golden({"x": np.zeros((3, 1))}, {})


@pytest.mark.parametrize(
    ("speed", "seconds", "rows"),
    [
        pytest.param(Speed(1e-3, 1e-3, 1), 1e-4, 0, id="not even one"),
        pytest.param(Speed(1e-3, 64e-3, 64), 10e-3, 10, id="each row costs the same"),
        pytest.param(Speed(10e-6, 73e-6, 64), 1e-3, 991, id="more rows than were tried"),
        pytest.param(Speed(1e-4, 1e-4, 64), 1e-3, 64, id="rows cost nothing: no more than were tried"),
        pytest.param(Speed(1e-4, 9e-5, 64), 1e-3, 64, id="a batch that happened to be quicker"),
        pytest.param(Speed(1e-4, 1e-4, 1), 1e-3, 1, id="only one was tried"),
    ],
)
def test_rows_within(speed: Speed, seconds: float, rows: int) -> None:
    assert speed.rows_within(seconds) == rows


def test_runs_of_one_row_and_of_a_batch_are_timed() -> None:
    sizes = []

    def run(inputs: Mapping[str, np.ndarray]) -> None:
        sizes.append(len(inputs["x"]))
        sleep(0.001 * sizes[-1])

    speed = measure(run, GOLDEN)
    assert 0.001 <= speed.row_seconds < 0.02
    assert 1 < speed.batch_rows <= 64
    assert speed.batch_seconds >= 0.001 * speed.batch_rows
    assert set(sizes) == {1, speed.batch_rows}


def test_a_slow_graph_is_not_run_long() -> None:
    runs = []

    def run(inputs: Mapping[str, np.ndarray]) -> None:
        runs.append(len(inputs["x"]))
        sleep(0.2)

    assert measure(run, GOLDEN).batch_rows == 1
    assert runs == [1, 1]


def test_a_graph_of_dependent_rows_is_timed_whole() -> None:
    sizes = []
    speed = measure_whole(lambda inputs: sizes.append(len(inputs["x"])), GOLDEN)
    assert set(sizes) == {3}
    assert (speed.batch_rows, speed.row_seconds) == (3, speed.batch_seconds)
