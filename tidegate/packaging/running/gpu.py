"""What this machine has for GPU providers of ONNX Runtime: the GPU's compute capability, TensorRT's version, the providers.

Both are read from the libraries themselves, which ONNX Runtime loads anyway: NVIDIA's driver and TensorRT. Nothing to install.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

# CUdevice_attribute in cuda.h, the driver's interface.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine can run graphs on.

    Attributes:
        providers: The providers that ONNX Runtime was built with; its GPU build lists CUDA on a machine without any, too.
        compute_capability: Of the first GPU, such as "9.0"; None without a GPU or its driver.
        tensorrt: TensorRT's version, such as "10.14.1"; None without its library.
    """

    providers: tuple[str, ...] = (CPU,)
    compute_capability: str | None = None
    tensorrt: str | None = None

    def lacks(self, provider: str) -> str | None:
        """Return why a provider cannot be used here, or None if it can."""
        if provider not in self.providers:
            return f"this ONNX Runtime has no {provider} (it has {', '.join(self.providers)})"
        if provider in (CUDA, TENSORRT) and self.compute_capability is None:
            return f"{provider} needs an NVIDIA GPU, and the driver's library libcuda.so.1 finds none here"
        if provider == TENSORRT and self.tensorrt is None:
            return f"{provider} needs TensorRT, whose library libnvinfer.so.10 is not here"
        return None

    def usable(self, providers: Sequence[str]) -> tuple[str, ...]:
        """Return those of `providers` that can be used here, in their order."""
        return tuple(provider for provider in providers if self.lacks(provider) is None)


@cache
def this_machine() -> Machine:
    """Look at this machine, once a process."""
    import onnxruntime as ort

    providers = tuple(ort.get_available_providers())
    return Machine(
        providers=providers,
        compute_capability=_compute_capability() if CUDA in providers else None,
        tensorrt=_tensorrt_version() if TENSORRT in providers else None,
    )


def _compute_capability() -> str | None:
    """Ask the driver (cuDeviceGetAttribute); a container without a GPU has the library, but no device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else f"{major.value}.{minor.value}"


def _tensorrt_version() -> str | None:
    """Ask the library (getInferLibVersion); since TensorRT 10 it answers major * 10000 + minor * 100 + patch."""
    try:
        number = int(ctypes.CDLL("libnvinfer.so.10").getInferLibVersion())
    except (OSError, AttributeError):
        return None
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"
