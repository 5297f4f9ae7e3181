"""What a variant's builder is, and what it returns."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

import onnx

from tidegate.packaging.manifest import Precision, Runtime, Scalar

Target = Literal["cpu", "cuda", "tensorrt"]

_DENSE = frozenset({"MatMul", "Gemm"})


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A variant's graph and how it is to be loaded.

    Attributes:
        graph: The serialized graph; its inputs and outputs are the baseline's.
        runtime: How to load it.
        files: Further files of the package by name, such as `engine.onnx`.
        note: What the builder found out and people should know, in one line; empty if nothing.
    """

    graph: bytes
    runtime: Runtime
    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str = ""


class VariantBuilder(Protocol):
    """Builds one optimized form of a model. Its parameters are dataclass fields with defaults.

    Attributes:
        name: The optimization's name; its settings are variants called `name`, or `name-setting`.
        precision: Of its arithmetic, which decides the tolerances of the parity gate.
        complexity: Of two variants that are equally good the one with the lower number wins; the baseline has 0.
        targets: Where it can run.
    """

    name: ClassVar[str]
    precision: ClassVar[Precision]
    complexity: ClassVar[int]
    targets: ClassVar[frozenset[Target]]

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return the builders that a search tries, by variant name, each with its parameters."""

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The parameters, as recorded in the package."""

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Return why the variant cannot be built from `model` here, or None if it can; must be quick."""

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
