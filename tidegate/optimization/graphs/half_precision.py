"""Rewrites chosen nodes of a graph to half precision, with casts around them; everything else stays as it is.

onnxconverter-common has such a rewriter, and `auto_mixed_precision` upon it. They convert by a list of operators, not by what
an operator's definition allows, give two nodes one name (onnxconverter-common#259), and refuse graphs with a "validation
failed" even where nothing is converted (#297, onnxruntime#14235); so this one goes by the operators' own type constraints.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.optimization.graphs.reading import DENSE_OPERATORS, opset
from tidegate.packaging.onnx_graphs import captured_values, drop_unread_weights, fresh_name, readers, subgraphs, value_names

LARGEST = float(np.finfo(np.float16).max)  # 65504
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)  # 6e-8

# Their float outputs follow from an attribute, or they are about precision themselves.
_NEVER = frozenset({"Cast", "CastLike", "Constant", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Optional"})


@dataclass(frozen=True, slots=True)
class HalfGraph:
    """A graph in which some nodes work in half precision.

    Attributes:
        model: The graph.
        halves: The names of all values and weights in half precision.
        clipped: How many weights were too large for it.
    """

    model: onnx.ModelProto
    halves: frozenset[str]
    clipped: int


def halvable_nodes(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the nodes that can work in half precision, in the graph's order; every node must have a name of its own.

    These are the standard operators whose definition allows it for their float inputs, from the first to the last dense layer:
    what comes before prepares raw features, which half precision would round (the year 2013 to a multiple of 1, a distance of
    5,000 to one of 4), and what comes after turns a score into a probability; both cost little.
    """
    types = _value_types(model)
    able = {node.name for node in model.graph.node if _halved_inputs(node, types, opset(model))}
    return tuple(node.name for node in _between_dense_layers(model.graph) if node.name in able)


def in_half(model: onnx.ModelProto, nodes: Iterable[str]) -> HalfGraph:
    """Return `model`, which is not changed, with the named nodes in half precision.

    The graph's inputs and outputs keep their datatypes. Weights beyond ±65504 are clipped to that, and those that would become
    zero, to the least value that does not, so that nothing divides by zero.

    Raises:
        KeyError: A name is not among `halvable_nodes`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    rewriter = _Rewriter(copy, frozenset(nodes))
    rewriter.rewrite()
    return HalfGraph(copy, frozenset(rewriter.halves.values()), rewriter.clipped)


def rounded_like(halved: HalfGraph) -> onnx.ModelProto:
    """Return a graph that rounds as `halved` does on hardware that computes in half precision, but runs on any.

    Where ONNX Runtime has no half-precision operator, as on most CPUs, it puts casts to single precision around each, and then
    drops those between two of them: nothing but the weights is rounded, and nothing overflows. It keeps casts that are part of
    the graph, so here each operator works in single precision and its result is cast to half and back.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(halved.model)
    taken = value_names(copy.graph)
    single: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        if node.op_type == "Cast":
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            if name in halved.halves:
                if name not in single:
                    single[name] = fresh_name(f"{name} in single", taken)
                    nodes.append(_cast(name, single[name], TensorProto.FLOAT))
                node.input[place] = single[name]
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in halved.halves:
                node.output[place] = fresh_name(f"{name} before rounding", taken)
                nodes.append(_cast(node.output[place], name, TensorProto.FLOAT16))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    del copy.graph.value_info[:]
    return copy


