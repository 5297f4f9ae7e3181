"""Lets ONNX Runtime optimize a graph offline, and returns what it made of it."""

import tempfile
from pathlib import Path
from typing import Literal

import msgspec
import onnx
import onnxruntime as ort

from tidegate.optimization.graphs.reading import CONVOLUTIONS
from tidegate.packaging.format.manifest import MODEL_NAME, Runtime
from tidegate.packaging.onnx_graphs import every_node
from tidegate.packaging.running.session import OPTIMIZATION_LEVELS

Level = Literal["basic", "extended"]


def optimized(model: Path | bytes, runtime: Runtime, level: Level) -> bytes:
    """Return a graph as ONNX Runtime optimizes it up to `level` for the runtime's providers; raises what it raises.

    Level `basic` folds constants and drops idle nodes, in standard operators; `extended` also fuses neighbours into operators
    that only ONNX Runtime knows.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / MODEL_NAME
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = OPTIMIZATION_LEVELS[level]
        options.optimized_model_filepath = str(saved)
        options.intra_op_num_threads = 1
        ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=list(runtime.providers))
        return saved.read_bytes()


def runtime_of_optimized(graph: bytes, runtime: Runtime) -> Runtime:
    """Return how to load what `optimized` made: as it is, unless there are convolutions.

    Their layout in memory is that of the very CPU it was worked out on, and so left to the start.
    """
    operators = {node.op_type for node in every_node(onnx.load_from_string(graph).graph)}
    left = "all" if operators & (CONVOLUTIONS | {"FusedConv"}) else "disabled"
    return msgspec.structs.replace(runtime, graph_optimization=left)
