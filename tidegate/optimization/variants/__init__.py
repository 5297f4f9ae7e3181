"""The optimizations: one class a file, found by name."""

import importlib

from tidegate.errors import OptimizationError
from tidegate.optimization.variants.builder import VariantBuilder

# Simplest first: of two variants that are equally fast, the one named earlier wins.
_CLASSES = {
    "graph-optimized": "tidegate.optimization.variants.graph_optimized:GraphOptimized",
    "fp16": "tidegate.optimization.variants.fp16:Fp16",
    "int8-dynamic": "tidegate.optimization.variants.int8_dynamic:Int8Dynamic",
    "int8-static": "tidegate.optimization.variants.int8_static:Int8Static",
}
VARIANT_NAMES = tuple(_CLASSES)


def variant_builder(name: str) -> VariantBuilder:
    """Return the builder of the variant called `name`, with its default parameters; raises OptimizationError."""
    if name not in _CLASSES:
        raise OptimizationError(f"variant {name!r} is unknown; allowed: {', '.join(VARIANT_NAMES)}")
    module, _, class_name = _CLASSES[name].partition(":")
    builder: VariantBuilder = getattr(importlib.import_module(module), class_name)()
    return builder


def simplicity(name: str) -> int:
    """Return the variant's place in the order from simple to involved; the baseline, which changes nothing, is 0."""
    return VARIANT_NAMES.index(name) + 1 if name in _CLASSES else 0
