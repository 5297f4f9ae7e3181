from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization.gates.accuracy import (
    accuracy_gate,
    default_accuracy_gate,
    judge_accuracy,
    labelled_rows,
    labels_of,
    measure_accuracy,
    not_judged,
)
from tidegate.optimization.records import Accuracy
from tidegate.project import AccuracyGate, GatesSection

BINARY, MANY, REGRESSION = "binary-classification", "multiclass-classification", "regression"


def labelled(column: Any, task: Any, classes: tuple[str, ...] = ()) -> list[Any]:
    return labels_of(labelled_rows(pa.table({"y": column}), "y", task, classes), "y").tolist()


def test_rows_whose_label_is_unknown_do_not_count() -> None:
    rows = labelled_rows(pa.table({"late": pa.array([0, None, 1], pa.int8()), "x": [1, 2, 3]}), "late", BINARY)

    assert rows["x"].to_pylist() == [1, 3]
    assert rows["late"].to_pylist() == [0, 1]


@pytest.mark.parametrize(
    ("column", "task", "classes", "expected"),
    [
        pytest.param(pa.array([True, False]), BINARY, (), [1, 0], id="booleans"),
        pytest.param(pa.array([0.0, 1.0, float("nan")]), BINARY, (), [0, 1], id="numbers as floats, one unknown"),
        pytest.param(pa.array(["late", "on-time"]), BINARY, ("on-time", "late"), [1, 0], id="names of two classes"),
        pytest.param(pa.array(["c", "a", None, "b"]), MANY, ("a", "b", "c"), [2, 0, 1], id="names of three"),
        pytest.param(pa.array(["c", "a"]).dictionary_encode(), MANY, ("a", "b", "c"), [2, 0], id="a dictionary of names"),
        pytest.param(pa.array([2, 0, 1]), MANY, ("a", "b", "c"), [2, 0, 1], id="numbers of named classes"),
        pytest.param(pa.array([3, 7, 5]), MANY, ("3", "5", "7"), [0, 2, 1], id="names that are numbers"),
        pytest.param(pa.array([4, 0]), MANY, (), [4, 0], id="numbers of unnamed classes"),
        pytest.param(pa.array([2, None, 5]), REGRESSION, (), [2.0, 5.0], id="values"),
        pytest.param(pa.array([[1, 2.5], None, [3, 4]]), REGRESSION, (), [[1.0, 2.5], [3.0, 4.0]], id="several targets"),
        pytest.param(pa.chunked_array([[0, 1], [1]]), BINARY, (), [0, 1, 1], id="in chunks"),
        pytest.param(pa.array([], pa.int64()), BINARY, (), [], id="none"),
    ],
)
def test_labels_are_read_as_the_task_means_them(column: Any, task: Any, classes: tuple[str, ...], expected: list[Any]) -> None:
    assert labelled(column, task, classes) == expected


