"""Decides what to load of a package whose provider or TensorRT engine may not fit this machine, and says what that costs.

A TensorRT engine is good for one kind of GPU and one version of TensorRT. Where it fits, a server starts with it at once;
where it does not, the provider builds one from `model.onnx` at the start, which takes minutes for large models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import ENGINE_NAME, MODEL_NAME, Runtime
from tidegate.packaging.running.gpu import CPU, TENSORRT, Machine, this_machine

CpuFallback = Literal["listed", "refused", "allowed"]
"""Whether a package that asks for an accelerator first may run on the CPU without one: if its runtime lists the CPU, too
(batch scoring and the gates), never, or always (a server, as its operator says)."""


@dataclass(frozen=True, slots=True)
class Loadable:
    """What is to be loaded here.

    Attributes:
        graph: A file of the package.
        runtime: How to load it.
        warning: Why that is slower than what was measured; None if it is not.
        is_fallback: Whether it runs on the CPU for want of the accelerator that its package asks for.
    """

    graph: Path
    runtime: Runtime
    warning: str | None = None
    is_fallback: bool = False


def usable_graph(
    package: Path, runtime: Runtime, machine: Machine | None = None, *, cpu_fallback: CpuFallback = "listed"
) -> Loadable:
    """Return what to load of a package.

    Args:
        package: The package's directory.
        runtime: How its manifest says to load it.
        machine: What is here; this machine unless told.
        cpu_fallback: Whether the CPU may stand in for the accelerator that the runtime asks for.

    Returns:
        `engine.onnx` with the runtime as it is, if it holds an engine that fits; else `model.onnx` with those of the runtime's
        providers that can be used here, in their order.

    Raises:
        PackageError: None of the runtime's providers can be used here, or only the CPU, and that is refused.
    """
    machine = machine or this_machine()
    usable = machine.usable(runtime.providers)
    is_fallback = runtime.providers[0] != CPU and usable[:1] in ((), (CPU,))
    if is_fallback and cpu_fallback == "allowed":
        usable = (CPU,)
    reasons = "; ".join(filter(None, map(machine.lacks, runtime.providers)))
    if is_fallback and cpu_fallback == "refused":
        raise PackageError(f"{package}: {reasons}; serve it where that is, or with --allow-cpu-fallback on the CPU, slower")
    if not usable:
        raise PackageError(f"{package}: {reasons}")
    here = msgspec.structs.replace(
        runtime,
        providers=usable,
        provider_options={name: options for name, options in runtime.provider_options.items() if name in usable},
    )
    if usable[0] != runtime.providers[0]:
        reason = machine.lacks(runtime.providers[0])
        warning = f"{reason}: the model runs on {usable[0]}, slower than it was measured"
        return Loadable(package / MODEL_NAME, here, warning, is_fallback)
    if runtime.engine is None:
        return Loadable(package / MODEL_NAME, here)
    misfit = _misfit(runtime, machine)
    if misfit is not None:
        warning = f"{misfit}: TensorRT builds one at every start, which takes minutes for large models"
        return Loadable(package / MODEL_NAME, here, warning)
    return Loadable(package / ENGINE_NAME, here)


def _misfit(runtime: Runtime, machine: Machine) -> str | None:
    engine = runtime.engine
    if engine is None or TENSORRT not in machine.providers:
        return None
    if engine.compute_capability != machine.compute_capability:
        have, want = machine.compute_capability, engine.compute_capability
        return f"the package's engine is for GPUs of compute capability {want}, this one has {have}"
    if engine.tensorrt != machine.tensorrt:
        return f"the package's engine is for TensorRT {engine.tensorrt}, here is {machine.tensorrt}"
    return None
