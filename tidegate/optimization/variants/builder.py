"""What a variant's builder is, and what it returns."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import onnx

from tidegate.packaging.manifest import Runtime, Scalar

_DENSE = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A variant's graph and how it is to be loaded."""

    graph: bytes
    runtime: Runtime


class VariantBuilder(Protocol):
    """Builds one optimized form of a model. Its parameters are dataclass fields with defaults."""

    name: ClassVar[str]
    reduced_precision: ClassVar[bool]

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The parameters, as recorded in the package."""

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Return why the variant cannot be built from `model`, or None if it can."""

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Return the variant of the baseline package at `package`, which is loaded by `runtime`."""


def without_dense_layers(model: onnx.ModelProto) -> str | None:
    """Return why a variant of dense layers does not apply: the model has none; None if it has."""
    operators = {node.op_type for node in model.graph.node}
    if operators & _DENSE:
        return None
    trees = sorted(operator for operator in operators if operator.startswith("TreeEnsemble"))
    kind = f"a tree ensemble ({trees[0]})" if trees else "a model without dense layers"
    return f"no MatMul or Gemm to reduce: it is {kind}"


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep the quantizers' advice (to preprocess graphs that need none) off the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
