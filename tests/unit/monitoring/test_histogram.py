from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import MonitoringError
from tidegate.monitoring.histogram import CategoryBins, NumberBins, choose_bins, count_bins
from tidegate.monitoring.psi import EMPTY_SHARE, population_stability_index


def counts_of(reference: list[Any], current: list[Any], kind: pa.DataType | None = None) -> tuple[np.ndarray, np.ndarray]:
    before, after = pa.table({"x": pa.array(reference, kind)}), pa.table({"x": pa.array(current, kind)})
    bins = choose_bins(before)
    return count_bins(before, bins)["x"], count_bins(after, bins)["x"]


def psi_of(reference: np.ndarray, current: np.ndarray) -> float:
    return population_stability_index(*counts_of(list(reference), list(current)))


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        pytest.param(list(range(1, 101)), (10, 20, 30, 40, 50, 60, 70, 80, 90), id="deciles"),
        pytest.param([1.0, 2.0] * 50, (np.nextafter(1.0, -np.inf), 1.0, np.nextafter(2.0, -np.inf), 2.0), id="two values"),
        pytest.param([7] * 10, (np.nextafter(7.0, -np.inf), 7.0), id="constant"),
        pytest.param([None, float("nan")], (), id="nothing but missing"),
    ],
)
def test_number_bins_come_from_the_references_deciles(values: list[Any], edges: tuple[float, ...]) -> None:
    bins = choose_bins(pa.table({"x": pa.array(values, pa.float64())}))["x"]

    assert bins == NumberBins(tuple(float(edge) for edge in edges))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([1.0, 1.5, 2.0, 9.0], [1, 3, 0], id="numbers"),
        pytest.param([float("inf"), float("-inf"), 1.0], [2, 1, 0], id="infinities lie in the outer bins"),
        pytest.param([None, float("nan"), 1.0], [1, 0, 2], id="null and NaN are missing"),
        pytest.param([], [0, 0, 0], id="no rows"),
    ],
)
def test_numbers_are_counted(values: list[float | None], expected: list[int]) -> None:
    found = count_bins(pa.table({"x": pa.array(values, pa.float64())}), {"x": NumberBins((1.0,))})

    assert found["x"].tolist() == expected


@pytest.mark.parametrize(
    ("values", "categories", "expected"),
    [
        pytest.param(["a", "b", "a", "zz"], ("a", "b"), [2, 1, 1, 0], id="an unknown text is other"),
        pytest.param(["", None, "a"], ("a",), [1, 0, 2], id="empty and null are missing"),
        pytest.param(["it's", '"'], ("it's", '"'), [1, 1, 0, 0], id="quotes"),
        pytest.param(["a"], (), [1, 0], id="a reference without any text"),
    ],
)
def test_texts_are_counted(values: list[str | None], categories: tuple[str, ...], expected: list[int]) -> None:
    found = count_bins(pa.table({"x": pa.array(values, pa.string())}), {"x": CategoryBins(categories)})

    assert found["x"].tolist() == expected


@settings(max_examples=30, deadline=None)
@given(
    reference=st.lists(st.floats(width=32) | st.none(), min_size=1, max_size=60),
    current=st.lists(st.floats(width=32) | st.none(), max_size=60),
)
def test_counts_agree_with_a_slow_count(reference: list[float | None], current: list[float | None]) -> None:
    before, after = pa.table({"x": pa.array(reference, pa.float32())}), pa.table({"x": pa.array(current, pa.float32())})
    bins = choose_bins(before)
    edges = bins["x"].edges  # type: ignore[union-attr]
    expected = [0] * (len(edges) + 2)
    for value in after["x"].to_pylist():
        missing = value is None or value != value
        expected[-1 if missing else sum(edge < value for edge in edges)] += 1

    assert count_bins(after, bins)["x"].tolist() == expected


def test_categories_beyond_the_most_frequent_share_one_bin() -> None:
    texts = [f"c{rank}" for rank in range(40) for _ in range(40 - rank)]

    before, _ = counts_of(texts, texts)

    assert len(before) == 22
    assert before[-2] == sum(range(1, 21))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        pytest.param({"y": [1.0]}, "column 'x' is missing", id="missing column"),
        pytest.param({"x": ["text"]}, "column 'x' is string", id="text instead of numbers"),
    ],
)
def test_a_window_that_does_not_fit_is_refused(table: dict[str, list[Any]], problem: str) -> None:
    with pytest.raises(MonitoringError, match=problem):
        count_bins(pa.table(table), {"x": NumberBins((1.0,))})


def test_a_column_of_times_cannot_be_watched() -> None:
    with pytest.raises(MonitoringError, match="only numbers and text"):
        choose_bins(pa.table({"x": pa.array([0], pa.timestamp("us"))}))


@pytest.mark.parametrize("rows", [1_000, 10_000, 100_000])
def test_the_index_does_not_depend_on_the_number_of_rows(rows: int) -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(size=20_000)

    # A normal shifted by 0.75 sigma has a divergence of 0.5625; deciles of the reference keep most of it.
    assert psi_of(reference, rng.normal(0.75, size=rows)) == pytest.approx(0.53, abs=0.06)


@pytest.mark.parametrize("shift", [0.0, 0.05])
def test_no_drift_gives_no_drift(shift: float) -> None:
    rng = np.random.default_rng(4)

    assert psi_of(rng.normal(size=20_000), rng.normal(shift, size=5_000)) < 0.02


def test_one_outlier_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    reference, current = rng.normal(size=10_000), rng.normal(1.0, size=10_000)
    spoiled = current.copy()
    spoiled[0] = 1e12

    assert psi_of(reference, spoiled) == pytest.approx(psi_of(reference, current), abs=1e-3)
    assert psi_of(np.append(reference, 1e12), current) == pytest.approx(psi_of(reference, current), abs=0.01)


def test_a_column_that_goes_missing_drifts() -> None:
    before, after = counts_of([1.0, 2.0] * 500, [1.0, 2.0] * 450 + [None] * 100, pa.float64())

    assert population_stability_index(before, after) > 0.5


def test_the_index_is_symmetric_and_bounded_by_the_empty_share() -> None:
    assert population_stability_index([9, 1], [1, 9]) == population_stability_index([1, 9], [9, 1])
    assert population_stability_index([1, 0], [0, 1]) == pytest.approx(-2 * (1 - EMPTY_SHARE) * np.log(EMPTY_SHARE))


@pytest.mark.parametrize(
    ("reference", "current"),
    [pytest.param([0, 0], [1, 1], id="empty reference"), pytest.param([1, 1], [0, 0], id="empty window")],
)
def test_an_empty_histogram_has_no_index(reference: list[int], current: list[int]) -> None:
    with pytest.raises(ValueError, match="no rows"):
        population_stability_index(reference, current)
