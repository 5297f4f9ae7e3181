"""What a variant's builder is, and what it returns."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast

import onnx

from tidegate.errors import OptimizationError
from tidegate.packaging.format.manifest import Precision, Runtime, Scalar

Target = Literal["cpu", "cuda", "tensorrt"]


class NotApplicable(OptimizationError):
    """Building found that there is nothing to gain or to change; the message is the reason that is listed."""


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """A variant's graph and how it is to be loaded.

    Attributes:
        graph: The serialized graph; its inputs and outputs are the baseline's.
        runtime: How to load it.
        files: Further files of the package by name, such as `engine.onnx`.
        parameters: What building chose, beside the builder's own parameters.
        note: What the builder found out and people should know, in one line; empty if nothing.
    """

    graph: bytes
    runtime: Runtime
    files: Mapping[str, bytes] = field(default_factory=dict)
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    note: str = ""


class VariantBuilder(Protocol):
    """Builds one optimized form of a model. Its parameters are dataclass fields with defaults.

    Attributes:
        name: The optimization's name; its settings are variants called `name`, or `name-setting`.
        precision: What it gives up of the model's exactness, which decides the tolerances of the parity gate.
        complexity: Of two variants that are equally good the one with the lower number wins; the baseline has 0.
        targets: Where it can run.
        tools: Distributions that build it beside ONNX Runtime, for the bill of materials.
    """

    name: ClassVar[str]
    precision: ClassVar[Precision]
    complexity: ClassVar[int]
    targets: ClassVar[frozenset[Target]]
    tools: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return the builders that a search tries, by variant name, each with its parameters, simplest first."""
        return {cls.name: cls()}

    @property
    def parameters(self) -> dict[str, Scalar]:
        """The parameters, as recorded in the package."""
        return asdict(cast(Any, self))

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Return why the variant cannot be built from `model` here, or None if it can; must be quick."""

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Return the variant of the baseline package at `package`, which is loaded by `runtime`.

        Raises:
            NotApplicable: As `applies`, where only building can tell.
        """


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep the quantizers' advice (to preprocess graphs that need none) off the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
