"""Magnitude pruning: the smallest weights of each dense layer become zero."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from tidegate.optimization.graphs.reading import CONVOLUTIONS, MATRIX_OPERATORS, float_weights

_PRUNED = MATRIX_OPERATORS | CONVOLUTIONS
_WEIGHTS = 1  # place of the weights among the inputs


@dataclass(frozen=True, slots=True)
class Pruning:
    """A graph whose layers hold `zeros` zeros among their `weights` weights."""

    model: onnx.ModelProto
    layers: int
    weights: int
    zeros: int

    @property
    def sparsity(self) -> float:
        """Share of the weights that are zero."""
        return self.zeros / self.weights if self.weights else 0.0


def without_smallest_weights(model: onnx.ModelProto, share: float) -> Pruning:
    """Return a copy of `model` in which the share of each layer's weights with the least magnitude is zero.

    Each layer loses the same share, rounded down to whole weights, so that none is emptied because its scale is small; weights
    that were zero before count. Of equal magnitudes the first go. Biases stay.

    Source: Han, Pool, Tran and Dally, "Learning both weights and connections for efficient neural networks", NeurIPS 2015.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = float_weights(copy.graph)
    layers = {node.input[_WEIGHTS] for node in copy.graph.node if node.op_type in _PRUNED and len(node.input) > _WEIGHTS}
    pruned = {name: _pruned(array, share) for name, array in weights.items() if name in layers and array.ndim > 1}
    for tensor in copy.graph.initializer:
        if tensor.name in pruned:
            tensor.CopyFrom(numpy_helper.from_array(pruned[tensor.name], tensor.name))
    return Pruning(
        copy,
        layers=len(pruned),
        weights=sum(array.size for array in pruned.values()),
        zeros=sum(int((array == 0).sum()) for array in pruned.values()),
    )


def _pruned(array: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    flat = array.flatten()
    flat[np.argsort(np.abs(flat), kind="stable")[: int(share * flat.size)]] = 0
    return flat.reshape(array.shape)
