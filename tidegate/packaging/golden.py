"""The golden sample: rows with the outputs they must give, replayed before a server reports ready."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tidegate.errors import PackageError

_INPUT, _OUTPUT = "input:", "output:"


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs in the signature's shapes (strings as object arrays of str), and the outputs expected of them."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        """How many rows the sample holds."""
        return len(next(iter(self.inputs.values()), ()))


def golden_bytes(golden: Golden) -> bytes:
    """Return the bytes of `golden.npz`: the same sample gives the same bytes, and no pickle is in them."""
    arrays = {f"{_INPUT}{name}": _without_objects(array) for name, array in golden.inputs.items()}
    arrays |= {f"{_OUTPUT}{name}": _without_objects(array) for name, array in golden.outputs.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_golden(path: Path) -> Golden:
    """Read `golden.npz` at `path`; raises PackageError if it is not one."""
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                kind, _, name = key.partition(":")
                {"input": inputs, "output": outputs}[kind][name] = _with_objects(archive[key])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise PackageError(f"golden sample {path}: not readable: {' '.join(str(error).split())}; package again") from error
    return Golden(inputs, outputs)


def _without_objects(array: np.ndarray) -> np.ndarray:
    return array.astype("U") if array.dtype == object else array


def _with_objects(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "U" else array
