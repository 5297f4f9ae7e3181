"""The TensorRT variants up to the provider's door: when they apply, profiles, options, quantized graphs; the build is faked."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidegate.errors import OptimizationError
from tidegate.optimization import engines
from tidegate.optimization.engines import profile
from tidegate.optimization.variants import tensorrt, variant_builder, variant_names
from tidegate.packaging.format.manifest import (
    ENGINE_NAME,
    MODEL_NAME,
    SCHEMA_VERSION,
    Engine,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, Machine, this_machine

NAMES = ("tensorrt", "tensorrt-fp16", "tensorrt-int8")
GPU = Machine((TENSORRT, CUDA, CPU), "9.0", "10.14.1")

# The options that libonnxruntime_providers_tensorrt.so of onnxruntime-gpu 1.31.1 knows, among others.
KNOWN_OPTIONS = {
    "device_id", "trt_builder_optimization_level", "trt_dump_ep_context_model", "trt_engine_cache_enable",
    "trt_engine_cache_path", "trt_ep_context_embed_mode", "trt_ep_context_file_path", "trt_force_timing_cache",
    "trt_fp16_enable", "trt_int8_calibration_table_name", "trt_int8_enable", "trt_layer_norm_fp32_fallback",
    "trt_profile_max_shapes", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_timing_cache_enable",
    "trt_timing_cache_path",
}  # fmt: skip


def _model(kind: int = TensorProto.FLOAT, shape: Sequence[int | str] = ("n", 3), name: str = "x") -> onnx.ModelProto:
    weights = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "w"], ["y"], "dense"), helper.make_node("Relu", ["y"], ["z"], "active")],
        "graph",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [*shape[:-1], 2])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _with_trees() -> onnx.ModelProto:
    model = _model()
    model.graph.node.append(helper.make_node("TreeEnsembleRegressor", ["z"], ["t"], domain="ai.onnx.ml"))
    return model


def _manifest(*inputs: TensorSpec) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="model",
        task="tensors",
        signature=Signature(inputs=inputs, outputs=(TensorSpec(name="z", datatype="FP32", shape=(-1, 2)),)),
        variant=Variant(name="baseline", candidate="model"),
        runtime=Runtime(),
        metrics={},
        files={},
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package's graph; its manifest and calibration rows are told, since nothing here is served."""
    onnx.save(_model(), tmp_path / MODEL_NAME)
    observed = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    manifest = _manifest(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)))
    monkeypatch.setattr(engines, "read_manifest", lambda package: manifest)
    monkeypatch.setattr(tensorrt, "calibration_batches", lambda package, *, rows: [{"x": observed}])
    return tmp_path


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, str]]:
    """A machine with a GPU, whose provider writes an engine where it is told to; returns the options it was given."""
    asked: list[dict[str, str]] = []

    class Session:
        def __init__(self, graph: bytes, providers: list[Any]) -> None:
            options = providers[0][1]
            asked.append(options)
            Path(options["trt_ep_context_file_path"]).write_bytes(b"engine of " + graph[:4])

        def get_providers(self) -> list[str]:
            return [TENSORRT, CUDA, CPU]

    monkeypatch.setattr(engines, "this_machine", lambda: GPU)
    monkeypatch.setattr(engines, "timing_cache", lambda: tmp_path)
    monkeypatch.setattr(engines, "ort", SimpleNamespace(InferenceSession=Session))
    return asked


def test_the_variants_are_those_of_target_tensorrt() -> None:
    assert set(NAMES) <= set(variant_names("tensorrt"))
    assert not set(NAMES) & {*variant_names("cpu"), *variant_names("cuda")}


