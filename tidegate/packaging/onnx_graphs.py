"""Walks ONNX graphs and the subgraphs of their branches and loops: what is named and read there, and what nothing reads."""

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds: the branches of an If, the body of a Loop or Scan."""
    for attribute in node.attribute:  # its type first: to read a graph that is not there would make one
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and every subgraph in it, however deep."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from every_graph(inner)


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from every_node(subgraph)


def captured_values(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node's subgraphs read, their own among them: any may be a value of the graph around."""
    inner = [graph for subgraph in subgraphs(node) for graph in every_graph(subgraph)]
    read = {name for graph in inner for part in graph.node for name in part.input}
    return read | {output.name for graph in inner for output in graph.output}


def readers(graph: onnx.GraphProto) -> Mapping[str, int]:
    """Return how often each value is read: by nodes, by subgraphs, and as an output of the graph."""
    counted: Counter[str] = Counter(output.name for output in graph.output)
    for node in graph.node:
        counted.update(node.input)
        counted.update(captured_values(node))
    return counted


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values of a graph and its subgraphs."""
    names = {value.name for inner in every_graph(graph) for value in (*inner.input, *inner.output, *inner.initializer)}
    return names.union(*((*node.input, *node.output) for node in every_node(graph)))


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Return `wanted`, with underscores appended until it is not `taken`, and take it."""
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let nodes read values by other names, in place, and subgraphs return them so; the graph's own outputs stay."""
    for inner in every_graph(graph):
        for node in inner.node:
            for position, name in enumerate(node.input):
                node.input[position] = names.get(name, name)
        for output in inner.output if inner is not graph else ():
            output.name = names.get(output.name, output.name)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes that no output of the graph depends on, then the weights that nothing reads any more, in place."""
    drop_unread_nodes(graph)
    drop_unread_weights(graph)


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
