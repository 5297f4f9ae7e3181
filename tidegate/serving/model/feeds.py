"""Joins the rows of several requests into what one run of the graph is fed."""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.running.packing import Packer
from tidegate.serving.model.reading import Inputs, block_places, blocks_of
from tidegate.serving.protocol.tensors import Array

Feeds = dict[str, Array]


class Feeder:
    """Makes the feeds of one model's graph from its checked inputs."""

    def __init__(self, manifest: Manifest) -> None:
        """Prepare for a signature and its packing."""
        names = [spec.name for spec in manifest.signature.inputs]
        indexes = {name: index for index, name in enumerate(names)}
        blocks = blocks_of(manifest)
        texts = [spec.name for spec in manifest.signature.inputs if spec.datatype == "BYTES"]
        self._packer = Packer(manifest.packing, names)
        self._block_names = [part.name for part in blocks]
        self._from_rows = tuple(
            (part.name, _picker([indexes[name] for name in part.columns]), NUMPY_TYPES[part.datatype]) for part in blocks
        )
        self._texts_from_rows = tuple((name, itemgetter(indexes[name])) for name in texts)
        self._indexes, self._block_places = indexes, block_places(manifest)

    def feeds(self, requests: Sequence[Inputs]) -> Feeds:
        """Return the graph's inputs for all rows of `requests`, in their order."""
        rows = [inputs.row for inputs in requests if inputs.row is not None]
        if len(rows) == len(requests):
            return self._of_rows(rows)
        if len(requests) == 1:
            return self._of_one(requests[0])
        parts = [self._of_one(inputs) for inputs in requests]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def columns(self, inputs: Inputs) -> dict[str, Array]:
        """Return the model's inputs by name, shape [rows] or the signature's, of a request that is not of one row."""
        columns = dict(inputs.columns or {})
        if inputs.blocks is not None:
            for name, (block, position) in self._block_places.items():
                columns[name] = inputs.blocks[block][position]
        return columns

    def row_as_sent(self, inputs: Inputs) -> list[Any]:
        """Return the values of a request of one row as they were before a policy changed some."""
        row = list(inputs.row or ())
        for name, array in inputs.as_sent.items():
            row[self._indexes[name]] = array.item()
        return row

    def add_features(self, inputs: Inputs, features: Mapping[str, Array]) -> None:
        """Put looked-up features, shape [rows, 1] by name, among a request's inputs."""
        for name, column in features.items():
            if inputs.row is not None:
                inputs.row[self._indexes[name]] = column.item()
            elif inputs.blocks is not None and name in self._block_places:
                block, position = self._block_places[name]
                inputs.blocks[block][position] = column.ravel()
            elif inputs.columns is not None:
                inputs.columns[name] = column

    def _of_rows(self, rows: list[list[Any]]) -> Feeds:
        feeds: Feeds = {name: np.array(list(map(pick, rows)), dtype) for name, pick, dtype in self._from_rows}
        for name, pick in self._texts_from_rows:
            column = np.empty((len(rows), 1), object)
            column[:, 0] = list(map(pick, rows))
            feeds[name] = column
        return feeds

    def _of_one(self, inputs: Inputs) -> Feeds:
        if inputs.row is not None:
            return self._of_rows([inputs.row])
        columns = inputs.columns or {}
        if inputs.blocks is None:
            return self._packer(columns)
        feeds = {name: np.ascontiguousarray(block.T) for name, block in zip(self._block_names, inputs.blocks, strict=True)}
        return feeds | columns


def _picker(indexes: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(indexes) > 1:
        return itemgetter(*indexes)
    index = indexes[0]
    return lambda row: (row[index],)