@pytest.mark.parametrize(
    ("column", "task", "classes", "said"),
    [
        pytest.param(pa.array(["yes"]), BINARY, (), "has type string; 0 and 1 are needed", id="text"),
        pytest.param(pa.array([0, 2]), BINARY, (), "holds 2; 0 and 1 are needed", id="another class"),
        pytest.param(pa.array([0.5]), BINARY, (), "holds 0.5; 0 and 1 are needed", id="a share"),
        pytest.param(
            pa.array(["a", "d"]), MANY, ("a", "b"), "has type string; 0 and 1 are needed, or .* names: a, b", id="another name"
        ),
        pytest.param(pa.array([3]), MANY, ("a", "b", "c"), "holds 3; 0 to 2 are needed, or .* a, b, c", id="too large"),
        pytest.param(pa.array([-1]), MANY, (), "holds -1; 0, 1, … are needed", id="too small"),
        pytest.param(pa.array(["low"]), REGRESSION, (), "type string; numbers are needed", id="no value"),
        pytest.param(pa.array([1.0, float("inf")]), REGRESSION, (), "holds inf; finite numbers are needed", id="infinity"),
        pytest.param(pa.array([[1.0, float("nan")]]), REGRESSION, (), "holds nan", id="half a target"),
        pytest.param(pa.array([1.0]), "tensors", (), "tensors has no metric; leave the labels out", id="no task"),
    ],
)
def test_labels_that_are_none_of_the_tasks_are_refused(column: Any, task: Any, classes: tuple[str, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        labelled(column, task, classes)


def test_a_missing_label_column_is_named() -> None:
    with pytest.raises(DataError, match="label column 'late' is missing; the table has x"):
        labelled_rows(pa.table({"x": [1]}), "late", BINARY)


@pytest.mark.parametrize(
    ("noise", "minimum", "passed"),
    [
        pytest.param(0.0, 0.7, (True, True), id="the same scores"),
        pytest.param(0.01, 0.7, (True, True), id="a loss within bounds"),
        pytest.param(3.0, 0.5, (True, False), id="too great a loss"),
        pytest.param(0.0, 0.99, (False, True), id="never good enough"),
        pytest.param(3.0, None, (True, False), id="no minimum"),
    ],
)
def test_the_gate_wants_a_minimum_and_a_bounded_loss(
    rng: np.random.Generator, noise: float, minimum: float | None, passed: tuple[bool, bool]
) -> None:
    labels = rng.integers(0, 2, 4_000)
    baseline = labels + rng.normal(size=4_000)
    variant = baseline + noise * rng.normal(size=4_000)
    gate = AccuracyGate(minimum=minimum, max_loss=0.005)

    accuracy = measure_accuracy(labels, baseline, variant, gate)
    verdicts = judge_accuracy("m", accuracy, gate)

    assert tuple(verdict.passed for verdict in verdicts) == passed
    assert accuracy.low < accuracy.value < accuracy.high
    assert accuracy.loss <= accuracy.loss_bound + 1e-12


@pytest.mark.parametrize(
    ("metric", "maximum", "max_loss", "passed"),
    [
        pytest.param("rmse", 1.2, 0.1, (True, True), id="rmse"),
        pytest.param("rmse", 0.9, 0.1, (False, True), id="rmse above its maximum"),
        pytest.param("mae", 1.2, 0.001, (True, False), id="mae that grows by too large a share"),
    ],
)
def test_errors_are_held_to_a_maximum_and_a_share(
    rng: np.random.Generator, metric: Any, maximum: float, max_loss: float, passed: tuple[bool, bool]
) -> None:
    labels = 1000 * rng.normal(size=5_000)
    baseline = labels + rng.normal(size=5_000)
    gate = AccuracyGate(metric=metric, maximum=maximum, max_loss=max_loss)

    accuracy = measure_accuracy(labels, baseline, baseline + 0.2 * rng.normal(size=5_000), gate)

    assert tuple(verdict.passed for verdict in judge_accuracy("m", accuracy, gate)) == passed
    assert judge_accuracy("m", accuracy, gate)[1].measure == f"{metric} loss to its baseline as a share of it, upper 95% bound"


def test_the_threshold_decides_the_class_of_a_binary_model() -> None:
    labels, scores, gate = np.array([0, 0, 1, 1]), np.array([0.1, 0.25, 0.35, 0.9]), AccuracyGate(metric="accuracy")

    assert measure_accuracy(labels, scores, scores, gate, threshold=0.3).value == 1.0
    assert measure_accuracy(labels, scores, scores, gate, threshold=None).value == 0.75
    assert measure_accuracy(labels, scores, scores, gate, threshold=0.0).value == 0.5


@pytest.mark.parametrize(
    ("rows", "max_loss", "needed"),
    [
        pytest.param(597, 0.005, 598, id="one row short"),
        pytest.param(598, 0.005, 0, id="just enough"),
        pytest.param(60, 0.05, 0, id="a larger loss needs fewer"),
        pytest.param(40, 0.05, 60, id="but thirty of a class"),
    ],
)
def test_too_few_rows_fail_and_the_verdict_says_how_many_are_needed(rows: int, max_loss: float, needed: int) -> None:
    labels = np.arange(rows) % 2
    baseline = labels.astype(float)
    gate = AccuracyGate(max_loss=max_loss)

    verdict = judge_accuracy("m", measure_accuracy(labels, baseline, baseline.copy(), gate), gate)[1]

    assert verdict.passed == (needed == 0)
    if needed:
        assert (verdict.measure, verdict.value, verdict.bound) == ("labelled rows", rows, needed)
        assert f"give at least {needed}" in verdict.note


def test_rare_classes_need_more_rows() -> None:
    labels = np.array([1] * 10 + [0] * 990)
    scores = labels + np.linspace(0, 0.5, 1000)

    assert measure_accuracy(labels, scores, scores.copy(), AccuracyGate()).rows_needed == 3000


def test_the_baseline_loses_nothing_to_itself_however_few_rows_there_are() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.35, 0.8])

    accuracy = measure_accuracy(labels, scores, scores, AccuracyGate())
    verdict = judge_accuracy("m/baseline", accuracy, AccuracyGate())[1]

    assert (accuracy.loss, accuracy.loss_bound, verdict.passed) == (0.0, 0.0, True)
    assert "it is the baseline" in verdict.note


