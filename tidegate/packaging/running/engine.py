"""Decides what to load of a package whose provider or TensorRT engine may not fit this machine, and says what that costs.

A TensorRT engine is good for one kind of GPU and one version of TensorRT. Where it fits, a server starts with it at once;
where it does not, the provider builds one from `model.onnx` at the start, which takes minutes for large models.
"""

from pathlib import Path

import msgspec

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import ENGINE_NAME, MODEL_NAME, Runtime
from tidegate.packaging.running.gpu import TENSORRT, Machine, this_machine


def usable_graph(package: Path, runtime: Runtime, machine: Machine | None = None) -> tuple[Path, Runtime, str | None]:
    """Return the file of a package to load, how to load it here, and a warning if that is slower than what was measured.

    Args:
        package: The package's directory.
        runtime: How its manifest says to load it.
        machine: What is here; this machine unless told.

    Returns:
        `engine.onnx` with the runtime as it is, if it holds an engine that fits; else `model.onnx` with those of the runtime's
        providers that can be used here, in their order.

    Raises:
        PackageError: None of the runtime's providers can be used here.
    """
    machine = machine or this_machine()
    usable = machine.usable(runtime.providers)
    if not usable:
        raise PackageError(f"{package}: {'; '.join(filter(None, map(machine.lacks, runtime.providers)))}")
    here = msgspec.structs.replace(
        runtime,
        providers=usable,
        provider_options={name: options for name, options in runtime.provider_options.items() if name in usable},
    )
    if usable[0] != runtime.providers[0]:
        reason = machine.lacks(runtime.providers[0])
        return package / MODEL_NAME, here, f"{reason}: the model runs on {usable[0]}, slower than it was measured"
    if runtime.engine is None:
        return package / MODEL_NAME, here, None
    misfit = _misfit(runtime, machine)
    if misfit is not None:
        return package / MODEL_NAME, here, f"{misfit}: TensorRT builds one at every start, which takes minutes for large models"
    return package / ENGINE_NAME, here, None


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
