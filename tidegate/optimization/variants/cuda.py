"""Variants `cuda…`: ONNX Runtime's CUDA provider, in single, TF32 and half precision, or with CUDA graphs.

Provider options are ONNX Runtime's, as documented for its CUDA execution provider; those not named keep its defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import msgspec
import onnx

from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder
from tidegate.optimization.variants.fp16 import Fp16
from tidegate.packaging.format.manifest import MODEL_NAME, Precision, Runtime
from tidegate.packaging.onnx_graphs import every_node
from tidegate.packaging.running.gpu import CPU, CUDA, this_machine
from tidegate.packaging.running.steady import GRAPH_BATCHES

_BRANCHES = frozenset({"If", "Loop", "Scan"})
_GPU: frozenset[Target] = frozenset({"cuda", "tensorrt"})


@dataclass(frozen=True, slots=True)
class Cuda(VariantBuilder):
    """The source model's graph in single precision, with TF32 off: ONNX Runtime has it on unless told.

    `convolutions` is how an algorithm for a convolution is found. ONNX Runtime's default, EXHAUSTIVE, times all that cuDNN has
    for every new shape, which under adaptive batching means in the middle of serving; HEURISTIC asks cuDNN.

    With `graph`, a batch size's kernels are launched as one CUDA graph. That needs fixed shapes, so batches are filled up to
    the next of 1, 2, 4, … 64 rows (`tidegate.packaging.running.steady`), and every operator must run on the GPU.
    """

    name: ClassVar[str] = "cuda"
    precision: ClassVar[Precision] = "full"
    complexity: ClassVar[int] = 5
    targets: ClassVar[frozenset[Target]] = _GPU
    convolutions: str = "HEURISTIC"
    graph: bool = False

    @classmethod
    def settings(cls) -> Mapping[str, Self]:
        """Return the provider alone, and with CUDA graphs."""
        return {cls.name: cls(), f"{cls.name}-graph": cls(graph=True)}

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where CUDA is, to models whose work is not done by operators that only the CPU has."""
        return _why_not_on_cuda(model) or (_why_not_captured(model) if self.graph else None)

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Return the graph as it is, to be loaded by CUDA."""
        captured = {"enable_cuda_graph": "1"} if self.graph else {}
        note = f"one CUDA graph for each of {', '.join(map(str, GRAPH_BATCHES))} rows" if self.graph else ""
        loaded = on_cuda(runtime, {"use_tf32": "0", "cudnn_conv_algo_search": self.convolutions, **captured})
        return BuiltGraph((package / MODEL_NAME).read_bytes(), loaded, note=note)


@dataclass(frozen=True, slots=True)
class CudaTf32(VariantBuilder):
    """Matrix products and convolutions of single-precision numbers in TF32, whose products have 10 bits (Ampere and later)."""

    name: ClassVar[str] = "cuda-tf32"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 6
    targets: ClassVar[frozenset[Target]] = _GPU
    convolutions: str = "HEURISTIC"

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where CUDA is, on a GPU that has TF32."""
        reason = _why_not_on_cuda(model)
        capability = this_machine().compute_capability or "0"
        if reason is None and int(capability.partition(".")[0]) < 8:
            return f"TF32 needs a GPU of compute capability 8.0 or more; this one has {capability}"
        return reason

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Return the graph as it is, to be loaded by CUDA with TF32."""
        loaded = on_cuda(runtime, {"use_tf32": "1", "cudnn_conv_algo_search": self.convolutions})
        return BuiltGraph((package / MODEL_NAME).read_bytes(), loaded)


@dataclass(frozen=True, slots=True)
class CudaFp16(VariantBuilder):
    """The graph of variant `fp16`, whose half precision GPUs have in hardware, on CUDA."""

    name: ClassVar[str] = "cuda-fp16"
    precision: ClassVar[Precision] = "half"
    complexity: ClassVar[int] = 35
    targets: ClassVar[frozenset[Target]] = _GPU
    convolutions: str = "HEURISTIC"

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where CUDA is, to models that `fp16` applies to."""
        return _why_not_on_cuda(model) or Fp16().applies(model)

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Halve the precision as `fp16` does, and load the graph by CUDA."""
        halved = Fp16().build(package, runtime)
        loaded = on_cuda(halved.runtime, {"use_tf32": "0", "cudnn_conv_algo_search": self.convolutions})
        return BuiltGraph(halved.graph, loaded, note=halved.note)


def on_cuda(runtime: Runtime, options: Mapping[str, str]) -> Runtime:
    """Return a runtime that uses the CUDA provider, and the CPU for what it cannot do."""
    return msgspec.structs.replace(runtime, providers=(CUDA, CPU), provider_options={CUDA: dict(options)})


def _why_not_on_cuda(model: onnx.ModelProto) -> str | None:
    reason = this_machine().lacks(CUDA)
    if reason is not None:
        return reason
    trees = next((node.op_type for node in every_node(model.graph) if node.op_type.startswith("TreeEnsemble")), None)
    return None if trees is None else f"ONNX Runtime runs {trees} on the CPU only"


def _why_not_captured(model: onnx.ModelProto) -> str | None:
    """Return what cannot be part of a CUDA graph: texts, branches and loops, shapes that vary beyond the batch."""
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.STRING:
            return f"a CUDA graph takes no texts, but input {value.name!r} holds them"
        if any(not axis.HasField("dim_value") for axis in tensor.shape.dim[1:]):
            return f"a CUDA graph needs fixed shapes, but input {value.name!r} varies beyond the batch"
    branch = next((node.op_type for node in every_node(model.graph) if node.op_type in _BRANCHES), None)
    return None if branch is None else f"a CUDA graph cannot hold the operator {branch}"
