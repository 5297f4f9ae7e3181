"""Quantizes as many of a graph's layers as the answers allow; the INT8 variants share it."""

from collections.abc import Callable, Sequence

import onnx

from tidegate.optimization.graphs.agreement import GoldenSample
from tidegate.optimization.graphs.bisection import Bisection, largest_accepted, named_briefly
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable


def quantize_what_holds(
    model: onnx.ModelProto,
    operators: frozenset[str],
    quantize: Callable[[Sequence[str]], bytes],
    sample: GoldenSample,
    *,
    max_trials: int,
) -> BuiltGraph:
    """Return `model` quantized, without the layers whose quantization alone changes the answers too much.

    Args:
        model: Every node of it has a name of its own.
        operators: Kinds of the layers.
        quantize: Returns the graph with all layers quantized but those named.
        sample: What the answers are held to.
        max_trials: After so many graphs, layers that were not tried stay as they are.

    Raises:
        NotApplicable: Not one layer can be quantized.
    """
    layers = [node.name for node in model.graph.node if node.op_type in operators]
    accepted = b""  # what is accepted later has all that was accepted before

    def answers_hold(chosen: Sequence[str]) -> bool:
        nonlocal accepted
        quantized = quantize([layer for layer in layers if layer not in set(chosen)])
        holds = sample.agrees_with(quantized)
        accepted = quantized if holds else accepted
        return holds

    search: Bisection = largest_accepted(layers, answers_hold, max_trials=max_trials)
    if not search.accepted:
        raise NotApplicable("no layer can be in 8 bits without changing the answers too much")
    kept = named_briefly(search.rejected)
    note = f"{len(search.accepted)} of {len(layers)} layers in 8 bits"
    return BuiltGraph(
        accepted,
        sample.runtime,
        parameters={"single_precision": kept} if kept else {},
        note=f"{note}; in single precision, found in {search.trials} trials: {kept}" if kept else note,
    )