@pytest.mark.parametrize("name", NAMES)
def test_here_a_variant_says_what_this_machine_lacks(name: str) -> None:
    assert variant_builder(name).applies(_model()) == this_machine().lacks(TENSORRT)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(_model(), None, id="dense layers"),
        pytest.param(_model(TensorProto.STRING), "TensorRT takes no string, which input 'x' holds", id="texts"),
        pytest.param(_model(TensorProto.DOUBLE), "TensorRT takes no double, which input 'x' holds", id="doubles"),
        pytest.param(_model(name="ns:x"), "input 'ns:x' cannot be named in an optimization profile", id="a name with a colon"),
        pytest.param(_with_trees(), "TensorRT has no operator TreeEnsembleRegressor", id="trees"),
    ],
)
def test_an_engine_is_built_of_whole_graphs_only(name: str, model: onnx.ModelProto, reason: str | None) -> None:
    found = variant_builder(name).applies(model)
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_the_profile_spans_one_row_to_the_largest_batch() -> None:
    options = profile(_model(), _manifest(), 256)
    assert options == {
        "trt_profile_min_shapes": "x:1x3",
        "trt_profile_opt_shapes": "x:32x3",
        "trt_profile_max_shapes": "x:256x3",
    }


def test_axes_of_varying_length_are_as_long_as_the_samples() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1, 3), sizes=((4, 128), (3, 3)))
    options = profile(_model(shape=("n", "length", 3)), _manifest(spec), 8)
    assert options == {
        "trt_profile_min_shapes": "x:1x4x3",
        "trt_profile_opt_shapes": "x:8x128x3",
        "trt_profile_max_shapes": "x:8x128x3",
    }


def test_a_length_that_nobody_knows_is_refused() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1, 3))
    with pytest.raises(OptimizationError, match="input 'x' varies beyond the batch, and the signature does not say how far"):
        profile(_model(shape=("n", "length", 3)), _manifest(spec), 8)


@pytest.mark.parametrize(
    ("name", "precision", "options"),
    [
        pytest.param("tensorrt", "half", {}, id="single precision, in TF32"),
        pytest.param(
            "tensorrt-fp16", "half", {"trt_fp16_enable": "True", "trt_layer_norm_fp32_fallback": "True"}, id="half precision"
        ),
        pytest.param("tensorrt-int8", "int8", {"trt_int8_enable": "True", "trt_fp16_enable": "True"}, id="8 bits"),
    ],
)
def test_the_package_holds_the_engine_and_the_graph(
    name: str, precision: str, options: dict[str, str], package: Path, on_a_gpu: list[dict[str, str]]
) -> None:
    builder = variant_builder(name)
    built = builder.build(package, Runtime())
    kept = built.runtime.provider_options[TENSORRT]
    assert builder.precision == precision
    assert built.runtime.providers == (TENSORRT, CUDA, CPU)
    assert built.runtime.engine == Engine(compute_capability="9.0", tensorrt="10.14.1")
    assert built.files[ENGINE_NAME].startswith(b"engine of ")
    assert {**options, "trt_builder_optimization_level": "3"}.items() <= kept.items()
    assert kept["trt_profile_max_shapes"] == "x:256x3"
    asked = on_a_gpu[0]
    assert asked["trt_dump_ep_context_model"] == "True"
    assert asked["trt_ep_context_embed_mode"] == "1"
    assert kept.items() <= asked.items()
    assert set(asked) <= KNOWN_OPTIONS
    # Where the engine was written is this machine's business, and nothing that a server should read.
    assert not any("path" in option or "dump" in option for option in kept)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_fell_back_in_silence_is_no_engine(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "this_machine", lambda: GPU)
    with pytest.raises(OptimizationError, match="could not start TensorrtExecutionProvider and fell back to CPUExecution"):
        variant_builder("tensorrt").build(package, Runtime())


def test_8_bits_are_symmetric_around_zero_with_biases_left_and_close_to_the_model(package: Path) -> None:
    quantized = onnx.load_from_string(tensorrt.TensorRtInt8().graph(package))
    operators = [node.op_type for node in quantized.graph.node]
    assert "QuantizeLinear" in operators
    points = [tensor for tensor in quantized.graph.initializer if "zero_point" in tensor.name]
    assert points
    assert all(tensor.data_type == TensorProto.INT8 and not numpy_helper.to_array(tensor).any() for tensor in points)
    rows = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    exact, found = (
        ort.InferenceSession(graph, providers=[CPU]).run(["z"], {"x": rows})[0]
        for graph in ((package / MODEL_NAME).read_bytes(), quantized.SerializeToString())
    )
    assert float(np.abs(exact - found).max()) < 0.1
