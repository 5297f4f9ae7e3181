import numpy as np
import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.optimization.accuracy import judge_accuracy, labelled_rows, measure_accuracy, not_judged
from tidegate.project import AccuracyGate


def test_rows_whose_label_is_unknown_do_not_count() -> None:
    rows = labelled_rows(pa.table({"late": pa.array([0, None, 1], pa.int8()), "x": [1, 2, 3]}), "late")

    assert rows["x"].to_pylist() == [1, 3]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        pytest.param(pa.array(["yes"]), "has type string", id="text"),
        pytest.param(pa.array([0, 2]), "holds 2; 0 and 1 are needed", id="another class"),
        pytest.param(pa.array([0.5]), "holds 0.5", id="a share"),
    ],
)
def test_labels_that_are_not_0_and_1_are_refused(column: pa.Array, said: str) -> None:
    with pytest.raises(DataError, match=said):
        labelled_rows(pa.table({"late": column}), "late")


def test_a_missing_label_column_is_named() -> None:
    with pytest.raises(DataError, match="label column 'late' is missing; the table has x"):
        labelled_rows(pa.table({"x": [1]}), "late")


@pytest.mark.parametrize(
    ("noise", "minimum", "passed"),
    [
        pytest.param(0.0, 0.7, (True, True), id="the same scores"),
        pytest.param(0.01, 0.7, (True, True), id="a loss within bounds"),
        pytest.param(3.0, 0.5, (True, False), id="too great a loss"),
        pytest.param(0.0, 0.99, (False, True), id="never good enough"),
    ],
)
def test_the_gate_wants_a_minimum_and_a_bounded_loss(
    rng: np.random.Generator, noise: float, minimum: float, passed: tuple[bool, bool]
) -> None:
    labels = rng.integers(0, 2, 4_000)
    baseline = labels + rng.normal(size=4_000)
    variant = baseline + noise * rng.normal(size=4_000)

    accuracy = measure_accuracy(labels, baseline, variant, 0.95)
    verdicts = judge_accuracy("m", accuracy, AccuracyGate(minimum=minimum, max_loss=0.005))

    assert tuple(verdict.passed for verdict in verdicts) == passed
    assert accuracy.low < accuracy.auc < accuracy.high
    assert accuracy.loss <= accuracy.loss_bound + 1e-12


def test_too_few_rows_to_prove_a_small_loss_fail_the_gate(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, 60)
    baseline = labels + rng.normal(size=60)
    variant = baseline + 0.5 * rng.normal(size=60)

    verdict = judge_accuracy("m", measure_accuracy(labels, baseline, variant, 0.95), AccuracyGate(minimum=0.5, max_loss=0.005))[
        1
    ]

    assert not verdict.passed


def test_without_labels_the_verdict_says_so() -> None:
    verdict = not_judged("m", AccuracyGate(minimum=0.6))

    assert (verdict.passed, verdict.value) == (True, None)
    assert "not judged" in verdict.note
