"""The accuracy gate: a variant's metric on labelled rows that training never saw, and its loss against its baseline.

rows = labelled_rows(holdout, "late", manifest.task, manifest.classes)
accuracy = measure_accuracy(labels_of(rows, "late"), baseline_scores, variant_scores, gate, threshold=manifest.threshold)
judge_accuracy("mlp/int8-dynamic", accuracy, gate)
"""

from collections.abc import Sequence
from math import ceil, log
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization.metrics import metric, metric_names
from tidegate.optimization.metrics.base import Loss
from tidegate.optimization.records import Accuracy
from tidegate.packaging.format.manifest import Task, Verdict
from tidegate.packaging.inputs import is_tensor, tensor_rows
from tidegate.project import AccuracyGate, GatesSection

Array = NDArray[Any]

_USUAL: dict[Task, AccuracyGate] = {
    "binary-classification": AccuracyGate(metric="roc_auc"),
    "multiclass-classification": AccuracyGate(metric="accuracy"),
    "regression": AccuracyGate(metric="rmse"),
}


def default_accuracy_gate(task: Task) -> AccuracyGate | None:
    """Return the gate for a task where nobody chose one: its usual metric, unbounded; None for tensors, which have none."""
    return _USUAL.get(task)


def accuracy_gate(gates: GatesSection, task: Task) -> AccuracyGate | None:
    """Return the gates' own accuracy gate, or the task's; raises OptimizationError if its metric is not one of the task."""
    gate = gates.accuracy or default_accuracy_gate(task)
    if gate is not None and task not in metric(gate.metric).tasks:
        usable = [name for name in metric_names() if task in metric(name).tasks]
        choice = f"use {', '.join(usable)}" if usable else "leave gates.accuracy out"
        raise OptimizationError(f"gates.accuracy.metric: {gate.metric} does not judge {task}; {choice}")
    return gate


def labelled_rows(table: pa.Table, label_column: str, task: Task, classes: Sequence[str] = ()) -> pa.Table:
    """Return the rows whose label is known (neither null nor NaN), with the labels as the metrics read them.

    Of a classification they become class numbers, int64: each label is a class's name, or else a number from 0. Of a regression
    they become float64; several targets are a column of lists.

    Args:
        table: Rows to be judged on.
        label_column: Where the labels are.
        task: Of the model.
        classes: The model's class names, in the order of their numbers; empty if they are not known.

    Raises:
        DataError: The column is missing, a label is not one of the task's, or the task has no labels.
    """
    if label_column not in table.column_names:
        raise DataError(f"label column {label_column!r} is missing; the table has {', '.join(table.column_names)}")
    if task == "tensors":
        raise DataError(f"label column {label_column!r}: a model whose task is tensors has no metric; leave the labels out")
    known = table.filter(pc.invert(pc.is_null(table[label_column], nan_is_null=True)))
    column = known[label_column]
    labels = _values(label_column, column) if task == "regression" else _class_numbers(label_column, column, task, classes)
    return known.set_column(known.column_names.index(label_column), label_column, labels)


def labels_of(rows: pa.Table, label_column: str) -> Array:
    """Return the labels of what `labelled_rows` returned, shape [rows], or [rows, targets]."""
    column = rows[label_column]
    return tensor_rows(label_column, column) if is_tensor(column) else np.asarray(column.to_numpy())


def measure_accuracy(
    labels: Array, baseline: Array, variant: Array, gate: AccuracyGate, *, threshold: float | None = None
) -> Accuracy:
    """Measure a variant's metric, and what it loses against its baseline on the same rows.

    Args:
        labels: What `labels_of` returned.
        baseline: Its score output (`tidegate.packaging.format.manifest.SCORE_OUTPUTS`) for those rows.
        variant: The variant's; the very same array says that the variant is the baseline, which loses nothing to itself.
        gate: The metric and the confidence.
        threshold: Of a binary classification; None means 0.5.

    Raises:
        DataError: The rows cannot give a value, such as for want of a class.
        OptimizationError: The variant gives no number for some row.
    """
    _check_scores(labels, variant)
    judged = metric(gate.metric, threshold=0.5 if threshold is None else threshold)
    estimate = judged.estimate(labels, variant, gate.confidence)
    itself = variant is baseline
    loss = Loss(0.0, 0.0) if itself else judged.loss(labels, baseline, variant, gate.confidence)
    return Accuracy(
        metric=gate.metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        loss=loss.value,
        loss_bound=loss.bound,
        rows=len(labels),
        rows_needed=0 if itself else max(judged.rows_needed(labels), _rows_to_see(gate)),
    )


def judge_accuracy(name: str, accuracy: Accuracy, gate: AccuracyGate) -> tuple[Verdict, ...]:
    """Hold an accuracy to the gate's minimum or maximum, and its loss bound to the largest accepted loss.

    With fewer rows than are needed to see so small a loss, the loss is not judged: the number of rows is, and fails.
    """
    judged = metric(gate.metric)
    bound = gate.bound
    met = bound is None or (accuracy.value >= bound if judged.higher_is_better else accuracy.value <= bound)
    interval = f"{gate.confidence:.0%} interval {accuracy.low:.4g} to {accuracy.high:.4g}"
    value = Verdict(
        gate="accuracy",
        subject=name,
        measure=gate.metric,
        value=accuracy.value,
        bound=bound,
        passed=met,
        note=f"{accuracy.rows} labelled rows, {interval}" + (f"; no {gate.bound_name} is set" if bound is None else ""),
    )
    return value, _judge_rows(name, accuracy, gate) or _judge_loss(name, accuracy, gate)


