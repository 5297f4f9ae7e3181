"""Whether a graph under construction would pass the parity gate: what builders steer by before the gate itself judges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from tidegate.errors import PackageError
from tidegate.optimization.gates.parity import Replay, judge_parity, measure_parity
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, Manifest, Runtime
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.inference import run_in_chunks
from tidegate.packaging.running.session import GraphSession
from tidegate.project import ParityGate, Tolerance


class Tolerances(Protocol):
    """What a builder that steers by the golden sample declares among its parameters, as `tidegate.project.Tolerance` has it."""

    @property
    def max_absolute(self) -> float: ...  # noqa: D102

    @property
    def max_relative(self) -> float: ...  # noqa: D102

    @property
    def max_flip_rate(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """The golden sample of a baseline package, and how far a graph that is loaded by `runtime` may answer from it."""

    manifest: Manifest
    golden: Golden
    runtime: Runtime
    tolerance: Tolerance

    @classmethod
    def of_package(cls, package: Path, runtime: Runtime, tolerances: Tolerances) -> "GoldenSample":
        """Read the golden sample of the package at `package`; raises PackageError if there is none."""
        tolerance = Tolerance(
            max_absolute=tolerances.max_absolute,
            max_relative=tolerances.max_relative,
            max_flip_rate=tolerances.max_flip_rate,
        )
        return cls(read_manifest(package), read_golden(package / GOLDEN_NAME), runtime, tolerance)

    def agrees_with(self, graph: bytes) -> bool:
        """Return whether a graph's answers to the sample, in one batch, are within the tolerance as the parity gate has it.

        A graph that ONNX Runtime cannot load does not agree.
        """
        try:
            session = GraphSession.of_graph(graph, self.runtime, self.manifest)
        except PackageError:
            return False
        rows = self.golden.rows
        replay = Replay(np.arange(rows), np.full(rows, rows), run_in_chunks(session, self.golden.inputs))
        gate = ParityGate(full=self.tolerance)
        task, threshold = self.manifest.task, self.manifest.threshold
        parity = measure_parity(self.golden, replay, gate, "full", task=task, threshold=threshold)
        return all(verdict.passed for verdict in judge_parity("", parity, gate, "full", rows))
