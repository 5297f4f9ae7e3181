"""Reads what a graph is made of: which layers are dense, their weights, what there is instead, and what could run at once."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tidegate.packaging.onnx_graphs import every_node, fresh_name

# Layers that multiply by a matrix, which is where a dense model spends its time.
MATRIX_OPERATORS = frozenset({"MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
DENSE_OPERATORS = MATRIX_OPERATORS | CONVOLUTIONS | RECURRENT
_WELL_KNOWN = ("MatMul", "Gemm", "Conv")

Weights = dict[str, NDArray[np.float32]]


def float_weights(graph: onnx.GraphProto) -> Weights:
    """Return the single-precision initializers by name."""
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    }


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in which every node has a name of its own: converters and reports speak of nodes by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = {node.name for node in copy.graph.node}
    seen: set[str] = set()
    for number, node in enumerate(copy.graph.node):
        if not node.name or node.name in seen:
            node.name = fresh_name(f"{node.name or node.op_type}_{number}", taken)
        seen.add(node.name)
    return copy


def why_without(model: onnx.ModelProto, operators: Iterable[str], purpose: str) -> str | None:
    """Return why there is nothing for `purpose` ("to reduce"): none of the operators is in the model; None if one is."""
    wanted = frozenset(operators)
    found = {node.op_type for node in every_node(model.graph)}
    if found & wanted:
        return None
    trees = sorted(operator for operator in found if operator.startswith("TreeEnsemble"))
    kind = f"a tree ensemble ({trees[0]})" if trees else "a model of other operators"
    known = [operator for operator in _WELL_KNOWN if operator in wanted]
    return f"no {', '.join(known[:-1])} or {known[-1]} {purpose}: it is {kind}"


def opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators that a model uses."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def widest_level(graph: onnx.GraphProto) -> int:
    """Return how many nodes could run at once: the most that are equally far from the inputs, constants not counted."""
    distances = {value.name: 0 for value in graph.input}
    levels: Counter[int] = Counter()
    for node in graph.node:
        fed = [distances[name] for name in node.input if name in distances]
        if fed:
            distances.update(dict.fromkeys(node.output, max(fed) + 1))
            levels[max(fed) + 1] += 1
    return max(levels.values(), default=0)
