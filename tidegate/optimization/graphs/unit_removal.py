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

_RIDGE = 1e-4  # share of the units' mean energy


@dataclass(frozen=True, slots=True)
class Narrowed:
    """A graph without `removed` of the `units` that its hidden layers had."""

    model: onnx.ModelProto
    layers: int
    units: int
    removed: int


def without_weakest_units(model: onnx.ModelProto, share: float, batches: Sequence[Mapping[str, NDArray[Any]]]) -> Narrowed:
    """Return a copy of `model` without the share of each hidden layer's units that matter least on the rows of `batches`.

    A unit matters as much as it varies, times the length of its outgoing weights: what is constant is as good in the next bias.
    The outgoing weights of those that stay, and that bias, are then fitted by least squares to what all units together passed
    on in the source model, so that errors of an earlier layer are made good by the next; a little ridge pulls them towards what
    they were. At least one unit stays in every layer.

    Source: He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017 (selection, then
    reconstruction by least squares), with units chosen by their share of the output's variance instead of the lasso.
    """
    narrowed = onnx.ModelProto()
    narrowed.CopyFrom(model)
    layers = hidden_layers(model)
    removed = 0
    for layer in layers:
        wanted = activations(model, layer.units, batches) @ onward_weights(model, layer)
        found = activations(narrowed, layer.units, batches)
        importance = found.std(axis=0) * np.linalg.norm(onward_weights(model, layer), axis=1)
        count = layer.width - min(layer.width - 1, int(share * layer.width))
        kept = np.sort(np.argsort(-importance, kind="stable")[:count])
        _narrow(narrowed, layer, kept, found[:, kept], wanted)
        removed += layer.width - count
    return Narrowed(narrowed, layers=len(layers), units=sum(layer.width for layer in layers), removed=removed)


def _narrow(model: onnx.ModelProto, layer: HiddenLayer, kept: NDArray[np.int64], found: Floats, wanted: Floats) -> None:
    before = onward_weights(model, layer)[kept].astype(np.float64)
    if layer.offset is None:
        keep_units(model, layer, kept.tolist(), _fitted(found, wanted, before).astype(np.float32), None)
        return
    means, target = found.mean(axis=0), wanted.mean(axis=0)
    onward = _fitted(found - means, wanted - target, before)
    keep_units(model, layer, kept.tolist(), onward.astype(np.float32), (target - means @ onward).astype(np.float32))


def _fitted(units: Floats, wanted: Floats, before: Floats) -> Floats:
    """Return weights W that bring `units` @ W close to `wanted`, pulled towards `before` where the rows leave them open."""
    energy = units.T @ units
    ridge = _RIDGE * max(float(np.trace(energy)) / len(energy), float(np.finfo(np.float32).tiny))
    return before + np.linalg.solve(energy + ridge * np.eye(len(energy)), units.T @ (wanted - units @ before))
