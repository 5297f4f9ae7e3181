"""Finds the hidden layers of a graph, whose units nothing else reads, and removes units from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tidegate.optimization.graphs.reading import MATRIX_OPERATORS, float_weights, readers

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
class HiddenLayer:
    """A dense layer, what is done to its units one by one, and the one dense layer that reads them.

    Attributes:
        into: Node that computes the units.
        out: Node that reads them, and nothing else does.
        units: The value that `out` reads, [..., width].
        width: How many units there are.
        vectors: Initializers with one value a unit: biases, slopes.
        offset: Initializer with the bias of `out`, or None if it has none that is its own.
    """

    into: str
    out: str
    units: str
    width: int
    vectors: tuple[str, ...]
    offset: str | None


def hidden_layers(model: onnx.ModelProto) -> tuple[HiddenLayer, ...]:
    """Return the hidden layers from which units can be removed, in the graph's order; nodes must have names of their own."""
    graph = model.graph
    reads, weights = readers(graph), float_weights(graph)
    found = (_follow(node, graph, reads, weights) for node in graph.node if _has_own_weights(node, reads, weights))
    return tuple(layer for layer in found if layer is not None)


def onward_weights(model: onnx.ModelProto, layer: HiddenLayer) -> Floats:
    """Return the weights that lead from a hidden layer onward, [width, outputs]."""
    node = _node(model, layer.out)
    weights = float_weights(model.graph)[node.input[1]]
    return weights.T if _transposed(node) else weights


def keep_units(
    model: onnx.ModelProto, layer: HiddenLayer, kept: NDArray[np.int64], onward: Floats, correction: Floats | None
) -> None:
    """Remove all units of a layer but those `kept`, in place.

    Args:
        model: The graph.
        layer: One of its hidden layers.
        kept: Numbers of the units that stay, ascending.
        onward: The weights that then lead onward, [kept, outputs].
        correction: Added to the bias of the layer that reads them, [outputs]; None for a layer without one.
    """
    into, out, weights = _node(model, layer.into), _node(model, layer.out), float_weights(model.graph)
    fresh = {name: np.take(weights[name], kept, axis=-1) for name in layer.vectors}
    fresh[into.input[1]] = np.take(weights[into.input[1]], kept, axis=0 if _transposed(into) else 1)
    fresh[out.input[1]] = onward.T if _transposed(out) else onward
    if layer.offset is not None and correction is not None:
        fresh[layer.offset] = weights[layer.offset] + correction
    for tensor in model.graph.initializer:
        if tensor.name in fresh:
            array = np.ascontiguousarray(fresh[tensor.name], dtype=np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    del model.graph.value_info[:]  # it describes the widths that were


def _follow(
    into: onnx.NodeProto, graph: onnx.GraphProto, reads: Mapping[str, int], weights: dict[str, Floats]
) -> HiddenLayer | None:
    """Follow the units of a dense layer to the one that reads them; None if they leave by another way."""
    width = weights[into.input[1]].shape[0 if _transposed(into) else 1]
    units, vectors = {into.output[0]}, list(into.input[2:])
    seen = 0  # how often a value on the way was read by a node on the way
    for node in graph.node:
        own = [name for name in node.input if name in units]
        if not own:
            continue
        seen += len(own)
        if node.op_type in MATRIX_OPERATORS:
            ends = node.input[0] in units and len(own) == 1 and _has_own_weights(node, reads, weights)
            if not ends or seen != sum(reads[name] for name in units) or not _sliceable(vectors, width, reads, weights):
                return None
            return HiddenLayer(into.name, node.name, node.input[0], width, tuple(vectors), _offset(node, graph, reads, weights))
        others = [name for name in node.input if name and name not in units]
        if node.op_type not in _ELEMENTWISE or any(name not in weights for name in others):
            return None
        vectors += [name for name in others if weights[name].size > 1]
        units.update(node.output)
    return None


def _has_own_weights(node: onnx.NodeProto, reads: Mapping[str, int], weights: dict[str, Floats]) -> bool:
    plain = all(entry.i == 0 if entry.name == "transA" else entry.f == 1 for entry in node.attribute if entry.name != "transB")
    if node.op_type not in MATRIX_OPERATORS or not plain:
        return False
    name = node.input[1]
    return name in weights and weights[name].ndim == 2 and reads[name] == 1


def _sliceable(vectors: Sequence[str], width: int, reads: Mapping[str, int], weights: dict[str, Floats]) -> bool:
    return all(
        name in weights and weights[name].size == weights[name].shape[-1] == width and reads[name] == 1 for name in vectors
    )


def _offset(node: onnx.NodeProto, graph: onnx.GraphProto, reads: Mapping[str, int], weights: dict[str, Floats]) -> str | None:
    outputs = weights[node.input[1]].shape[0 if _transposed(node) else 1]
    candidates = list(node.input[2:])
    if node.op_type == "MatMul" and reads[node.output[0]] == 1:
        reader = next((other for other in graph.node if node.output[0] in other.input), None)
        if reader is not None and reader.op_type == "Add":
            candidates = [name for name in reader.input if name != node.output[0]]
    return next((name for name in candidates if _sliceable([name], outputs, reads, weights)), None)


def _transposed(node: onnx.NodeProto) -> bool:
    return any(entry.name == "transB" and entry.i for entry in node.attribute)


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)
