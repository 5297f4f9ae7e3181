"""What a package may tell ONNX Runtime's providers, and that nothing a package brings is ever executed."""

import os
import pickle
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests import small_packages
from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import MODEL_NAME, Runtime
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT
from tidegate.packaging.running.provider_options import check_options, with_memory_limit
from tidegate.packaging.running.session import GraphSession, open_session

# A library whose loading leaves a trace would need a compiler here; a file that is none fails loudly if anything opens it.
NO_LIBRARY = b"\x7fELF no library"


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.multiclass(tmp_path_factory.mktemp("iris") / "package")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="none"),
        pytest.param({CUDA: {"gpu_mem_limit": "1073741824", "arena_extend_strategy": "kSameAsRequested"}}, id="arena limits"),
        pytest.param({TENSORRT: {"trt_fp16_enable": "True", "trt_profile_max_shapes": "x:64x8"}}, id="precision and shapes"),
    ],
)
def test_harmless_options_are_taken(options: dict[str, dict[str, str]]) -> None:
    check_options(options, "model.onnx")


@pytest.mark.parametrize(
    ("provider", "option"),
    [
        pytest.param(TENSORRT, "trt_extra_plugin_lib_paths", id="libraries to load"),
        pytest.param(TENSORRT, "trt_engine_decryption_lib_path", id="a library that decrypts"),
        pytest.param(TENSORRT, "trt_engine_cache_path", id="files to write"),
        pytest.param(CUDA, "gpu_external_alloc", id="an address to call"),
        pytest.param(CUDA, "user_compute_stream", id="an address to use"),
        pytest.param("QNNExecutionProvider", "backend_path", id="another provider"),
    ],
)
def test_options_that_could_execute_or_write_are_refused(iris: Path, provider: str, option: str) -> None:
    runtime = Runtime(provider_options={provider: {option: "/tmp/any.so"}})
    with pytest.raises(PackageError, match=rf"model\.onnx: a package may not set the option '{option}' of {provider}"):
        open_session(iris / MODEL_NAME, runtime)


def test_libraries_and_pickles_in_a_package_are_not_touched(iris: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(iris, tmp_path / "package"))
    trace = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(trace),))

    for name in ("custom_ops.so", "libcustom_op.so", "model.onnx.so"):
        (package / name).write_bytes(NO_LIBRARY)
    for name in ("model.pkl", "model.joblib", "sitecustomize.py", "conftest.py", "__init__.py"):
        (package / name).write_bytes(
            pickle.dumps(Trap()) if name.startswith("model") else f"import os; os.mkdir({str(trace)!r})".encode()
        )

    inputs = {spec.name: np.ones((2, 1), np.float32) for spec in read_manifest(package).signature.inputs}
    assert GraphSession.of_package(package).run(inputs)["probabilities"].shape == (2, 3)
    assert not trace.exists()


def test_an_operator_that_onnx_runtime_does_not_have_is_refused(iris: Path, tmp_path: Path) -> None:
    package = Path(shutil.copytree(iris, tmp_path / "package"))
    (package / "custom_ops.so").write_bytes(NO_LIBRARY)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Evil", ["x"], ["y"], domain="ai.evil")], "graph", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.evil", 1)])
    model.ir_version = 9
    (package / MODEL_NAME).write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match=r"model\.onnx: ONNX Runtime cannot load it: .*Evil"):
        GraphSession.of_package(package)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin"])
def test_a_graph_that_reads_files_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    package = tmp_path / "package"
    (package / "a").mkdir(parents=True)
    weights = onnx.TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[1, 16], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=location)
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name, size in (("x", 1), ("y", 16))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weights"], ["y"])], "graph", value[:1], value[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    (package / MODEL_NAME).write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        open_session(package / MODEL_NAME, Runtime())


def test_options_of_a_manifest_are_checked_even_for_a_provider_it_does_not_list(iris: Path) -> None:
    manifest = read_manifest(iris)
    runtime = Runtime(providers=(CPU,), provider_options={TENSORRT: {"trt_extra_plugin_lib_paths": "x.so"}})
    with pytest.raises(PackageError, match="trt_extra_plugin_lib_paths"):
        GraphSession.of_package(iris, msgspec.structs.replace(manifest, runtime=runtime))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, {"gpu_mem_limit": "1000", "arena_extend_strategy": "kSameAsRequested"}, id="no limit yet"),
        pytest.param(
            {"gpu_mem_limit": "10"}, {"gpu_mem_limit": "10", "arena_extend_strategy": "kSameAsRequested"}, id="a lower one"
        ),
        pytest.param(
            {"gpu_mem_limit": "5000", "arena_extend_strategy": "kNextPowerOfTwo", "use_tf32": "0"},
            {"gpu_mem_limit": "1000", "arena_extend_strategy": "kNextPowerOfTwo", "use_tf32": "0"},
            id="a higher one, and what the package chose itself",
        ),
    ],
)
def test_memory_of_a_gpu_is_limited(given: dict[str, str], expected: dict[str, str]) -> None:
    runtime = Runtime(providers=(TENSORRT, CUDA, CPU), provider_options={CUDA: given, TENSORRT: {"trt_fp16_enable": "True"}})
    limited = with_memory_limit(runtime, 1000)
    assert limited.provider_options == {CUDA: expected, TENSORRT: {"trt_fp16_enable": "True"}}
    check_options(limited.provider_options, "model.onnx")


def test_without_a_gpu_there_is_no_memory_of_one_to_limit() -> None:
    assert with_memory_limit(Runtime(), 1000) == Runtime()
