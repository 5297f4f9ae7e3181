"""The ONNX Runtime session behind a model, and the replay of its golden sample."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tidegate.errors import PackageError
from tidegate.packaging.golden import read_golden
from tidegate.packaging.manifest import GOLDEN_NAME, MODEL_NAME, Manifest
from tidegate.serving.tensors import Array

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4

_OPTIMIZATION = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Engine:
    """Runs the graph of one model package."""

    def __init__(self, package: Path, manifest: Manifest) -> None:
        """Load `model.onnx` as the manifest's runtime says; raises PackageError if ONNX Runtime refuses it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = manifest.runtime.intra_op_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = _OPTIMIZATION[manifest.runtime.graph_optimization]
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        absent = [name for name in manifest.runtime.providers if name not in ort.get_available_providers()]
        if absent:
            available = ", ".join(ort.get_available_providers())
            raise PackageError(f"package {package}: ONNX Runtime here has no {', '.join(absent)}; it has {available}")
        try:
            self._session = ort.InferenceSession(str(package / MODEL_NAME), options, providers=list(manifest.runtime.providers))
        except Exception as error:
            raise PackageError(f"package {package}: ONNX Runtime cannot load {MODEL_NAME}: {error}") from error
        self._check_graph(package, manifest)
        self._outputs = [output.name for output in manifest.signature.outputs]

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs for `tensors`, by name; raises whatever ONNX Runtime raises."""
        return dict(zip(self._outputs, self._session.run(self._outputs, tensors), strict=True))

    def replay_golden(self, package: Path) -> float:
        """Run the golden sample and return the largest absolute difference from its expected outputs.

        Raises:
            PackageError: The sample is malformed, or an output differs by more than the tolerances.
        """
        golden = read_golden(package / GOLDEN_NAME)
        try:
            outputs = self.run(golden.inputs)
        except Exception as error:
            raise PackageError(f"package {package}: the golden sample cannot be run: {error}") from error
        largest = 0.0
        for name, values in golden.outputs.items():
            if name not in outputs:
                raise PackageError(f"package {package}: {GOLDEN_NAME} expects output {name!r}, which the signature lacks")
            largest = max(largest, _largest_difference(outputs[name], values, f"package {package}: output {name!r}"))
        return largest

    def _check_graph(self, package: Path, manifest: Manifest) -> None:
        graph_inputs = {node.name for node in self._session.get_inputs()}
        signed_inputs = {spec.name for spec in manifest.signature.inputs}
        if graph_inputs != signed_inputs:
            differing = ", ".join(sorted(graph_inputs ^ signed_inputs))
            raise PackageError(f"package {package}: graph and signature differ in these inputs: {differing}")
        graph_outputs = {node.name for node in self._session.get_outputs()}
        unknown = [spec.name for spec in manifest.signature.outputs if spec.name not in graph_outputs]
        if unknown:
            raise PackageError(f"package {package}: the graph lacks these outputs of the signature: {', '.join(unknown)}")


def _largest_difference(found: Array, expected: Array, what: str) -> float:
    if found.shape != expected.shape:
        raise PackageError(f"{what} of the golden sample has shape {list(found.shape)}, expected {list(expected.shape)}")
    if not np.issubdtype(expected.dtype, np.number):
        if not np.array_equal(found.astype(str), expected.astype(str)):
            raise PackageError(f"{what} of the golden sample differs from what was recorded")
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    largest = float(np.nanmax(difference, initial=0.0))
    if not np.allclose(found, expected, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True):
        raise PackageError(
            f"{what} of the golden sample differs by {largest:.3g} from what was recorded "
            f"(tolerance {ABSOLUTE_TOLERANCE:g} + {RELATIVE_TOLERANCE:g} of the value); repackage it for this machine"
        )
    return largest
