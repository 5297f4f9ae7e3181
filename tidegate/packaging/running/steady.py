"""Runs sessions that only take some batch sizes: CUDA graphs, which were captured for fixed ones, and TensorRT's profiles.

A captured CUDA graph replays the same kernels on the same addresses. So each batch size has input and output buffers of its
own on the GPU (IO binding) and a graph of its own (`gpu_graph_id`); a batch is filled up to the next of these sizes, and a
larger one is run in parts. ONNX Runtime checks none of that: a graph replayed with another shape gives wrong answers silently.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.running.gpu import CUDA, TENSORRT

Array = NDArray[Any]
Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]

GRAPH_BATCHES = (1, 2, 4, 8, 16, 32, 64)
PROFILE_OPTION = "trt_profile_max_shapes"
_WITHOUT_CAPTURE = "-1"  # of ONNX Runtime's `gpu_graph_id`


def steady_run(session: ort.InferenceSession, runtime: Runtime) -> Run:
    """Return how to run a session: its own `run`, unless its runtime asks for CUDA graphs, has a largest batch or a limit."""
    chosen = runtime.provider_options.get(CUDA, {}) if CUDA in runtime.providers else {}
    if chosen.get("enable_cuda_graph") == "1":
        return CapturedRuns(session, "cuda").run
    run: Run = _giving_back(session, f"gpu:{chosen.get('device_id', 0)}") if "gpu_mem_limit" in chosen else session.run
    largest = _largest_batch(runtime)
    return run if largest is None else _in_parts(run, largest)


def _giving_back(session: ort.InferenceSession, device: str) -> Run:
    """Return how to run a session whose memory is limited: what an exceptionally large batch needed is given back after it."""
    shrinking = ort.RunOptions()
    shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", device)

    def run(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        is_large = len(next(iter(feeds.values()))) > GRAPH_BATCHES[-1]
        answers: list[Array] = session.run(outputs, feeds, shrinking if is_large else None)
        return answers

    return run


def _largest_batch(runtime: Runtime) -> int | None:
    """Read the batch axis of the largest shapes that TensorRT's engine takes, such as "image:64x8x8,size:64x1"."""
    shapes = runtime.provider_options.get(TENSORRT, {}).get(PROFILE_OPTION) if TENSORRT in runtime.providers else None
    return int(shapes.partition(",")[0].rpartition(":")[2].partition("x")[0]) if shapes else None


def _in_parts(run: Run, largest: int) -> Run:
    def run_in_parts(outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        rows = len(next(iter(feeds.values())))
        if rows <= largest:
            return run(outputs, feeds)
        starts = range(0, rows, largest)
        parts = [run(outputs, {name: array[start : start + largest] for name, array in feeds.items()}) for start in starts]
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run_in_parts


@dataclass(frozen=True, slots=True)
class _Captured:
    """The buffers of one batch size, bound to the graph's inputs and outputs, and the options that name its CUDA graph."""

    inputs: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class CapturedRuns:
    """Runs a session in batches of fixed sizes, on buffers that stay where they are.

    ONNX Runtime cannot run a session with CUDA graphs from two threads at once: callers wait for each other.
    """

    def __init__(self, session: ort.InferenceSession, device: str, sizes: Sequence[int] = GRAPH_BATCHES) -> None:
        """Keep the session; buffers of a size are made when it first occurs, on `device` ("cuda", or "cpu")."""
        self._session, self._device, self._sizes = session, device, tuple(sorted(sizes))
        self._captured: dict[int, _Captured] = {}
        self._turn = threading.Lock()
        self.run: Run = _in_parts(self._run_part, self._sizes[-1])

    def _run_part(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        rows = len(next(iter(feeds.values())))
        size = next(size for size in self._sizes if size >= rows)
        filled = {name: _filled(array, size) for name, array in feeds.items()}
        with self._turn:
            if size not in self._captured:
                self._captured[size] = self._bound(size, outputs, filled)
            captured = self._captured[size]
            for name, array in filled.items():
                captured.inputs[name].update_inplace(array)
            self._session.run_with_iobinding(captured.binding, captured.options)
            answers: list[Array] = captured.binding.copy_outputs_to_cpu()
        return [array[:rows] for array in answers]

    def _bound(self, size: int, outputs: Sequence[str], feeds: Mapping[str, Array]) -> _Captured:
        shapes = self._session.run(outputs, feeds, _graph(_WITHOUT_CAPTURE))
        binding = self._session.io_binding()
        inputs = {name: self._buffer(array) for name, array in feeds.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, array in zip(outputs, shapes, strict=True):
            binding.bind_ortvalue_output(name, self._buffer(array))
        return _Captured(inputs, binding, _graph(str(size)))

    def _buffer(self, like: Array) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype, self._device, 0)


def _graph(number: str) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", number)
    return options


def _filled(array: Array, size: int) -> Array:
    """Repeat the last row until there are `size`: a row that the model takes, and whose answer is dropped."""
    missing = size - len(array)
    return np.ascontiguousarray(array if missing == 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]))
