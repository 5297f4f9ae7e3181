"""Memory in which all workers of a server count, a file that each of them maps; one file a served version.

Every worker has cells of its own, so that counting needs no lock and one scrape of any worker sees the whole pod. A file
says itself what its cells mean: a worker renders what others count of a version that it never served.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from tidegate.serving.metrics.layout import Family, Layout

SUFFIX = ".cells"
KEPT_VERSIONS = 8

_CELL = 8


class _Header(msgspec.Struct, frozen=True):
    labels: dict[str, str]
    workers: int
    families: tuple[Family, ...]


class MetricsMemory:
    """The cells of all workers.

    Attributes:
        layout: What the cells count.
        workers: How many workers have cells.
        labels: What tells whose they are: of a version its model, version and revision.
    """

    def __init__(
        self, layout: Layout, workers: int, labels: Mapping[str, str] | None = None, *, cells: memoryview | None = None
    ) -> None:
        """Use `cells`, or new ones that only this process and those forked from it see."""
        self.layout = layout
        self.workers = workers
        self.labels = dict(labels or {})
        self._cells = memoryview(mmap.mmap(-1, layout.size * _CELL * workers)).cast("Q") if cells is None else cells

    @classmethod
    def open(cls, folder: Path, layout: Layout, workers: int, labels: Mapping[str, str]) -> "MetricsMemory":
        """Go on counting in the file of these labels in `folder`, or begin one.

        Of all versions ever served, the files of the last `KEPT_VERSIONS` stay.
        """
        folder.mkdir(parents=True, exist_ok=True)
        header = msgspec.json.encode(_Header(dict(labels), workers, layout.families))
        path = folder / f"{sha256(msgspec.json.encode(sorted(labels.items()))).hexdigest()[:16]}{SUFFIX}"
        memory = cls._existing(path, header)
        if memory is None:
            _create(path, header, layout.size * workers)
            memory = cls.load(path)
        os.utime(path)
        _forget_oldest(folder)
        return memory

    @classmethod
    def load(cls, path: Path) -> "MetricsMemory":
        """Map a file that `open` began."""
        with path.open("r+b") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0))
        start, header = _split(mapped)
        document = msgspec.json.decode(header, type=_Header)
        return cls(Layout(document.families), document.workers, document.labels, cells=mapped[start:].cast("Q"))

    @classmethod
    def _existing(cls, path: Path, header: bytes) -> "MetricsMemory | None":
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(_CELL), "little")
                return cls.load(path) if file.read(length) == header else None
        except FileNotFoundError:
            return None

    def slab(self, worker: int) -> memoryview:
        """Return the cells of one worker."""
        return self._cells[worker * self.layout.size : (worker + 1) * self.layout.size]

    def totals(self) -> list[int]:
        """Return the cells summed over all workers."""
        cells = np.frombuffer(self._cells, np.uint64).reshape(self.workers, self.layout.size)
        totals: list[int] = cells.sum(axis=0).tolist()
        return totals


def _split(mapped: memoryview) -> tuple[int, bytes]:
    """Return where the cells begin, and the header before them."""
    length = int.from_bytes(mapped[:_CELL], "little")
    return _CELL + _whole_cells(length), bytes(mapped[_CELL : _CELL + length])


def _whole_cells(length: int) -> int:
    return -(-length // _CELL) * _CELL


def _create(path: Path, header: bytes, cells: int) -> None:
    """Begin a file that is whole as soon as it is seen; what another worker began at the same time is taken instead."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(len(header).to_bytes(_CELL, "little") + header)
            file.truncate(_CELL + _whole_cells(len(header)) + cells * _CELL)
        try:
            os.link(draft, path)
        except FileExistsError:
            if MetricsMemory._existing(path, header) is None:
                draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _forget_oldest(folder: Path) -> None:
    with suppress(FileNotFoundError):  # another worker forgets, too
        files = sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        for path in files[:-KEPT_VERSIONS]:
            path.unlink()
