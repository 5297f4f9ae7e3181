"""Whether a graph under construction still answers like the source model: what builders steer by before the gates judge."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import PackageError
from tidegate.optimization.output_size import output_size
from tidegate.packaging.golden import Golden, read_golden
from tidegate.packaging.manifest import GOLDEN_NAME, Manifest, Runtime
from tidegate.packaging.package import read_manifest
from tidegate.packaging.session import GraphSession

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """The golden sample of a baseline package, and how far a graph that is loaded by `runtime` may answer from it."""

    manifest: Manifest
    golden: Golden
    runtime: Runtime
    max_absolute: float
    max_relative: float

    @classmethod
    def of_package(cls, package: Path, runtime: Runtime, *, max_absolute: float, max_relative: float) -> "GoldenSample":
        """Read the golden sample of the package at `package`; raises PackageError if there is none."""
        return cls(read_manifest(package), read_golden(package / GOLDEN_NAME), runtime, max_absolute, max_relative)

    def agrees_with(self, graph: bytes) -> bool:
        """Return whether a graph gives the golden outputs within the tolerance; not if ONNX Runtime cannot load it."""
        try:
            found = GraphSession.of_graph(graph, self.runtime, self.manifest).run(self.golden.inputs)
        except PackageError:
            return False
        expected, found = self._by_size(self.golden.outputs), self._by_size(found)
        return agree(expected, found, max_absolute=self.max_absolute, max_relative=self.max_relative)

    def _by_size(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs as shares of their sizes, in which the parity gate counts absolute errors."""
        return {
            name: outputs[name] / output_size(name, array, self.manifest.task) if array.dtype.kind == "f" else outputs[name]
            for name, array in self.golden.outputs.items()
        }


def agree(expected: Mapping[str, Array], found: Mapping[str, Array], *, max_absolute: float, max_relative: float) -> bool:
    """Return whether every output lies within the tolerance; integers and text must be equal, NaN only where expected.

    A float agrees if |found - expected| <= max_absolute + max_relative · |expected|, as the parity gate has it.
    """
    return all(
        _agrees(np.asarray(array), np.asarray(found[name]), max_absolute, max_relative) for name, array in expected.items()
    )


def _agrees(expected: Array, found: Array, max_absolute: float, max_relative: float) -> bool:
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind != "f":
        return bool((expected == found).all())
    return bool(np.allclose(found.astype(np.float64), expected, rtol=max_relative, atol=max_absolute, equal_nan=True))
