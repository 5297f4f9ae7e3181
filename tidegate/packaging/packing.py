"""Packing: a graph that reads many single columns is fed a few matrices instead, since each input of a call costs time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.packaging.manifest import PackedInput

Array = NDArray[Any]


def pack(inputs: Mapping[str, Array], packing: Sequence[PackedInput]) -> dict[str, Array]:
    """Return what the graph is fed for the signature's inputs: packed columns side by side, all others as they are."""
    packed = {column for part in packing for column in part.columns}
    feeds = {name: array for name, array in inputs.items() if name not in packed}
    for part in packing:
        feeds[part.name] = np.concatenate([inputs[column] for column in part.columns], axis=1)
    return feeds
