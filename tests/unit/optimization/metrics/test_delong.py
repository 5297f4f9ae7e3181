import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tidegate.errors import DataError
from tidegate.optimization.metrics.delong import roc_areas


def correlated_scores(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(rows) < 0.3).astype(np.int64)
    shared = rng.normal(size=rows)
    good = labels * 1.0 + shared + 0.5 * rng.normal(size=rows)
    worse = labels * 0.8 + shared + 0.7 * rng.normal(size=rows)
    return labels, np.stack([good, np.round(worse, 1)])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.floats(-1, 1)), min_size=4, max_size=60))
def test_the_areas_are_those_of_scikit_learn_ties_and_all(rows: list[tuple[bool, int, float]]) -> None:
    labels = np.array([0, 0, 1, 1, *(int(row[0]) for row in rows)])
    scores = np.array([[0, 1, 2, 3, *(row[1] for row in rows)], [0.5, 0, 0, 0.5, *(row[2] for row in rows)]], dtype=float)

    areas = roc_areas(labels, scores)

    assert areas.values == pytest.approx([roc_auc_score(labels, row) for row in scores])


def test_the_covariance_is_delongs_by_its_definition(rng: np.random.Generator) -> None:
    labels, scores = correlated_scores(rng, 120)

    areas = roc_areas(labels, scores)

    placements = [_placements(labels, row) for row in scores]
    positive = np.cov([of_positives for of_positives, _ in placements])
    negative = np.cov([of_negatives for _, of_negatives in placements])
    expected = positive / (labels == 1).sum() + negative / (labels == 0).sum()
    np.testing.assert_allclose(areas.covariance, expected, rtol=1e-10)


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the Mann-Whitney kernel over the other class, for every row: O(n^2), straight from the paper."""
    kernel = np.array([[(x > y) + 0.5 * (x == y) for y in scores[labels == 0]] for x in scores[labels == 1]])
    return kernel.mean(axis=1), kernel.mean(axis=0)


def test_the_standard_error_of_the_loss_is_that_of_the_bootstrap(rng: np.random.Generator) -> None:
    labels, scores = correlated_scores(rng, 1_500)
    areas = roc_areas(labels, scores)
    draws = []
    for _ in range(400):
        drawn = rng.integers(0, len(labels), len(labels))
        resampled = roc_areas(labels[drawn], scores[:, drawn])
        draws.append(resampled.loss(0, 1))

    standard_error = (areas.loss_bound(0, 1, 0.8413447) - areas.loss(0, 1)) / 1.0

    assert standard_error == pytest.approx(np.std(draws), rel=0.15)


def test_the_loss_bound_covers_the_true_loss_as_often_as_it_says(rng: np.random.Generator) -> None:
    labels, scores = correlated_scores(rng, 200_000)
    truth = roc_areas(labels, scores).loss(0, 1)
    covered = 0
    for start in range(0, 200_000, 500):
        part = slice(start, start + 500)
        covered += roc_areas(labels[part], scores[:, part]).loss_bound(0, 1, 0.9) >= truth

    assert covered / 400 == pytest.approx(0.9, abs=0.04)


def test_a_model_against_itself_loses_nothing(rng: np.random.Generator) -> None:
    labels, scores = correlated_scores(rng, 300)

    areas = roc_areas(labels, np.stack([scores[0], scores[0]]))

    assert areas.loss_bound(0, 1, 0.99) == pytest.approx(0, abs=1e-7)


def test_a_perfect_model_has_an_area_of_one_and_no_width() -> None:
    areas = roc_areas(np.array([0, 0, 1, 1]), np.array([[0.1, 0.2, 0.8, 0.9]]))

    assert areas.interval(0, 0.95) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        pytest.param([1, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], "1 of class 0", id="one row of a class"),
        pytest.param([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], "0 of class 1", id="one class"),
        pytest.param([0, 0, 1, 1], [0.1, np.nan, 0.3, 0.4], "NaN", id="not a number"),
    ],
)
def test_what_has_no_area_is_refused(labels: list[int], scores: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        roc_areas(np.array(labels), np.array([scores]))
