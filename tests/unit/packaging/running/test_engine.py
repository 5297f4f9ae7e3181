"""What is loaded of a package with a TensorRT engine, on machines that it fits and machines that it does not."""

from pathlib import Path

import pytest

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import ENGINE_NAME, MODEL_NAME, Engine, Runtime
from tidegate.packaging.running.engine import usable_graph
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, Machine

PACKAGE = Path("package")
ALL = (TENSORRT, CUDA, CPU)
HERE = Machine(ALL, "9.0", "10.14.1")
OPTIONS = {TENSORRT: {"trt_fp16_enable": "True"}, CUDA: {"use_tf32": "0"}}
ENGINE = Runtime(providers=ALL, provider_options=OPTIONS, engine=Engine(compute_capability="9.0", tensorrt="10.14.1"))


def test_an_engine_that_fits_is_loaded_as_it_is() -> None:
    assert usable_graph(PACKAGE, ENGINE, HERE) == (PACKAGE / ENGINE_NAME, ENGINE, None)


@pytest.mark.parametrize(
    ("machine", "warning"),
    [
        pytest.param(
            Machine(ALL, "8.6", "10.14.1"),
            "engine is for GPUs of compute capability 9.0, this one has 8.6: TensorRT builds one at every start",
            id="another GPU",
        ),
        pytest.param(
            Machine(ALL, "9.0", "10.15.0"),
            "engine is for TensorRT 10.14.1, here is 10.15.0: TensorRT builds one at every start",
            id="another TensorRT",
        ),
    ],
)
def test_an_engine_that_does_not_fit_is_built_anew_with_a_warning(machine: Machine, warning: str) -> None:
    graph, runtime, said = usable_graph(PACKAGE, ENGINE, machine)
    assert (graph, runtime) == (PACKAGE / MODEL_NAME, ENGINE)
    assert said is not None
    assert warning in said


@pytest.mark.parametrize(
    ("machine", "providers", "reason"),
    [
        pytest.param(Machine(ALL, "9.0"), (CUDA, CPU), "libnvinfer.so.10 is not here", id="no TensorRT: CUDA"),
        pytest.param(Machine(ALL), (CPU,), "needs an NVIDIA GPU", id="no GPU: CPU"),
        pytest.param(Machine(), (CPU,), "this ONNX Runtime has no TensorrtExecutionProvider", id="CPU build: CPU"),
    ],
)
def test_the_next_provider_that_the_package_lists_is_used_with_a_warning(
    machine: Machine, providers: tuple[str, ...], reason: str
) -> None:
    graph, runtime, said = usable_graph(PACKAGE, ENGINE, machine)
    assert graph == PACKAGE / MODEL_NAME
    assert runtime.providers == providers
    assert set(runtime.provider_options) <= set(providers)
    assert said is not None
    assert reason in said
    assert f"the model runs on {providers[0]}" in said


def test_a_package_that_lists_no_usable_provider_is_refused() -> None:
    with pytest.raises(PackageError, match="package: this ONNX Runtime has no CUDAExecutionProvider"):
        usable_graph(PACKAGE, Runtime(providers=(CUDA,)), Machine())


def test_a_package_for_the_cpu_is_loaded_as_it_is() -> None:
    assert usable_graph(PACKAGE, Runtime(), Machine()) == (PACKAGE / MODEL_NAME, Runtime(), None)


def test_this_machine_is_looked_at_unless_one_is_told() -> None:
    graph, runtime, said = usable_graph(PACKAGE, ENGINE)
    assert runtime.providers[-1] == CPU
    assert (graph == PACKAGE / ENGINE_NAME) == (said is None)
