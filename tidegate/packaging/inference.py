"""Runs a model package on tables: batch scoring, the gates and monitoring. The server has its own engine."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pyarrow as pa

from tidegate.errors import PackageError
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.manifest import MODEL_NAME, PROBABILITY, Manifest, Runtime
from tidegate.packaging.package import read_manifest

_CHUNK_ROWS = 16_384
_LEVELS = {
    "disabled": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class PackageModel:
    """A model package opened in ONNX Runtime.

    >>> PackageModel(Path("out/package")).predict(table)                                         # doctest: +SKIP
    array([0.12, 0.83], dtype=float32)
    """

    def __init__(self, path: Path) -> None:
        """Open the package at `path`; raises PackageError if it is none or its graph cannot be loaded."""
        self.manifest: Manifest = read_manifest(path)
        self.session = open_session(path / MODEL_NAME, self.manifest.runtime)

    def predict(self, table: pa.Table) -> np.ndarray:
        """Return the probability of class 1 for each row, float32 of shape [rows]; raises DataError as `input_arrays` does."""
        return self.predict_arrays(input_arrays(table, self.manifest.signature.inputs))

    def predict_arrays(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probability of class 1 for inputs of shape [rows] or [rows, 1], as float32 of shape [rows]."""
        parts = [self.session.run([PROBABILITY], feeds)[0] for feeds in _in_chunks(inputs)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def open_session(model: Path | bytes, runtime: Runtime) -> ort.InferenceSession:
    """Open an ONNX graph as `runtime` asks; raises PackageError if ONNX Runtime refuses it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.intra_op_threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[runtime.graph_optimization]
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(
            model if isinstance(model, bytes) else str(model), sess_options=options, providers=list(runtime.providers)
        )
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        where = "the graph" if isinstance(model, bytes) else str(model)
        raise PackageError(f"{where}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from error


def _in_chunks(inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    rows = len(next(iter(inputs.values()), ()))
    for start in range(0, rows, _CHUNK_ROWS):
        yield {name: array[start : start + _CHUNK_ROWS].reshape(-1, 1) for name, array in inputs.items()}
