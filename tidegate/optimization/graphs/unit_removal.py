"""Structured pruning: whole hidden units are removed, and the layer that read them is fitted to do without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.optimization.graphs.calibration import activations
from tidegate.optimization.graphs.hidden_layers import HiddenLayer, hidden_layers, keep_units, onward_weights

Floats = NDArray[np.float64]
Batches = Sequence[Mapping[str, NDArray[Any]]]

_RIDGE = 1e-4  # share of the units' mean energy
_ELIMINATIONS = 256  # at most in a layer; wider layers lose several units at once, since each costs a pass over its matrix


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A graph without `removed` of the `units` that its hidden layers had."""

    model: onnx.ModelProto
    layers: int
    units: int
    removed: int


def without_weakest_units(model: onnx.ModelProto, share: float, batches: Batches) -> Narrowed:
    """Return a copy of `model` without the share of each hidden layer's units that matter least on the rows of `batches`.

    Unit after unit goes whose loss changes least what the layer passes on, once the outgoing weights of all others are fitted
    by least squares to make up for it, and the next bias too. That loss has a closed form, |weights|² / (inverse Hessian of the
    unit), and so has the fit: a unit that others can stand in for goes before a small one that they cannot. What is fitted to
    is what the source model passes on, so the next layer makes good the errors of the one before. A little ridge pulls the
    weights to what they were. At least one unit stays in every layer.

    Source: Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon", NeurIPS 1992; by layer and
    on calibration rows as in Frantar and Alistarh, "Optimal brain compression", NeurIPS 2022; here for whole units.
    """
    narrowed = onnx.ModelProto()
    narrowed.CopyFrom(model)
    layers = hidden_layers(model)
    removed = 0
    for layer in layers:
        staying = layer.width - min(layer.width - 1, int(share * layer.width))
        wanted = activations(model, layer.units, batches) @ onward_weights(model, layer)
        _narrow(narrowed, layer, staying, activations(narrowed, layer.units, batches), wanted)
        removed += layer.width - staying
    return Narrowed(narrowed, layers=len(layers), units=sum(layer.width for layer in layers), removed=removed)


def _narrow(model: onnx.ModelProto, layer: HiddenLayer, staying: int, units: Floats, wanted: Floats) -> None:
    means, target = units.mean(axis=0), wanted.mean(axis=0)
    if layer.offset is None:  # there is no bias to take a mean up
        means, target = np.zeros_like(means), np.zeros_like(target)
    kept, onward = _eliminated(units - means, wanted - target, onward_weights(model, layer).astype(np.float64), staying)
    correction = (target - means[kept] @ onward).astype(np.float32) if layer.offset is not None else None
    keep_units(model, layer, kept, onward.astype(np.float32), correction)


def _eliminated(units: Floats, wanted: Floats, before: Floats, staying: int) -> tuple[NDArray[np.int64], Floats]:
    """Return which units stay, and the weights that bring them close to `wanted`, pulled to `before`."""
    energy = units.T @ units
    ridge = _RIDGE * max(float(np.trace(energy)) / len(energy), float(np.finfo(np.float32).tiny))
    inverse = np.linalg.inv(energy + ridge * np.eye(len(energy)))
    weights = before + inverse @ (units.T @ (wanted - units @ before))
    at_once = -(-len(energy) // _ELIMINATIONS)
    kept = np.arange(len(energy))
    while len(kept) > staying:
        losses = (weights**2).sum(axis=1) / np.diag(inverse)
        gone = np.argsort(losses, kind="stable")[: min(at_once, len(kept) - staying)]
        made_up = inverse[:, gone] @ np.linalg.inv(inverse[np.ix_(gone, gone)])
        rest = np.delete(np.arange(len(kept)), gone)
        weights = (weights - made_up @ weights[gone])[rest]
        inverse = (inverse - made_up @ inverse[gone])[np.ix_(rest, rest)]
        kept = kept[rest]
    return kept, weights
