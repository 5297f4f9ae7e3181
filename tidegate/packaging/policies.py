"""Puts the project's rules for unusual values on a model's inputs, with what is imputed taken from the training data."""

from collections import Counter

import msgspec
import numpy as np
import pyarrow as pa

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import InputPolicy, Scalar, TensorSpec
from tidegate.packaging.format.policy_rules import imputes, policy_problem
from tidegate.packaging.inputs import input_arrays
from tidegate.project import InputRules, ValidationSection


def with_policies(inputs: tuple[TensorSpec, ...], rows: pa.Table, rules: ValidationSection) -> tuple[TensorSpec, ...]:
    """Return the inputs with their policies; looked-up features keep what their contract says.

    A rule for all inputs holds for those that it can hold for: `out_of_range` where training held a range, `unknown_category`
    where it held categories. A rule for one input must be possible. What is imputed is the rule's value, or else of numbers the
    lower median and of texts the most frequent one that training held, of equally frequent ones the first in order.

    Args:
        inputs: As the model takes them.
        rows: What it was trained on, at least a column for each request input.
        rules: The project's.

    Raises:
        DataError: A rule cannot hold for its input, or its value does not fit; the message names both.
    """
    named = {spec.name: spec for spec in inputs if spec.source == "request"}
    for name in rules.inputs:
        if name not in named:
            raise DataError(f"serving.validation.inputs: {name!r} is no request input; the model takes {', '.join(named)}")
    return tuple(_with_policy(spec, rows, rules) if spec.name in named else spec for spec in inputs)


def _with_policy(spec: TensorSpec, rows: pa.Table, rules: ValidationSection) -> TensorSpec:
    own = rules.inputs.get(spec.name, InputRules())
    has_range = spec.minimum is not None and spec.maximum is not None
    policy = InputPolicy(
        out_of_range=own.out_of_range or (rules.out_of_range if has_range else "count"),
        unknown_category=own.unknown_category or (rules.unknown_category if spec.categories is not None else "count"),
        missing=own.missing or rules.missing,
    )
    value = _given(spec, own.value)
    if value is None and imputes(policy):
        value = _typical(spec, rows)
    ruled = msgspec.structs.replace(spec, policy=msgspec.structs.replace(policy, imputed=value))
    if problem := policy_problem(ruled):
        raise DataError(f"serving.validation: input {spec.name!r} {problem}; change serving.validation.inputs.{spec.name}")
    return ruled if ruled.policy != InputPolicy() else spec


def _given(spec: TensorSpec, value: Scalar | None) -> Scalar | None:
    """Return a rule's value; a whole number for an input of floats is one of them."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if value is not None and is_whole and spec.datatype in ("FP16", "BF16", "FP32", "FP64") else value


def _typical(spec: TensorSpec, rows: pa.Table) -> Scalar | None:
    """Return the median or the most frequent category; None if training held no value."""
    values = input_arrays(rows, [spec])[spec.name].ravel()
    if spec.datatype == "BYTES":
        counts = Counter(text for text in values.tolist() if text or not spec.nullable)
        return min(counts, key=lambda text: (-counts[text], text), default=None)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return None
    median: bool | int | float = np.sort(values)[(values.size - 1) // 2].item()
    # The range is of the column's own precision, which that of the input may round out of it.
    within = max(median, spec.minimum) if spec.minimum is not None else median
    within = min(within, spec.maximum) if spec.maximum is not None else within
    return type(median)(within)
