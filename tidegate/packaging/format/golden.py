"""The golden sample: rows with the outputs they must give, replayed before a server reports ready."""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.plain_files import open_plain

MOST_BYTES = 2 << 30  # of all arrays together, unpacked
_INPUT, _OUTPUT = "input:", "output:"
_LARGEST_DIRECTORY = 4 << 20
_END_RECORD = 22  # bytes of a zip archive's last record; NumPy writes no comment after it
_LAST_RECORDS = 20 + _END_RECORD  # before it lies a locator of 20 bytes if the archive is of the format for more than 4 GB


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
    """Read `golden.npz` at `path`; raises PackageError if it is not one, or claims to be larger than any golden sample."""
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, np.ndarray] = {}
    with _opened(path) as archive:
        for member in archive.infolist():
            kind, _, name = member.filename.removesuffix(".npy").partition(":")
            (inputs if kind == "input" else outputs)[name] = _with_objects(_read_array(archive, member))
    return Golden(inputs, outputs)


def check_golden(path: Path) -> None:
    """Raise PackageError unless `golden.npz` at `path` can be read within bounds; no array is unpacked for it."""
    with _opened(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                _read_header(stream, member)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_plain(path) as stream:
            _check_directory(stream)
            with zipfile.ZipFile(stream) as archive:
                _check_members(archive.infolist())
                yield archive
    except PackageError:
        raise
    except Exception as error:  # a garbled archive can fail anywhere in zipfile, zlib or NumPy, each with errors of its own
        told = in_one_line(error)
        raise PackageError(f"golden sample {path}: not readable: {told}; package again") from error


def _check_directory(stream: BinaryIO) -> None:
    """Bound the archive's table of contents, which zipfile reads whole: so many bytes, as the last record says."""
    stream.seek(-min(_LAST_RECORDS, stream.seek(0, os.SEEK_END)), os.SEEK_END)
    records = stream.read()
    locator, end = records[:-_END_RECORD], records[-_END_RECORD:]
    if not end.startswith(b"PK\x05\x06") or locator.startswith(b"PK\x06\x07"):
        raise ValueError("it is no archive of NumPy arrays")
    size = int.from_bytes(end[12:16], "little")
    if size > _LARGEST_DIRECTORY:
        raise ValueError(f"its table of contents has {size} bytes, at most {_LARGEST_DIRECTORY} are read")


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise ValueError("an array is in it twice")
    total = sum(member.file_size for member in members)
    if total > MOST_BYTES:
        raise ValueError(f"its arrays have {total} bytes, at most {MOST_BYTES} are read")
    for member in members:
        if not member.filename.startswith((_INPUT, _OUTPUT)) or not member.filename.endswith(".npy"):
            raise ValueError(f"{member.filename[:80]!r} is no array of a golden sample")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename[:80]!r} is packed in a way that NumPy does not use")


def _read_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        shape, columns_first, dtype = _read_header(stream, member)
        content = bytearray(stream.read())
    return np.ndarray(shape, dtype, buffer=content, order="F" if columns_first else "C")


def _read_header(stream: IO[bytes], member: zipfile.ZipInfo) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's shape and type, which must account for every byte that follows: NumPy itself would allocate first."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{member.filename[:80]!r} has version {version} of NumPy's format")
    shape, columns_first, dtype = read(stream)
    if dtype.kind not in "biufU" or any(size < 0 for size in shape):
        raise ValueError(f"{member.filename[:80]!r} holds {dtype} of shape {shape}, which no tensor is")
    found = member.file_size - stream.tell()
    if math.prod(shape) * dtype.itemsize != found:
        raise ValueError(f"{member.filename[:80]!r} holds {found} bytes, its shape {shape} and type {dtype} say otherwise")
    return shape, columns_first, dtype


def _without_objects(array: np.ndarray) -> np.ndarray:
    return array.astype("U") if array.dtype == object else array


def _with_objects(array: np.ndarray) -> np.ndarray:
    return array.astype(object) if array.dtype.kind == "U" else array
