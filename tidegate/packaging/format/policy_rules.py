"""What an input's policy must fulfil, so that a server can follow it."""

import math

import numpy as np

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import InputPolicy, Scalar, TensorSpec


def policy_problem(spec: TensorSpec) -> str | None:
    """Return why no server could follow an input's policy, in words that follow the input's name; None if one can."""
    policy = spec.policy
    if policy == InputPolicy():
        return None
    if spec.source == "feature":
        return "is looked up, so that its feature contract says what becomes of it"
    if policy.out_of_range != "count" and (spec.datatype == "BYTES" or spec.minimum is None or spec.maximum is None):
        return f"has no range that out_of_range {policy.out_of_range!r} could hold it to"
    if policy.unknown_category != "count" and spec.categories is None:
        return f"has no categories that unknown_category {policy.unknown_category!r} could hold it to"
    if not imputes(policy):
        return None if policy.imputed is None else f"has the value {policy.imputed!r}, but nothing is ever imputed"
    return "is to be imputed, but there is no value for it" if policy.imputed is None else _misfit(spec, policy.imputed)


def imputes(policy: InputPolicy) -> bool:
    """Return whether a value may have to be replaced by `imputed`."""
    return policy.missing == "impute" or policy.unknown_category == "impute"


def _misfit(spec: TensorSpec, value: Scalar) -> str | None:
    if not _is_of(spec, value):
        return f"is {spec.datatype}, which {value!r} is not"
    if spec.categories is not None and value not in spec.categories:
        return f"is imputed as {value!r}, which is none of the categories that training held"
    if isinstance(value, str):
        return None
    if (spec.minimum is not None and value < spec.minimum) or (spec.maximum is not None and value > spec.maximum):
        return f"is imputed as {value!r}, which lies outside what training held, {spec.minimum:g} to {spec.maximum:g}"
    return None


def _is_of(spec: TensorSpec, value: Scalar) -> bool:
    dtype = NUMPY_TYPES[spec.datatype]
    if dtype.kind == "O":
        return isinstance(value, str)
    if dtype.kind == "b" or isinstance(value, bool):
        return dtype.kind == "b" and isinstance(value, bool)
    if isinstance(value, str):
        return False
    if dtype.kind == "f":
        return math.isfinite(value) and abs(value) <= float(np.finfo(dtype).max)
    return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
