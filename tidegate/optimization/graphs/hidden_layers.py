"""Finds the hidden layers of a graph, whose units nothing else reads, and removes units from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tidegate.optimization.graphs.reading import MATRIX_OPERATORS, float_weights
from tidegate.packaging.onnx_graphs import drop_unread_weights, fresh_name, readers, value_names

Floats = NDArray[np.float32]

# They give each unit a value that depends on that unit alone.
_ARITHMETIC = frozenset({"Abs", "Add", "Clip", "Div", "Erf", "Exp", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Sqrt", "Sub"})
_ACTIVATIONS = frozenset(
    {
        *("Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu", "Sigmoid"),
        *("Softplus", "Softsign", "Tanh", "ThresholdedRelu"),
    }
)
_ELEMENTWISE = _ARITHMETIC | _ACTIVATIONS | {"Dropout", "Identity"}


@dataclass(frozen=True, slots=True)
class Place:
    """An input of a node: the node's name, and which of its inputs."""

    node: str
    number: int


@dataclass(frozen=True, slots=True)
class HiddenLayer:
    """A dense layer, what is done to its units one by one, and the one dense layer that reads them.

    Attributes:
        into: Node that computes the units.
        out: Node that reads them, and nothing else does.
        units: The value that `out` reads, [..., width].
        width: How many units there are.
        vectors: Where one constant a unit is read: biases, slopes.
        offset: Where the bias of `out` is read, or None if it has none.
    """

    into: str
    out: str
    units: str
    width: int
    vectors: tuple[Place, ...]
    offset: Place | None


def hidden_layers(model: onnx.ModelProto) -> tuple[HiddenLayer, ...]:
    """Return the hidden layers from which units can be removed, in the graph's order; nodes must have names of their own."""
    graph = model.graph
    reads, weights = readers(graph), float_weights(graph)
    found = (_follow(node, graph, reads, weights) for node in graph.node if _is_plain(node, weights))
    return tuple(layer for layer in found if layer is not None)


def onward_weights(model: onnx.ModelProto, layer: HiddenLayer) -> Floats:
    """Return the weights that lead from a hidden layer onward, [width, outputs]."""
    node = _node(model, layer.out)
    weights = float_weights(model.graph)[node.input[1]]
    return weights.T if _transposed(node) else weights


def keep_units(
    model: onnx.ModelProto, layer: HiddenLayer, kept: NDArray[np.int64], onward: Floats, correction: Floats | None
) -> None:
    """Remove all units of a layer but those `kept`, in place; constants that others read too stay for those.

    Args:
        model: The graph.
        layer: One of its hidden layers.
        kept: Numbers of the units that stay, ascending.
        onward: The weights that then lead onward, [kept, outputs].
        correction: Added to the bias of the layer that reads them, [outputs]; None for a layer without one.
    """
    weights, into, out = float_weights(model.graph), _node(model, layer.into), _node(model, layer.out)
    fresh = {place: np.take(weights[_read(model, place)], kept, axis=-1) for place in layer.vectors}
    fresh[Place(layer.into, 1)] = np.take(weights[into.input[1]], kept, axis=0 if _transposed(into) else 1)
    fresh[Place(layer.out, 1)] = onward.T if _transposed(out) else onward
    if layer.offset is not None and correction is not None:
        fresh[layer.offset] = weights[_read(model, layer.offset)] + correction
    taken = value_names(model.graph)
    for place, array in fresh.items():
        name = fresh_name(f"{_read(model, place)} narrowed", taken)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name))
        _node(model, place.node).input[place.number] = name
    drop_unread_weights(model.graph)
    del model.graph.value_info[:]  # it describes the widths that were


def _follow(
    into: onnx.NodeProto, graph: onnx.GraphProto, reads: Mapping[str, int], weights: dict[str, Floats]
) -> HiddenLayer | None:
    """Follow the units of a dense layer to the one that reads them; None if they leave by another way."""
    width = weights[into.input[1]].shape[0 if _transposed(into) else 1]
    units, vectors = {into.output[0]}, [Place(into.name, number) for number in range(2, len(into.input))]
    seen = 0  # how often a value on the way was read by a node on the way
    for node in graph.node:
        own = [name for name in node.input if name in units]
        if not own:
            continue
        seen += len(own)
        if node.op_type in MATRIX_OPERATORS:
            ends = node.input[0] in units and len(own) == 1 and _is_plain(node, weights)
            if not ends or seen != sum(reads[name] for name in units):
                return None
            offset = _offset(node, graph, reads, weights)
            return HiddenLayer(into.name, node.name, node.input[0], width, tuple(vectors), offset)
        others = [(number, name) for number, name in enumerate(node.input) if name and name not in units]
        constants = [(number, weights[name]) for number, name in others if name in weights]
        if node.op_type not in _ELEMENTWISE or len(constants) < len(others):
            return None
        if any(array.size > 1 and not _is_vector(array, width) for _, array in constants):
            return None
        vectors += [Place(node.name, number) for number, array in constants if array.size > 1]
        units.update(node.output)
    return None


def _is_plain(node: onnx.NodeProto, weights: dict[str, Floats]) -> bool:
    """Return whether a node multiplies by a constant matrix, adds a constant bias at most, and does nothing else."""
    if node.op_type not in MATRIX_OPERATORS or node.input[1] not in weights or weights[node.input[1]].ndim != 2:
        return False
    plain = all(entry.i == 0 if entry.name == "transA" else entry.f == 1 for entry in node.attribute if entry.name != "transB")
    outputs = weights[node.input[1]].shape[0 if _transposed(node) else 1]
    return plain and all(name in weights and _is_vector(weights[name], outputs) for name in node.input[2:])


def _is_vector(array: Floats, width: int) -> bool:
    return array.ndim > 0 and array.size == array.shape[-1] == width


def _offset(node: onnx.NodeProto, graph: onnx.GraphProto, reads: Mapping[str, int], weights: dict[str, Floats]) -> Place | None:
    if len(node.input) > 2:
        return Place(node.name, 2)
    reader = next((other for other in graph.node if node.output[0] in other.input), None)
    if reader is None or reader.op_type != "Add" or reads[node.output[0]] != 1:
        return None
    outputs = weights[node.input[1]].shape[0 if _transposed(node) else 1]
    number = 1 - list(reader.input).index(node.output[0])
    bias = weights.get(reader.input[number])
    return Place(reader.name, number) if bias is not None and _is_vector(bias, outputs) else None


def _read(model: onnx.ModelProto, place: Place) -> str:
    return str(_node(model, place.node).input[place.number])


def _transposed(node: onnx.NodeProto) -> bool:
    return any(entry.name == "transB" and entry.i for entry in node.attribute)


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)
