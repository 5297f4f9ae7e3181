"""What is loaded of a package with a TensorRT engine, on machines that it fits and machines that it does not."""

from pathlib import Path

import pytest

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import ENGINE_NAME, MODEL_NAME, Engine, Runtime
from tidegate.packaging.running.engine import CpuFallback, Loadable, usable_graph
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, Machine

PACKAGE = Path("package")
ALL = (TENSORRT, CUDA, CPU)
HERE = Machine(ALL, "9.0", "10.14.1")
OPTIONS = {TENSORRT: {"trt_fp16_enable": "True"}, CUDA: {"use_tf32": "0"}}
ENGINE = Runtime(providers=ALL, provider_options=OPTIONS, engine=Engine(compute_capability="9.0", tensorrt="10.14.1"))


def test_an_engine_that_fits_is_loaded_as_it_is() -> None:
    assert usable_graph(PACKAGE, ENGINE, HERE) == Loadable(PACKAGE / ENGINE_NAME, ENGINE)


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
    found = usable_graph(PACKAGE, ENGINE, machine)
    assert (found.graph, found.runtime, found.is_fallback) == (PACKAGE / MODEL_NAME, ENGINE, False)
    assert found.warning is not None
    assert warning in found.warning


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
    found = usable_graph(PACKAGE, ENGINE, machine)
    assert found.graph == PACKAGE / MODEL_NAME
    assert found.runtime.providers == providers
    assert set(found.runtime.provider_options) <= set(providers)
    assert found.warning is not None
    assert reason in found.warning
    assert f"the model runs on {providers[0]}" in found.warning
    assert found.is_fallback == (providers == (CPU,))


@pytest.mark.parametrize(
    ("providers", "cpu_fallback", "runs_on"),
    [
        pytest.param((CUDA, CPU), "listed", (CPU,), id="listed"),
        pytest.param((CUDA, CPU), "allowed", (CPU,), id="listed and allowed"),
        pytest.param((CUDA,), "allowed", (CPU,), id="not listed, but allowed"),
        pytest.param((CUDA,), "listed", None, id="not listed"),
        pytest.param((CUDA, CPU), "refused", None, id="listed, but refused"),
        pytest.param((CPU,), "refused", (CPU,), id="a package for the CPU falls nowhere"),
        pytest.param((CPU, CUDA), "refused", (CPU,), id="the CPU first"),
    ],
)
def test_the_cpu_stands_in_for_an_accelerator_only_where_it_may(
    providers: tuple[str, ...], cpu_fallback: CpuFallback, runs_on: tuple[str, ...] | None
) -> None:
    runtime = Runtime(providers=providers, provider_options={CUDA: {"use_tf32": "0"}})
    if runs_on is None:
        with pytest.raises(PackageError, match="package: this ONNX Runtime has no CUDAExecutionProvider"):
            usable_graph(PACKAGE, runtime, Machine(), cpu_fallback=cpu_fallback)
    else:
        found = usable_graph(PACKAGE, runtime, Machine(), cpu_fallback=cpu_fallback)
        assert (found.runtime.providers, found.runtime.provider_options) == (runs_on, {})
        assert found.is_fallback == (providers[0] == CUDA)


def test_a_gpu_of_another_kind_is_no_fallback_to_the_cpu() -> None:
    found = usable_graph(PACKAGE, ENGINE, Machine(ALL, "9.0"), cpu_fallback="refused")
    assert (found.runtime.providers, found.is_fallback) == ((CUDA, CPU), False)


def test_a_package_that_lists_no_usable_provider_is_refused() -> None:
    with pytest.raises(PackageError, match="package: this ONNX Runtime has no CUDAExecutionProvider"):
        usable_graph(PACKAGE, Runtime(providers=(CUDA,)), Machine())


def test_a_package_for_the_cpu_is_loaded_as_it_is() -> None:
    assert usable_graph(PACKAGE, Runtime(), Machine()) == Loadable(PACKAGE / MODEL_NAME, Runtime())


def test_this_machine_is_looked_at_unless_one_is_told() -> None:
    found = usable_graph(PACKAGE, ENGINE)
    assert found.runtime.providers[-1] == CPU
    assert (found.graph == PACKAGE / ENGINE_NAME) == (found.warning is None)
