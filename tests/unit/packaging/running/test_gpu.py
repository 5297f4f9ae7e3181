"""What a machine can run graphs on, and why not: facts as a GPU machine has them, and this one's."""

import ctypes
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from tidegate.packaging.running import gpu
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT, Machine, this_machine

ALL = (TENSORRT, CUDA, CPU)


@pytest.mark.parametrize(
    ("machine", "provider", "reason"),
    [
        pytest.param(Machine(), CPU, None, id="the CPU is everywhere"),
        pytest.param(
            Machine(), CUDA, "this ONNX Runtime has no CUDAExecutionProvider (it has CPUExecutionProvider)", id="CPU build"
        ),
        pytest.param(Machine(ALL), CUDA, "needs an NVIDIA GPU", id="GPU build without a GPU"),
        pytest.param(Machine(ALL, "9.0"), CUDA, None, id="GPU"),
        pytest.param(Machine(ALL, "9.0"), TENSORRT, "needs TensorRT, whose library libnvinfer.so.10", id="no TensorRT"),
        pytest.param(Machine(ALL, None, "10.14.1"), TENSORRT, "needs an NVIDIA GPU", id="TensorRT without a GPU"),
        pytest.param(Machine(ALL, "9.0", "10.14.1"), TENSORRT, None, id="TensorRT"),
    ],
)
def test_a_provider_that_cannot_be_used_says_what_is_missing(machine: Machine, provider: str, reason: str | None) -> None:
    found = machine.lacks(provider)
    assert found is None if reason is None else found is not None and reason in found


def test_the_usable_providers_keep_their_order() -> None:
    assert Machine(ALL, "8.6").usable((TENSORRT, CUDA, CPU)) == (CUDA, CPU)


def test_this_machine_lists_the_providers_that_onnx_runtime_has() -> None:
    this_machine.cache_clear()
    machine = this_machine()
    assert machine.providers == tuple(ort.get_available_providers())
    assert CPU in machine.usable((CUDA, CPU))


def _driver(capability: tuple[int, int], failure: int = 0) -> Any:
    def attribute(value: Any, which: int, device: Any) -> int:
        value._obj.value = capability[0] if which == 75 else capability[1]
        return 0

    return SimpleNamespace(cuInit=lambda flags: failure, cuDeviceGet=lambda device, number: 0, cuDeviceGetAttribute=attribute)


@pytest.mark.parametrize(
    ("driver", "capability"),
    [
        pytest.param(_driver((9, 0)), "9.0", id="Hopper"),
        pytest.param(_driver((8, 6)), "8.6", id="Ampere"),
        pytest.param(_driver((9, 0), failure=100), None, id="no device: CUDA_ERROR_NO_DEVICE"),
        pytest.param(SimpleNamespace(), None, id="a library that is none"),
    ],
)
def test_the_driver_tells_the_compute_capability(monkeypatch: pytest.MonkeyPatch, driver: Any, capability: str | None) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert gpu._compute_capability() == capability


@pytest.mark.parametrize(("number", "version"), [(101401, "10.14.1"), (101300, "10.13.0"), (110002, "11.0.2")])
def test_tensorrt_tells_its_version(monkeypatch: pytest.MonkeyPatch, number: int, version: str) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(getInferLibVersion=lambda: number))
    assert gpu._tensorrt_version() == version


def test_no_library_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu._tensorrt_version() is None
    assert gpu._compute_capability() is None