def not_judged(name: str, gate: AccuracyGate | None) -> Verdict:
    """Return the verdict of an accuracy that cannot be measured, since no labels were given; it passes, and says so."""
    return Verdict(
        gate="accuracy",
        subject=name,
        measure=gate.metric if gate else "accuracy",
        value=None,
        bound=gate.bound if gate else None,
        passed=True,
        note="not judged: no label column was given"
        if gate
        else "not judged: the outputs of a model of tensors have no metric",
    )


def _judge_rows(name: str, accuracy: Accuracy, gate: AccuracyGate) -> Verdict | None:
    if accuracy.rows >= accuracy.rows_needed:
        return None
    return Verdict(
        gate="accuracy",
        subject=name,
        measure="labelled rows",
        value=accuracy.rows,
        bound=accuracy.rows_needed,
        passed=False,
        note=f"too few to show with {gate.confidence:.0%} confidence that {gate.metric} loses no more than {gate.max_loss:g}; "
        f"give at least {accuracy.rows_needed}, or accept more (gates.accuracy.max_loss)",
    )


def _judge_loss(name: str, accuracy: Accuracy, gate: AccuracyGate) -> Verdict:
    judged = metric(gate.metric)
    share = " as a share of it" if judged.loss_is_share else ""
    itself = accuracy.rows_needed == 0
    how = "it is the baseline" if itself else f"paired ({judged.method}), loss {accuracy.loss:.3g}"
    return Verdict(
        gate="accuracy",
        subject=name,
        measure=f"{gate.metric} loss to its baseline{share}, upper {gate.confidence:.0%} bound",
        value=accuracy.loss_bound,
        bound=gate.max_loss,
        passed=accuracy.loss_bound <= gate.max_loss,
        note=f"{accuracy.rows} labelled rows, {how}",
    )


def _rows_to_see(gate: AccuracyGate) -> int:
    """Return how many rows hold, with the gate's confidence, one of those that a loss of `max_loss` would spoil.

    If a share s of all rows is answered wrongly, n rows show none of it with probability (1 - s)^n. Of no loss at all no number
    of rows can convince; then the bound alone decides.
    """
    if not 0 < gate.max_loss < 1:
        return 1
    return ceil(log(1 - gate.confidence) / log(1 - gate.max_loss))


def _check_scores(labels: Array, variant: Array) -> None:
    wrong = np.asarray((~np.isfinite(variant)).any(axis=tuple(range(1, variant.ndim))))
    if wrong.any():
        count = f"{int(wrong.sum())} of {len(wrong)} labelled rows"
        raise OptimizationError(f"gives no number for {count}, the first of them row {int(wrong.argmax())}")
    if labels.dtype.kind == "i" and variant.ndim == 2 and len(labels) and int(labels.max()) >= variant.shape[1]:
        raise DataError(f"a label is class {int(labels.max())}, but the model has classes 0 to {variant.shape[1] - 1}")


def _values(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if is_tensor(column):
        targets = np.asarray(tensor_rows(name, column), dtype=np.float64)
        _check_values(name, targets)
        return pa.array(targets.tolist(), pa.list_(pa.float64()))
    try:
        values = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"label column {name!r} has type {column.type}; numbers are needed") from None
    _check_values(name, values.to_numpy())
    return values


def _check_values(name: str, values: Array) -> None:
    wrong = values[~np.isfinite(values)]
    if wrong.size:
        raise DataError(f"label column {name!r} holds {wrong.flat[0]:g}; finite numbers are needed, or null where unknown")


def _class_numbers(name: str, column: pa.ChunkedArray, task: Task, classes: Sequence[str]) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found = pc.unique(column).to_pylist()
    names = {value: _name_of(value, classes) for value in found}
    if classes and all(known is not None for known in names.values()):
        numbers = {value: classes.index(str(names[value])) for value in found}
    else:
        count = 2 if task == "binary-classification" else len(classes)
        numbers = {value: _number_of(name, column, value, classes, count) for value in found}
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    by_code = np.array([numbers[value] for value in encoded.dictionary.to_pylist()], dtype=np.int64)
    return pa.array(by_code[encoded.indices.to_numpy(zero_copy_only=False)], pa.int64())


def _name_of(value: Any, classes: Sequence[str]) -> str | None:
    """Return the class that a label names, if any: 3 and 3.0 name "3", and True names "True" or "1"."""
    whole = isinstance(value, int | float) and float(value).is_integer()
    return next((text for text in (str(value), *([str(int(value))] if whole else [])) if text in classes), None)


def _number_of(name: str, column: pa.ChunkedArray, value: Any, classes: Sequence[str], count: int) -> int:
    needed = "0 and 1 are needed" if count == 2 else f"0 to {count - 1} are needed" if count else "0, 1, … are needed"
    if classes and set(classes) != {str(number) for number in range(count)}:
        needed += f", or the classes' names: {', '.join(classes)}"
    if not isinstance(value, int | float):
        raise DataError(f"label column {name!r} has type {column.type}; {needed}")
    if not float(value).is_integer() or value < 0 or (count and value >= count):
        raise DataError(f"label column {name!r} holds {value:g}; {needed}")
    return int(value)