@dataclass(slots=True)
class _Rewriter:
    """Goes through the nodes in order. `halves` maps a float value to its half-precision twin, once there is one."""

    model: onnx.ModelProto
    nodes: frozenset[str]
    clipped: int = 0
    halves: dict[str, str] = field(default_factory=dict)
    _nodes: list[onnx.NodeProto] = field(default_factory=list)

    def rewrite(self) -> None:
        graph = self.model.graph
        types, version = _value_types(self.model), opset(self.model)
        taken = value_names(graph)
        constants = _constants(graph)
        wanted_single = self._wanted_single(types, version)
        for node in list(graph.node):
            if node.name not in self.nodes:
                self._nodes.append(node)
                continue
            places = _halved_inputs(node, types, version)
            if not places:
                raise KeyError(node.name)
            for place in places:
                node.input[place] = self._in_half(node.input[place], constants, taken)
            outputs = _halved_outputs(node, places, types, version)
            self._nodes.append(node)
            for place in outputs:
                name = node.output[place]
                node.output[place] = self.halves[name] = fresh_name(f"{name} in half", taken)
                if name in wanted_single:
                    self._nodes.append(_cast(self.halves[name], name, TensorProto.FLOAT))
        del graph.node[:]
        graph.node.extend(self._nodes)
        _drop_unread(graph)

    def _wanted_single(self, types: Mapping[str, int], version: int) -> set[str]:
        """Return the values that something reads in single precision: a node that stays, a subgraph, or the caller."""
        wanted = {output.name for output in self.model.graph.output}
        for node in self.model.graph.node:
            halved = _halved_inputs(node, types, version) if node.name in self.nodes else []
            wanted.update(name for place, name in enumerate(node.input) if place not in halved)
            wanted.update(captured_values(node))
        return wanted

    def _in_half(self, name: str, constants: dict[str, np.ndarray], taken: set[str]) -> str:
        if name in self.halves:
            return self.halves[name]
        half = self.halves[name] = fresh_name(f"{name} in half", taken)
        if name in constants:
            self.model.graph.initializer.append(numpy_helper.from_array(self._rounded(constants[name]), half))
        else:
            self._nodes.append(_cast(name, half, TensorProto.FLOAT16))
        return half

    def _rounded(self, weights: np.ndarray) -> np.ndarray:
        too_large = np.isfinite(weights) & (np.abs(weights) > LARGEST)
        self.clipped += int(too_large.sum())
        clipped = np.where(too_large, np.copysign(np.float32(LARGEST), weights), weights)
        rounded = clipped.astype(np.float16)
        vanished = (rounded == 0) & (weights != 0)
        return np.where(vanished, np.copysign(np.float16(SMALLEST), rounded), rounded).astype(np.float16)


def _cast(source: str, target: str, datatype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast to {target}", to=datatype)


def _value_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return what each value holds, as far as ONNX can tell: what operators of other domains make, it cannot."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return values | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def _halved_inputs(node: onnx.NodeProto, types: Mapping[str, int], version: int) -> list[int]:
    """Return which inputs of a node become half precision; none if the node cannot work in it, or one might not be a float."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _NEVER or any(True for _ in subgraphs(node)):
        return []
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return []
    allows = {rule.type_param_str: "tensor(float16)" in rule.allowed_type_strs for rule in schema.type_constraints}
    halved = []
    for place, name in enumerate(node.input):
        kind = _kind(schema.inputs, place)
        if not name or kind not in allows:  # left out, or of one type by definition, such as a Resize's scales
            continue
        if name not in types or (types[name] == TensorProto.FLOAT and not allows[kind]):
            return []
        if types[name] == TensorProto.FLOAT:
            halved.append(place)
    return halved


def _halved_outputs(node: onnx.NodeProto, inputs: list[int], types: Mapping[str, int], version: int) -> Iterator[int]:
    schema = onnx.defs.get_schema(node.op_type, version, "")
    kinds = {_kind(schema.inputs, place) for place in inputs}
    for place, name in enumerate(node.output):
        if name and types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT and _kind(schema.outputs, place) in kinds:
            yield place


def _kind(formal: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> str:
    """Return the type, or the name of the type, of an input or output; the last may stand for any number of them."""
    return str(formal[min(place, len(formal) - 1)].type_str)


def _between_dense_layers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    after: set[str] = set()  # values that a dense layer led to
    begun = []
    for node in graph.node:
        if node.op_type in DENSE_OPERATORS or after.intersection(node.input):
            after.update(node.output)
            begun.append(node)
    before: set[str] = set()  # values that lead to a dense layer
    between = []
    for node in reversed(begun):
        if node.op_type in DENSE_OPERATORS or before.intersection(node.output):
            before.update(node.input)
            between.append(node)
    return between[::-1]


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items() if tensor.data_type == TensorProto.FLOAT}


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = readers(graph)
    drop_unread_weights(graph)
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(nodes)
    made = {name for node in nodes for name in node.output}
    described = [value for value in graph.value_info if value.name in made]
    del graph.value_info[:]
    graph.value_info.extend(described)
