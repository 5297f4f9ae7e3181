"""What every metric promises: its value is scikit-learn's, its intervals are ordered and cover, and row order is nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, mean_squared_error, roc_auc_score

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization import metrics
from tidegate.optimization.metrics import metric, metric_names
from tidegate.project import AccuracyGate

Array = np.ndarray[Any, Any]
Rows = tuple[Array, Array, Array]  # labels, the baseline's scores, a worse variant's
Draw = Callable[[np.random.Generator, int], Rows]


def binary(rng: np.random.Generator, rows: int) -> Rows:
    logits = 1.5 * rng.normal(size=rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return labels, 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-logits - 0.4 * rng.normal(size=rows)))


def multiclass(rng: np.random.Generator, rows: int) -> Rows:
    logits = 1.5 * rng.normal(size=(rows, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return labels, softmax(logits), softmax(logits + 0.4 * rng.normal(size=logits.shape))


def softmax(logits: Array) -> Array:
    exponents = np.exp(logits)
    return exponents / exponents.sum(axis=1, keepdims=True)


def regression(rng: np.random.Generator, rows: int) -> Rows:
    labels = 5 + rng.normal(size=rows)
    errors = rng.standard_t(6, size=rows)  # tails heavier than normal
    return labels, labels + errors, labels + errors + 0.3 * rng.normal(size=rows)


def targets(rng: np.random.Generator, rows: int) -> Rows:
    parts = [regression(rng, rows) for _ in range(2)]
    return tuple(np.stack([part[which] for part in parts], axis=1) for which in range(3))  # type: ignore[return-value]


CASES = [
    pytest.param("roc_auc", binary, lambda y, s: roc_auc_score(y, s), id="roc_auc"),
    pytest.param("accuracy", binary, lambda y, s: accuracy_score(y, s >= 0.5), id="accuracy of two classes"),
    pytest.param("accuracy", multiclass, lambda y, s: accuracy_score(y, s.argmax(1)), id="accuracy of several"),
    pytest.param("log_loss", binary, lambda y, s: log_loss(y, s), id="log_loss of two classes"),
    pytest.param("log_loss", multiclass, lambda y, s: log_loss(y, s), id="log_loss of several"),
    pytest.param("rmse", regression, lambda y, s: mean_squared_error(y, s) ** 0.5, id="rmse"),
    pytest.param("rmse", targets, lambda y, s: mean_squared_error(y, s) ** 0.5, id="rmse of two targets"),
    pytest.param("mae", regression, lambda y, s: mean_absolute_error(y, s), id="mae"),
]


@pytest.mark.parametrize(("name", "draw", "theirs"), CASES)
def test_the_value_is_scikit_learns(
    rng: np.random.Generator, name: str, draw: Draw, theirs: Callable[[Array, Array], float]
) -> None:
    labels, scores, _ = draw(rng, 300)

    assert metric(name).estimate(labels, scores, 0.95).value == pytest.approx(theirs(labels, scores))


@pytest.mark.parametrize(("name", "draw", "theirs"), CASES)
def test_the_loss_is_the_difference_of_the_values_or_its_share(
    rng: np.random.Generator, name: str, draw: Draw, theirs: Callable[[Array, Array], float]
) -> None:
    labels, baseline, variant = draw(rng, 300)
    judged = metric(name)
    before, after = theirs(labels, baseline), theirs(labels, variant)
    worse = before - after if name in ("roc_auc", "accuracy") else (after - before) / before

    assert judged.loss(labels, baseline, variant, 0.95).value == pytest.approx(worse)


@pytest.mark.parametrize(("name", "draw", "theirs"), CASES)
def test_the_bound_of_the_loss_covers_the_true_loss_as_often_as_it_says(
    rng: np.random.Generator, name: str, draw: Draw, theirs: object
) -> None:
    judged = metric(name)
    truth = judged.loss(*draw(rng, 400_000), 0.95).value

    covered = sum(judged.loss(*draw(rng, 300), 0.95).bound >= truth for _ in range(400))

    assert covered / 400 >= 0.93
    assert covered / 400 < 0.99, "a bound that always covers proves nothing"


@pytest.mark.parametrize(("name", "draw", "theirs"), CASES)
def test_the_interval_covers_the_true_value_as_often_as_it_says(
    rng: np.random.Generator, name: str, draw: Draw, theirs: object
) -> None:
    judged = metric(name)
    truth = judged.estimate(*draw(rng, 400_000)[:2], 0.95).value

    intervals = [judged.estimate(*draw(rng, 300)[:2], 0.95) for _ in range(400)]

    assert sum(found.low <= truth <= found.high for found in intervals) / 400 >= 0.925


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(60, 200), which=st.integers(0, len(CASES) - 1), rounded=st.booleans())
def test_row_order_is_nothing_and_intervals_are_ordered_ties_and_all(seed: int, rows: int, which: int, rounded: bool) -> None:
    name, draw, _ = CASES[which].values
    rng = np.random.default_rng(seed)
    labels, baseline, variant = draw(rng, rows)
    if rounded and name in ("roc_auc", "rmse", "mae"):
        baseline, variant = np.round(baseline, 1), np.round(variant, 1)
    order, judged = rng.permutation(rows), metric(name)

    found, loss = judged.estimate(labels, variant, 0.9), judged.loss(labels, baseline, variant, 0.9)
    shuffled = judged.loss(labels[order], baseline[order], variant[order], 0.9)

    assert found.low <= found.value <= found.high
    assert loss.value <= loss.bound
    assert loss.bound <= judged.loss(labels, baseline, variant, 0.99).bound + 1e-12
    assert (shuffled.value, shuffled.bound) == pytest.approx((loss.value, loss.bound), abs=1e-9)


@pytest.mark.parametrize(("name", "draw", "theirs"), CASES)
def test_a_model_loses_nothing_to_itself(rng: np.random.Generator, name: str, draw: Draw, theirs: object) -> None:
    labels, baseline, _ = draw(rng, 500)

    loss = metric(name).loss(labels, baseline, baseline.copy(), 0.95)

    assert loss.value == pytest.approx(0, abs=1e-12)
    if name == "accuracy":  # rows that agree leave a loss possible
        assert loss.bound == pytest.approx(2.7055 / 502.7055, rel=1e-4)
    else:
        assert loss.bound == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("name", "root"), [("rmse", True), ("mae", False)])
def test_against_a_baseline_that_never_errs_the_loss_is_the_error_itself(
    rng: np.random.Generator, name: str, root: bool
) -> None:
    labels, errors = rng.normal(size=200), 0.3 * rng.normal(size=200)
    expected = float(np.sqrt((errors**2).mean())) if root else float(np.abs(errors).mean())

    loss = metric(name).loss(labels, labels, labels + errors, 0.95)

    assert loss.value == pytest.approx(expected)
    assert expected < loss.bound < 1.5 * expected
    assert metric(name).loss(labels, labels, labels, 0.95).bound == 0


def test_the_unit_of_a_regression_does_not_matter(rng: np.random.Generator) -> None:
    labels, baseline, variant = regression(rng, 200)
    loss = metric("rmse").loss(labels, baseline, variant, 0.95)

    assert metric("rmse").loss(60 * labels, 60 * baseline, 60 * variant, 0.95).bound == pytest.approx(loss.bound)


def test_one_row_that_is_ruined_raises_the_bound_more_than_the_normal_one_would(rng: np.random.Generator) -> None:
    labels = rng.normal(size=400)
    baseline = labels + rng.normal(size=400)
    variant = baseline.copy()
    variant[7] += 40
    squares = (variant - labels) ** 2, (baseline - labels) ** 2
    ratio = squares[0].mean() / squares[1].mean()
    normal = ratio + 1.645 * (squares[0] - ratio * squares[1]).std(ddof=1) / 20 / squares[1].mean()

    assert metric("rmse").loss(labels, baseline, variant, 0.95).bound > 1.2 * (np.sqrt(normal) - 1)


@pytest.mark.parametrize(
    ("lost", "won", "rows", "confidence", "bound"),
    [
        # Fagerland, Lydersen, Laake, "Recommended tests and confidence intervals for paired binomial proportions", Statistics
        # in Medicine 33 (2014): airway hyper-responsiveness, 7 and 1 of 21 pairs, 95 % from -0.517 to -0.026
        pytest.param(7, 1, 21, 0.975, 0.517, id="published, upper limit"),
        pytest.param(1, 7, 21, 0.975, -0.026, id="published, lower limit"),
        pytest.param(28, 25, 618, 0.95, 0.0247, id="as R's PropCIs: scoreci.mp(25, 28, 618, 0.9)"),
        pytest.param(0, 0, 100, 0.975, 3.8415 / 103.8415, id="no pair differs"),
    ],
)
def test_the_bound_of_accuracy_is_tangos(lost: int, won: int, rows: int, confidence: float, bound: float) -> None:
    labels, baseline, variant = np.ones(rows, int), np.ones(rows), np.ones(rows)
    variant[:lost] = 0
    baseline[lost : lost + won] = 0

    found = metric("accuracy").loss(labels, baseline, variant, confidence).bound

    assert found == pytest.approx(bound, abs=5e-4 if rows == 21 else 5e-5)


@pytest.mark.parametrize("right", [0, 30])
def test_accuracies_of_none_and_all_have_a_width(right: int) -> None:
    scores = np.array([1.0] * right + [0.0] * (30 - right))

    found = metric("accuracy").estimate(np.ones(30, int), scores, 0.95)

    assert (found.low, found.high) == pytest.approx((0.8865, 1.0) if right else (0.0, 0.1135), abs=1e-4)


def test_a_certain_mistake_costs_much_but_not_everything() -> None:
    found = metric("log_loss").estimate(np.array([1, 1]), np.array([0.0, 1.0]), 0.95)

    assert found.value == pytest.approx(15.94 / 2, abs=0.01)


@pytest.mark.parametrize(
    ("name", "labels", "scores", "said"),
    [
        pytest.param("log_loss", [0, 1, 1], [0.2, 3.5, 0.1], "a model gave 3.5", id="no probability"),
        pytest.param("rmse", [1.0], [1.0], "needs two labelled rows or more; there are 1", id="one row"),
        pytest.param("mae", [], [], "there are 0", id="no row"),
        pytest.param("accuracy", [0, 1], [0.5, np.nan], "a model gave NaN", id="not a number"),
        pytest.param("rmse", [0, 1, 2], [0.5, 1], "3 labels, but 2 scores", id="rows that do not match"),
        pytest.param("roc_auc", [1, 1], [0.5, 1], "0 of class 0", id="one class"),
    ],
)
def test_what_has_no_value_is_refused(name: str, labels: list[float], scores: list[float], said: str) -> None:
    with pytest.raises(DataError, match=said):
        metric(name).estimate(np.array(labels), np.array(scores), 0.95)


def test_every_metric_of_the_gates_is_found_and_agrees_with_them() -> None:
    assert set(metric_names()) == set(get_args(AccuracyGate.model_fields["metric"].annotation))
    for name in metric_names():
        assert metric(name).higher_is_better == (AccuracyGate(metric=name).bound_name == "minimum")


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptimizationError, match="metric 'f1' is unknown; allowed: accuracy, log_loss, mae, rmse, roc_auc"):
        metric("f1")


def test_every_metric_cites_its_method() -> None:
    sources = {path.stem: path.read_text() for path in Path(metrics.__file__).parent.glob("*.py")}

    for name in metric_names():
        cited = sources[name] if "19" in sources[name] else sources[next(s for s in ("delong", "paired") if s in sources[name])]
        assert any(year in cited for year in ("1927", "1952", "1977", "1988"))