def test_too_few_rows_to_prove_a_small_loss_fail_the_gate(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 600)
    baseline = labels + rng.normal(size=600)
    variant = baseline + 0.5 * rng.normal(size=600)
    gate = AccuracyGate(max_loss=0.005)

    verdict = judge_accuracy("m", measure_accuracy(labels, baseline, variant, gate), gate)[1]

    assert not verdict.passed


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_variant_that_gives_no_number_is_refused_with_the_row(wrong: float) -> None:
    labels, baseline = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8])
    variant = np.array([0.1, 0.9, wrong, 0.8])

    with pytest.raises(OptimizationError, match="gives no number for 1 of 4 labelled rows, the first of them row 2"):
        measure_accuracy(labels, baseline, variant, AccuracyGate())


def test_a_class_that_the_model_does_not_have_is_refused() -> None:
    scores = np.full((3, 3), 1 / 3)

    with pytest.raises(DataError, match="a label is class 3, but the model has classes 0 to 2"):
        measure_accuracy(np.array([0, 1, 3]), scores, scores, AccuracyGate(metric="accuracy"))


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "rmse"])
def test_no_rows_at_all_are_refused(metric: Any) -> None:
    with pytest.raises(DataError, match="needs two"):
        measure_accuracy(np.zeros(0, int), np.zeros(0), np.zeros(0), AccuracyGate(metric=metric))


def test_rows_of_one_class_are_refused() -> None:
    with pytest.raises(DataError, match="0 of class 1"):
        measure_accuracy(np.zeros(9, int), np.arange(9.0), np.arange(9.0) + 1, AccuracyGate())


@pytest.mark.parametrize(("task", "metric"), [(BINARY, "roc_auc"), (MANY, "accuracy"), (REGRESSION, "rmse"), ("tensors", None)])
def test_the_usual_metric_of_a_task(task: Any, metric: str | None) -> None:
    gate = default_accuracy_gate(task)

    assert (gate.metric if gate else None) == metric
    assert gate is None or gate.bound is None
    assert accuracy_gate(GatesSection(), task) == gate


@pytest.mark.parametrize(
    ("task", "said"),
    [
        pytest.param(BINARY, "use accuracy, log_loss, roc_auc", id="a classifier"),
        pytest.param("tensors", "leave gates.accuracy out", id="tensors"),
    ],
)
def test_a_metric_of_another_task_is_refused(task: Any, said: str) -> None:
    with pytest.raises(OptimizationError, match=f"gates.accuracy.metric: mae does not judge {task}; {said}"):
        accuracy_gate(GatesSection(accuracy=AccuracyGate(metric="mae")), task)


@pytest.mark.parametrize(
    ("gate", "measure"), [(AccuracyGate(minimum=0.6), "roc_auc"), (AccuracyGate(metric="mae"), "mae"), (None, "accuracy")]
)
def test_without_labels_the_verdict_says_so(gate: AccuracyGate | None, measure: str) -> None:
    verdict = not_judged("m", gate)

    assert (verdict.passed, verdict.value, verdict.measure) == (True, None, measure)
    assert "not judged" in verdict.note


@settings(max_examples=25, deadline=None)
@given(
    losses=st.lists(st.floats(-0.1, 0.2), min_size=2, max_size=2),
    values=st.lists(st.floats(0, 2), min_size=2, max_size=2),
    max_loss=st.floats(0, 0.1),
    bound=st.floats(0, 1),
    rises=st.booleans(),
)
def test_what_is_worse_never_passes_where_the_better_fails(
    losses: list[float], values: list[float], max_loss: float, bound: float, rises: bool
) -> None:
    gate = AccuracyGate(minimum=bound, max_loss=max_loss)
    if not rises:
        gate = AccuracyGate(metric="rmse", maximum=bound, max_loss=max_loss)

    def passed(value: float, loss: float) -> tuple[bool, ...]:
        found = Accuracy(metric=gate.metric, value=value, low=0, high=2, loss=0, loss_bound=loss, rows=9, rows_needed=1)
        return tuple(verdict.passed for verdict in judge_accuracy("m", found, gate))

    better, worse = (
        passed(max(values) if rises else min(values), min(losses)),
        passed(min(values) if rises else max(values), max(losses)),
    )

    assert all(good >= bad for good, bad in zip(better, worse, strict=True))
