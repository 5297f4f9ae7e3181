"""Reads ONNX graphs: nodes in subgraphs too, what reads a value, which layers are dense, and what a graph has instead."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

# Layers that multiply by a matrix, which is where a dense model spends its time.
MATRIX_OPERATORS = frozenset({"MatMul", "Gemm"})
CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
DENSE_OPERATORS = MATRIX_OPERATORS | CONVOLUTIONS | RECURRENT
_WELL_KNOWN = ("MatMul", "Gemm", "Conv")

Weights = dict[str, NDArray[np.float32]]


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph and of the subgraphs of its loops and branches."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from every_node(subgraph)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured_values(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node's subgraphs read, their own among them: any may be a value of the graph around."""
    return {name for graph in subgraphs(node) for inner in every_node(graph) for name in inner.input} | {
        output.name for graph in subgraphs(node) for output in graph.output
    }


def readers(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Return how often each value is read: by nodes, by subgraphs, and as an output of the graph."""
    counted: Counter[str] = Counter(output.name for output in graph.output)
    for node in graph.node:
        counted.update(node.input)
        counted.update(captured_values(node))
    return counted


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


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Return `wanted`, with underscores appended until it is not `taken`, and take it."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values of a graph and its subgraphs."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    return names.union(*((*node.input, *node.output) for node in every_node(graph)))


def drop_unread_nodes(graph: onnx.GraphProto) -> None:
    """Remove the nodes that no output of the graph depends on, in place; ONNX Runtime's optimizations leave them."""
    read, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(node.input, captured_values(node))
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))


def drop_unread_weights(graph: onnx.GraphProto) -> None:
    """Remove the initializers that nothing reads any more, in place, but not those that the caller may give instead."""
    read, fed = readers(graph), {value.name for value in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name in fed]
    del graph.initializer[:]
    graph.initializer.extend(kept)


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
