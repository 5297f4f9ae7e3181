"""The CUDA variants up to the provider's door: when they apply, and what they ask of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidegate.optimization.variants import cuda, variant_builder, variant_names
from tidegate.packaging.format.manifest import MODEL_NAME, Runtime
from tidegate.packaging.running.gpu import CPU, CUDA, Machine, this_machine

NAMES = ("cuda", "cuda-graph", "cuda-tf32", "cuda-fp16")
GPU = Machine((CUDA, CPU), "9.0")

# The options that libonnxruntime_providers_cuda.so of onnxruntime-gpu 1.31.1 knows, among others.
KNOWN_OPTIONS = {
    "device_id", "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "do_copy_in_default_stream",
    "enable_cuda_graph", "fuse_conv_bias", "gpu_mem_limit", "prefer_nhwc", "sdpa_kernel", "tunable_op_enable", "use_tf32",
}  # fmt: skip


def _model(kind: int = TensorProto.FLOAT, columns: int | str = 3, operator: str = "MatMul") -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if operator != "MatMul":
        nodes.append(helper.make_node(operator, ["y"], ["z"], domain="ai.onnx.ml"))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, ["n", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.ones((3, 2), dtype=np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _with_a_branch() -> onnx.ModelProto:
    model = _model()
    empty = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], [], then_branch=empty, else_branch=empty))
    return model


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "this_machine", lambda: GPU)


def test_the_variants_are_found_by_their_targets() -> None:
    assert set(NAMES) <= set(variant_names("cuda"))
    assert set(NAMES) <= set(variant_names("tensorrt"))
    assert not set(NAMES) & set(variant_names("cpu"))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_a_variant_does_not_apply_and_says_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "this_machine", lambda: Machine())
    reason = variant_builder(name).applies(_model())
    assert reason == "this ONNX Runtime has no CUDAExecutionProvider (it has CPUExecutionProvider)"


@pytest.mark.parametrize("name", NAMES)
def test_here_a_variant_says_what_this_machine_lacks(name: str) -> None:
    assert variant_builder(name).applies(_model()) == this_machine().lacks(CUDA)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_dense_layers_have_every_variant(name: str) -> None:
    assert variant_builder(name).applies(_model()) is None


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("name", NAMES)
def test_trees_have_none_since_only_the_cpu_runs_them(name: str) -> None:
    reason = variant_builder(name).applies(_model(operator="TreeEnsembleRegressor"))
    assert reason == "ONNX Runtime runs TreeEnsembleRegressor on the CPU only"


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(_model(TensorProto.STRING), "a CUDA graph takes no texts, but input 'x' holds them", id="texts"),
        pytest.param(_model(columns="length"), "input 'x' varies beyond the batch", id="an axis of varying length"),
        pytest.param(_with_a_branch(), "a CUDA graph cannot hold the operator If", id="a branch"),
    ],
)
def test_a_cuda_graph_needs_fixed_shapes_of_numbers(model: onnx.ModelProto, reason: str) -> None:
    found = variant_builder("cuda-graph").applies(model)
    assert found is not None
    assert reason in found
    assert variant_builder("cuda").applies(model) is None


@pytest.mark.parametrize(
    ("capability", "applies"), [pytest.param("7.5", False, id="Turing"), pytest.param("8.0", True, id="Ampere")]
)
def test_tf32_needs_ampere(capability: str, applies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "this_machine", lambda: Machine((CUDA, CPU), capability))
    assert (variant_builder("cuda-tf32").applies(_model()) is None) == applies


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("cuda", {"use_tf32": "0"}, id="single precision has TF32 off, which is on by default"),
        pytest.param("cuda-tf32", {"use_tf32": "1"}, id="TF32"),
        pytest.param("cuda-graph", {"use_tf32": "0", "enable_cuda_graph": "1"}, id="CUDA graphs"),
        pytest.param("cuda-fp16", {"use_tf32": "0"}, id="half precision"),
    ],
)
def test_the_runtime_asks_for_cuda_and_falls_back_to_the_cpu(name: str, options: dict[str, str], tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / MODEL_NAME)
    built = variant_builder(name).build(tmp_path, Runtime(intra_op_threads=2))
    assert built.runtime.providers == (CUDA, CPU)
    assert built.runtime.intra_op_threads == 2
    assert built.runtime.provider_options == {CUDA: {"cudnn_conv_algo_search": "HEURISTIC", **options}}
    assert set(built.runtime.provider_options[CUDA]) <= KNOWN_OPTIONS


def test_half_precision_halves_the_weights(tmp_path: Path) -> None:
    onnx.save(_model(), tmp_path / MODEL_NAME)
    halved = onnx.load_from_string(variant_builder("cuda-fp16").build(tmp_path, Runtime()).graph)
    assert TensorProto.FLOAT16 in {tensor.data_type for tensor in halved.graph.initializer}
    assert variant_builder("cuda-fp16").precision == "half"
