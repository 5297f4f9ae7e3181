"""The graph behind a model, and the replay of its golden sample."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, Manifest
from tidegate.packaging.running.session import GraphSession
from tidegate.serving.model.independence import why_rows_depend
from tidegate.serving.model.speed import Speed, measure, measure_whole
from tidegate.serving.protocol.tensors import Array

RELATIVE_TOLERANCE = 1e-3
BFLOAT16_EPSILON = 2.0**-7  # NumPy's arrays of such values are of 32 bits, and know nothing of it
ABSOLUTE_TOLERANCE = 1e-4  # times the largest output where that is above 1


class Engine:
    """Runs the graph of one model package; it is to be asked for answers after its golden sample was replayed.

    Attributes:
        warning: What this machine lacks for the package's runtime, so that it runs slower; None if nothing.
        is_fallback: Whether it runs on the CPU for want of the accelerator that the package asks for.
        dependence: What shows that rows of one run depend on each other; None if nothing does.
        speed: How long runs take here.
    """

    def __init__(
        self, package: Path, manifest: Manifest, *, allow_cpu_fallback: bool = False, gpu_memory_bytes: int = 0
    ) -> None:
        """Load the graph as the manifest's runtime says.

        Args:
            package: The package's directory.
            manifest: Its manifest.
            allow_cpu_fallback: Whether the CPU may stand in for an accelerator that is not here.
            gpu_memory_bytes: Most memory of a GPU for tensors; 0 is no limit.

        Raises:
            PackageError: ONNX Runtime refuses the graph, or the accelerator is not here and nothing may stand in.
        """
        graph = GraphSession.of_package(
            package,
            manifest,
            spinning=False,
            cpu_fallback="allowed" if allow_cpu_fallback else "refused",
            gpu_memory_bytes=gpu_memory_bytes,
        )
        self.run = graph.run
        self.run_feeds = graph.run_feeds
        self.warning = graph.warning
        self.is_fallback = graph.is_fallback
        self._bfloat16 = {spec.name for spec in manifest.signature.outputs if spec.datatype == "BF16"}
        self.dependence: str | None = None
        self.speed = Speed(row_seconds=0.0, batch_seconds=0.0, batch_rows=1)

    @property
    def batchable(self) -> bool:
        """Whether rows of several requests may share a run."""
        return self.dependence is None

    def replay_golden(self, package: Path) -> float:
        """Run the golden sample, whole and by rows, and return the largest absolute difference from its expected outputs.

        Raises:
            PackageError: The sample is malformed, or an output of the whole differs by more than the tolerances.
        """
        golden = read_golden(package / GOLDEN_NAME)
        largest = self._replay(golden, package)
        self.dependence = why_rows_depend(self.run, golden, self._tolerances)
        self.speed = measure(self.run, golden) if self.batchable else measure_whole(self.run, golden)
        return largest

    def _replay(self, golden: Golden, package: Path) -> float:
        try:
            outputs: Mapping[str, Array] = self.run(golden.inputs)
        except Exception as error:
            raise PackageError(f"package {package}: the golden sample cannot be run: {in_one_line(error)}") from error
        largest = 0.0
        for name, values in golden.outputs.items():
            if name not in outputs:
                raise PackageError(f"package {package}: {GOLDEN_NAME} expects output {name!r}, which the signature lacks")
            what = f"package {package}: output {name!r}"
            largest = max(largest, _largest_difference(outputs[name], values, self._tolerances(name, values), what))
        for name, values in outputs.items():
            if values.shape[:1] != (golden.rows,):
                raise PackageError(
                    f"package {package}: output {name!r} has shape {list(values.shape)} for {golden.rows} rows; "
                    "its first axis must be the rows'"
                )
        return largest

    def _tolerances(self, name: str, expected: Array) -> tuple[float, float]:
        return tolerances(expected, BFLOAT16_EPSILON if name in self._bfloat16 else 0.0)


def tolerances(expected: Array, epsilon: float = 0.0) -> tuple[float, float]:
    """Return by how much an output may differ from what was recorded elsewhere: relatively, and absolutely.

    Args:
        expected: What was recorded.
        epsilon: The relative distance of its neighbours, where that is more than its dtype tells.
    """
    if expected.dtype.kind != "f":
        return 0.0, 0.0
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    relative = max(RELATIVE_TOLERANCE, 4 * max(epsilon, float(np.finfo(expected.dtype).eps)))
    return relative, ABSOLUTE_TOLERANCE * max(1.0, float(finite.max(initial=0.0)))


def _largest_difference(found: Array, expected: Array, tolerance: tuple[float, float], what: str) -> float:
    if found.shape != expected.shape:
        raise PackageError(f"{what} of the golden sample has shape {list(found.shape)}, expected {list(expected.shape)}")
    if not np.issubdtype(expected.dtype, np.floating):
        if not np.array_equal(found, expected):
            raise PackageError(f"{what} of the golden sample differs from what was recorded")
        return 0.0
    relative, absolute = tolerance
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    same = np.isclose(found, expected, rtol=relative, atol=absolute, equal_nan=True)
    apart = np.zeros_like(expected)
    np.subtract(found, expected, out=apart, where=found != expected)  # infinities of one sign are equal
    largest = float(np.nanmax(np.abs(apart), initial=0.0))
    if not same.all():
        raise PackageError(
            f"{what} of the golden sample differs by {largest:.3g} from what was recorded "
            f"(tolerance {absolute:g} + {relative:g} of the value); repackage it for this machine"
        )
    return largest
