"""Packing: a graph that reads many single columns is fed a few matrices instead, since each input of a call costs time.

Which columns are packed is decided once, when a model is packaged (`tidegate.packaging.graph_packing`), and recorded in the
manifest. Everything outside the graph keeps the signature's inputs; `pack` turns them into the graph's.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import PackedInput

Array = NDArray[Any]


class Packer:
    """Packs the inputs of one model, call after call."""

    def __init__(self, packing: Sequence[PackedInput], inputs: Collection[str]) -> None:
        """Prepare for a graph with these packed inputs; `inputs` are the names of the signature's."""
        packed = {column for part in packing for column in part.columns}
        self._parts = tuple((part.name, part.columns) for part in packing)
        self._loose = tuple(name for name in inputs if name not in packed)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the graph is fed: packed columns side by side, all others as they are, not copied.

        Raises:
            KeyError: An input of the signature is not given.
        """
        feeds = {name: inputs[name] for name in self._loose}
        for name, columns in self._parts:
            feeds[name] = np.concatenate(list(map(inputs.__getitem__, columns)), axis=1)
        return feeds

    @property
    def graph_inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs."""
        return (*self._loose, *(name for name, _ in self._parts))


def pack(inputs: Mapping[str, Array], packing: Sequence[PackedInput]) -> dict[str, Array]:
    """Return what the graph is fed for the signature's inputs, once; see `Packer`."""
    return Packer(packing, inputs)(inputs)
