"""Reads the files that PyTorch writes: exported programs (`.pt2`), and pickled modules (`.pt`, `.pth`)."""

import zipfile
from pathlib import Path
from typing import Any

from tidegate.errors import PackageError, in_one_line
from tidegate.extras import needing
from tidegate.packaging.sources.source import Source


def read_program(path: Path) -> Source:
    """Read what `torch.export.save` wrote; raises PackageError if it is something else."""
    from tidegate.packaging.sources.torch_program import TorchProgram

    with needing("pytorch"):
        import torch
    try:
        program = torch.export.load(path)
    except Exception as error:  # PyTorch raises whatever its parts raise
        raise PackageError(
            f"source model {path}: PyTorch cannot load it as an exported program: {in_one_line(error)}; "
            "write it by torch.export.save"
        ) from error
    return TorchProgram(program, str(path))


def unpickle_module(path: Path) -> Any:
    """Return what `torch.save` wrote, on the CPU. What is no bare set of weights is unpickled, which runs code in it.

    Raises:
        PackageError: It cannot be loaded, holds weights without a module, or is a TorchScript archive.
    """
    with needing("pytorch"):
        import torch
    if _is_script(path):
        raise PackageError(
            f"source model {path}: it is TorchScript, which PyTorch has deprecated; export the module: "
            "torch.export.save(torch.export.export(module, example), 'model.pt2')"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle raises whatever its classes raise
        raise PackageError(
            f"source model {path}: PyTorch cannot load it: {in_one_line(error)}; the module's class must be importable here, "
            "or export it: torch.export.save(torch.export.export(module, example), 'model.pt2')"
        ) from error


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
