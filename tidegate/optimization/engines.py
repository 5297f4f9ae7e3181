"""Builds TensorRT engines by ONNX Runtime's provider: what the variants `tensorrt…` have in common.

Provider options are ONNX Runtime's, as documented for its TensorRT execution provider; those not named keep its defaults.
"""

import gc
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import onnx
import onnxruntime as ort

from tidegate.errors import OptimizationError
from tidegate.optimization.variants.builder import BuiltGraph, Target, VariantBuilder
from tidegate.packaging.format.manifest import ENGINE_NAME, MODEL_NAME, Engine, Manifest, Runtime
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.onnx_graphs import every_node
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, this_machine
from tidegate.packaging.running.steady import PROFILE_OPTION

_TYPICAL_BATCH = 32
_SEPARATORS = frozenset(":,")
_UNKNOWN_TYPES = frozenset({onnx.TensorProto.STRING, onnx.TensorProto.DOUBLE})

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class EngineBuilder(VariantBuilder):
    """Builds an engine of a package's graph, as the options of a subclass say.

    `largest_batch` is the most rows that the engine takes at once; more are run in parts. `level` is TensorRT's builder
    optimization level, from 0, which builds fast, to 5.

    Attributes:
        options: The provider's options beside those that every engine has.
    """

    options: ClassVar[Mapping[str, str]]
    targets: ClassVar[frozenset[Target]] = frozenset({"tensorrt"})
    largest_batch: int = 256
    level: int = 3

    def applies(self, model: onnx.ModelProto) -> str | None:
        """Applies where TensorRT is, to models that it can run whole."""
        return this_machine().lacks(TENSORRT) or why_not_whole(model)

    def graph(self, package: Path) -> bytes:
        """Return the graph to build the engine of: the package's own."""
        return (package / MODEL_NAME).read_bytes()

    def build(self, package: Path, runtime: Runtime) -> BuiltGraph:
        """Return the graph with its engine beside it; raises OptimizationError if TensorRT makes none."""
        machine, graph = this_machine(), self.graph(package)
        shapes = profile(onnx.load_from_string(graph), read_manifest(package), self.largest_batch)
        options = {**self.options, "trt_builder_optimization_level": str(self.level), **shapes}
        of_machine = Engine(compute_capability=machine.compute_capability or "", tensorrt=machine.tensorrt or "")
        with_engine = msgspec.structs.replace(
            runtime, providers=(TENSORRT, CUDA, CPU), provider_options={TENSORRT: options}, engine=of_machine
        )
        note = f"engine for compute capability {of_machine.compute_capability} and TensorRT {of_machine.tensorrt}"
        return BuiltGraph(graph, with_engine, {ENGINE_NAME: build_engine(graph, with_engine)}, note=note)


def why_not_whole(model: onnx.ModelProto) -> str | None:
    """Return why TensorRT cannot run a graph whole, which an engine with an optimization profile asks for; None if it may.

    What TensorRT leaves to other providers splits the graph, and the shapes in between have no profile.
    """
    for value in model.graph.input:
        if value.type.tensor_type.elem_type in _UNKNOWN_TYPES:
            kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
            return f"TensorRT takes no {kind}, which input {value.name!r} holds"
        if _SEPARATORS.intersection(value.name):
            return f"input {value.name!r} cannot be named in an optimization profile: ':' and ',' separate its parts"
    foreign = next((node.op_type for node in every_node(model.graph) if node.domain == "ai.onnx.ml"), None)
    return None if foreign is None else f"TensorRT has no operator {foreign}"


def profile(model: onnx.ModelProto, manifest: Manifest, largest_batch: int) -> dict[str, str]:
    """Return the options for shapes from one row to `largest_batch`, and for all other axes as long as the sample's.

    Raises:
        OptimizationError: An input varies beyond the batch, and the signature does not say how far.
    """
    least, typical, greatest = [], [], []
    for value in model.graph.input:
        low, high = _lengths(value, manifest)
        least.append(_shape_of(value.name, 1, low))
        typical.append(_shape_of(value.name, min(_TYPICAL_BATCH, largest_batch), high))
        greatest.append(_shape_of(value.name, largest_batch, high))
    return {
        "trt_profile_min_shapes": ",".join(least),
        "trt_profile_opt_shapes": ",".join(typical),
        PROFILE_OPTION: ",".join(greatest),
    }


def build_engine(graph: bytes, runtime: Runtime) -> bytes:
    """Build the engine of a graph and return the EPContext model that holds it; raises OptimizationError if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / ENGINE_NAME
        options = {
            **runtime.provider_options[TENSORRT],
            "trt_dump_ep_context_model": "True",
            "trt_ep_context_file_path": str(engine),
            "trt_ep_context_embed_mode": "1",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(timing_cache()),
        }
        _open_and_close(graph, [(TENSORRT, options), *runtime.providers[1:]])
        if not engine.is_file():
            raise OptimizationError("TensorRT built no engine of the whole graph, so there is none to keep")
        return engine.read_bytes()


def timing_cache() -> Path:
    """Return the folder where TensorRT keeps the times of its kernels on this GPU, so that the next build is quicker."""
    folder = Path.home() / ".cache" / "tidegate" / "tensorrt"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _open_and_close(graph: bytes, providers: Sequence[str | tuple[str, dict[str, str]]]) -> None:
    session = ort.InferenceSession(graph, providers=list(providers))
    found = session.get_providers()
    del session  # an embedded engine is written when its session ends
    gc.collect()
    if TENSORRT not in found:
        raise OptimizationError(f"ONNX Runtime could not start {TENSORRT} and fell back to {', '.join(found)}")


def _lengths(value: onnx.ValueInfoProto, manifest: Manifest) -> tuple[Shape, Shape]:
    """Return the least and greatest length of each axis of a graph's input after the batch."""
    axes = value.type.tensor_type.shape.dim[1:]
    fixed = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]
    if -1 not in fixed:
        return fixed, fixed
    sizes = next((spec.sizes for spec in manifest.signature.inputs if spec.name == value.name), ())
    if len(sizes) != len(fixed):
        raise OptimizationError(f"input {value.name!r} varies beyond the batch, and the signature does not say how far")
    spans = [
        (int(low), int(high)) if length == -1 else (length, length) for length, (low, high) in zip(fixed, sizes, strict=True)
    ]
    return [low for low, _ in spans], [high for _, high in spans]


def _shape_of(name: str, rows: int, lengths: Shape) -> str:
    return f"{name}:{'x'.join(map(str, [rows, *lengths]))}"
