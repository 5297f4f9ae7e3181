"""Runs a model package on tables: batch scoring, the gates and monitoring. The server has its own engine."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidegate.packaging.format.manifest import SCORE_OUTPUTS, Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.running.session import Array, GraphSession

_CHUNK_ROWS = 16_384
_CHUNK_TENSORS = 256  # a deep model's activations can be a thousand times its inputs


class PackageModel:
    """A model package opened in ONNX Runtime.

    >>> PackageModel(Path("out/package")).predict(table)                                         # doctest: +SKIP
    array([0.12, 0.83], dtype=float32)
    """

    def __init__(self, path: Path, *, spinning: bool = True) -> None:
        """Open the package at `path`; raises PackageError if it is none or its graph cannot be loaded."""
        self.manifest: Manifest = read_manifest(path)
        self.graph = GraphSession.of_package(path, self.manifest, spinning=spinning)

    def predict(self, table: pa.Table) -> np.ndarray:
        """Return the task's score for each row: of a binary classifier the probability of class 1, float32 of shape [rows].

        Raises:
            DataError: As `input_arrays` does.
            KeyError: The model's task has no score.
        """
        return self.outputs(table)[SCORE_OUTPUTS[self.manifest.task]]

    def outputs(self, table: pa.Table) -> dict[str, Array]:
        """Return every output for each row of a table, by name; raises DataError as `input_arrays` does."""
        return self.outputs_of(input_arrays(table, self.manifest.signature.inputs))

    def outputs_of(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Return every output for inputs in the signature's shapes, by name; an empty dict without rows."""
        return run_in_chunks(self.graph, inputs)


def run_in_chunks(graph: GraphSession, inputs: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Return a graph's outputs for any number of rows, which are not all in memory at once; an empty dict without rows."""
    parts = [graph.run(chunk) for chunk in _in_chunks(inputs)]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}


def _in_chunks(inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    rows = len(next(iter(inputs.values()), ()))
    size = _CHUNK_ROWS if all(array.size == rows for array in inputs.values()) else _CHUNK_TENSORS
    for start in range(0, rows, size):
        yield {name: array[start : start + size] for name, array in inputs.items()}
