"""Writes tree ensembles as ONNX attributes that decide every row as the framework does.

A graph's thresholds are 32-bit where its inputs are; a framework's may be 64-bit. Rounded to the nearest, such a threshold can
fall on the other side of a value, so it is rounded to the side where every 32-bit value decides as before. Membership in a set
of categories is a chain of equalities whose hits share one branch, which ONNX Runtime follows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of a way through a tree: what it adds to the tree's target, and to those after it."""

    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Goes to node `yes` if the feature is at most (or below) the threshold, else to `no`; NaN as `missing_yes` says."""

    feature: int
    kind: Literal["at most", "below"]
    threshold: float
    yes: int
    no: int
    missing_yes: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """Goes to node `yes` if the feature is one of the values, else to `no`; NaN as `missing_yes` says."""

    feature: int
    values: tuple[float, ...]
    yes: int
    no: int
    missing_yes: bool


Node = Leaf | Comparison | Membership


@dataclass(frozen=True, slots=True)
class Tree:
    """Nodes, of which the first is the root and all are named by their place, and the target that leaves add to first."""

    nodes: Sequence[Node]
    target: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    node: int
    feature: int = 0
    mode: str = "LEAF"
    value: float = 0.0
    yes: int = 0
    no: int = 0
    missing_yes: bool = False


def ensemble_attributes(trees: Sequence[Tree], base: Sequence[float], *, wide: bool) -> dict[str, Any]:
    """Return the attributes of a TreeEnsembleRegressor (ai.onnx.ml 3) that sums the trees' leaves by target.

    Args:
        trees: At least one.
        base: What each target starts from; its length is the number of targets.
        wide: Whether the ensemble reads 64-bit floats, and then compares and sums in them, else 32-bit ones.
    """
    with np.errstate(over="ignore"):  # of thresholds beyond 32 bits
        rows = [(number, row) for number, tree in enumerate(trees) for row in _rows(tree, wide=wide)]
    leaves = [
        (number, position, target, weight)
        for number, tree in enumerate(trees)
        for position, node in enumerate(tree.nodes)
        if isinstance(node, Leaf)
        for target, weight in enumerate(node.weights, start=tree.target)
    ]
    values = [row.value for _, row in rows]
    weights = [weight for *_, weight in leaves]
    return {
        "n_targets": len(base),
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_treeids": [number for number, _ in rows],
        "nodes_nodeids": [row.node for _, row in rows],
        "nodes_featureids": [row.feature for _, row in rows],
        "nodes_modes": [row.mode for _, row in rows],
        "nodes_truenodeids": [row.yes for _, row in rows],
        "nodes_falsenodeids": [row.no for _, row in rows],
        "nodes_missing_value_tracks_true": [int(row.missing_yes) for _, row in rows],
        "target_treeids": [number for number, *_ in leaves],
        "target_nodeids": [position for _, position, *_ in leaves],
        "target_ids": [target for _, _, target, _ in leaves],
        **_numbers({"nodes_values": values, "target_weights": weights, "base_values": list(base)}, wide=wide),
    }


def _numbers(lists: dict[str, list[float]], *, wide: bool) -> dict[str, Any]:
    if not wide:
        return {name: np.asarray(numbers, dtype=np.float32).tolist() for name, numbers in lists.items()}
    from onnx import numpy_helper

    return {
        f"{name}_as_tensor": numpy_helper.from_array(np.asarray(numbers, dtype=np.float64), name)
        for name, numbers in lists.items()
    }


def _rows(tree: Tree, *, wide: bool) -> Iterator[_Row]:
    free = len(tree.nodes)  # numbers of the nodes that memberships need in addition
    for position, node in enumerate(tree.nodes):
        if isinstance(node, Leaf):
            yield _Row(position)
        elif isinstance(node, Comparison):
            mode = "BRANCH_LEQ" if node.kind == "at most" else "BRANCH_LT"
            threshold = node.threshold if wide else _narrow(node.threshold, node.kind)
            yield _Row(position, node.feature, mode, threshold, node.yes, node.no, node.missing_yes)
        else:
            values = _reachable(node.values, wide=wide)
            if not values:  # nothing is below minus infinity
                yield _Row(position, node.feature, "BRANCH_LT", -np.inf, node.yes, node.no, node.missing_yes)
            places = [position, *range(free, free + len(values) - 1)]
            free += max(0, len(values) - 1)
            for here, after, value in zip(places, [*places[1:], node.no], values, strict=False):
                yield _Row(here, node.feature, "BRANCH_EQ", value, node.yes, after, node.missing_yes and here == position)


def _narrow(threshold: float, kind: Literal["at most", "below"]) -> float:
    """Return the 32-bit threshold that every 32-bit value compares to as it does to the 64-bit one."""
    nearest = np.float32(threshold)
    rounded = float(nearest)  # a 32-bit number would be compared in 32 bits
    if kind == "at most" and rounded > threshold:
        return float(np.nextafter(nearest, np.float32(-np.inf)))
    if kind == "below" and rounded < threshold:
        return float(np.nextafter(nearest, np.float32(np.inf)))
    return rounded


def _reachable(values: Sequence[float], *, wide: bool) -> list[float]:
    """Leave out what no input can be equal to."""
    return [value for value in values if wide or float(np.float32(value)) == value]
