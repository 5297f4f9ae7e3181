"""What every source model can do, whatever framework it comes from."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import SourceFacts, Task, TensorSpec

Array = NDArray[Any]


class Source(Protocol):
    """A trained model, in its own framework. It is read and run, never changed.

    Attributes:
        facts: The framework, its version, and what kind of model it is.
        task: What its outputs mean, if the model says so (a classifier, a regressor); "tensors" if only its user knows.
        classes: The classes' names as the model knows them, in the order of its scores; empty if it knows none.
        columns: The inputs it reads, in its order; empty if it takes whatever the sample holds.
    """

    @property
    def facts(self) -> SourceFacts: ...  # noqa: D102

    @property
    def task(self) -> Task: ...  # noqa: D102

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def columns(self) -> tuple[str, ...]: ...  # noqa: D102

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as the model takes them, given what the sample held.

        Names, ranges and categories stay; the datatype becomes the model's own, and an axis of varying length becomes -1.

        Raises:
            PackageError: The model reads an input that is not among them, or cannot take one as it is.
        """

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the framework's own answer for inputs in their signature's shapes, by output name.

        The outputs have the standard names and shapes of the task (`format.manifest`), but for task "tensors".

        Raises:
            PackageError: The model refuses the rows.
        """

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the model as an ONNX graph of exactly these inputs, whose outputs are those of `predict`.

        Args:
            inputs: What `accept` returned.
            example: The golden sample's inputs, at most a few hundred rows: to trace with, and to compare graphs by.

        Raises:
            PackageError: The framework's converter cannot convert it; the message says which part.
        """
