"""The graph as every peer runs it: ONNX Runtime with one thread, a request's columns joined once; needs no Tidegate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, np.dtype[Any]]


class Graph:
    """One graph of one input, and its one output that is asked for."""

    def __init__(self, path: str, output: str) -> None:
        """Load it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path, options)
        self._input = self._session.get_inputs()[0].name
        self._output = [output]

    def run(self, tensors: Sequence[Array]) -> Array:
        """Return the output of a request's tensors: one, or columns [rows, 1] in the graph's order."""
        joined = tensors[0] if len(tensors) == 1 else np.concatenate(tensors, axis=1)
        answer: Array = self._session.run(self._output, {self._input: joined})[0]
        return answer
