"""One package under measurement, in a process of its own: it is loaded, answers, and is timed on command."""

import gc
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidegate.errors import PackageError
from tidegate.optimization.benchmark.timings import Floats, Load, Turn
from tidegate.optimization.gates.parity import Replay, replay_golden
from tidegate.optimization.isolation.memory import forget_peak, peak_bytes, resident_bytes
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.running.inference import PackageModel
from tidegate.packaging.running.session import Array
from tidegate.packaging.sample import sample_rows

_BATCHES_IN_TURN = 16
_WARM_UP_CALLS = 20
_WARM_UP_SECONDS = 0.1
_BRIEF_SECONDS = 1.0

Feeds = list[dict[str, Array]]


@dataclass(frozen=True, slots=True)
class Opening:
    """What it took to open a package: seconds from its files to the first answer, and memory at most (None: not known here)."""

    load_seconds: float
    memory_bytes: int | None
    warning: str | None


class Subject:
    """A package, and the rows it is asked about."""

    def __init__(self, package: Path, rows: Path, seed: int) -> None:
        """Prepare to open the package at `package` and to draw batches from the Arrow file `rows` with the seed."""
        self._package = package
        self._rows_file = rows
        self._seed = seed
        self._model: PackageModel | None = None
        self._feeds: dict[int, Feeds] = {}

    def open(self, batch: int) -> Opening:
        """Load the package, answer one row and then `batch` rows; raises PackageError as `PackageModel` does."""
        specs = read_manifest(self._package).signature.inputs
        rows = input_arrays(sample_rows(self._rows(), batch, self._seed), specs)
        before = resident_bytes()
        forget_peak()
        load_seconds = self._load(rows)
        self._opened.graph.run(_repeated(rows, batch))
        peak = peak_bytes()
        if load_seconds < _BRIEF_SECONDS:  # the first of a search's subjects finds the disk cold, the others do not
            load_seconds = min(load_seconds, self._load(rows))
        memory = None if before is None or peak is None else max(0, peak - before)
        return Opening(load_seconds, memory, self._opened.graph.warning)

    def _load(self, rows: Mapping[str, Array]) -> float:
        """Load the package as a server does; return the seconds until it has answered the first of the rows."""
        started = time.perf_counter()
        self._model = PackageModel(self._package, spinning=False)
        self._model.graph.run({name: array[:1] for name, array in rows.items()})
        return time.perf_counter() - started

    def replay(self, golden: Path) -> Replay:
        """Answer the golden sample at `golden`, whole, alone and in odd batches."""
        return replay_golden(self._opened.graph.run, read_golden(golden))

    def predict(self) -> np.ndarray:
        """Return the task's score of every row of the file."""
        return self._opened.predict(self._rows())

    def warm_up(self, load: Load) -> float:
        """Call until nothing is slow for being the first time; return the seconds of a call then."""
        fastest, until = np.inf, time.perf_counter() + _WARM_UP_SECONDS
        for _ in range(_WARM_UP_CALLS):
            fastest = min(fastest, float(self._turn(load, 1).calls.max()))
            if time.perf_counter() > until:
                break
        return fastest

    def turn(self, load: Load, calls: int) -> Turn:
        """Time `calls` calls of every caller. Garbage is not collected meanwhile."""
        with _without_garbage_collection():
            self._turn(load, 1)  # the caches are cold after the others' turns
            return self._turn(load, calls)

    def _turn(self, load: Load, calls: int) -> Turn:
        feeds = self._feeds.setdefault(load.batch, []) or self._make_feeds(load.batch)
        seconds = np.empty((load.callers, calls))
        cpu, started = time.process_time(), time.perf_counter()
        if load.callers == 1:
            self._call(feeds, seconds[0])
        else:
            started = self._call_together(feeds, seconds)
        return Turn(seconds.ravel(), time.perf_counter() - started, time.process_time() - cpu)

    def _call(self, feeds: Feeds, into: Floats) -> None:
        run, clock, count = self._opened.graph.run, time.perf_counter, len(feeds)
        for call in range(len(into)):
            feed = feeds[call % count]
            start = clock()
            run(feed)
            into[call] = clock() - start

    def _call_together(self, feeds: Feeds, into: Floats) -> float:
        """Call from several threads; return when they began, all at once."""
        together = threading.Barrier(len(into) + 1)

        def caller(row: Floats) -> None:
            together.wait()
            self._call(feeds, row)

        threads = [threading.Thread(target=caller, args=[row]) for row in into]
        for thread in threads:
            thread.start()
        together.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        return started

    def _make_feeds(self, batch: int) -> Feeds:
        drawn = sample_rows(self._rows(), batch * _BATCHES_IN_TURN, self._seed)
        arrays = _repeated(input_arrays(drawn, self._opened.manifest.signature.inputs), batch * _BATCHES_IN_TURN)
        self._feeds[batch] = [
            {name: np.ascontiguousarray(array[start : start + batch]) for name, array in arrays.items()}
            for start in range(0, batch * _BATCHES_IN_TURN, batch)
        ]
        return self._feeds[batch]

    def _rows(self) -> pa.Table:
        return pa.ipc.open_file(pa.memory_map(str(self._rows_file))).read_all()

    @property
    def _opened(self) -> PackageModel:
        if self._model is None:
            raise PackageError(f"package {self._package}: not opened yet")
        return self._model


def write_rows(rows: pa.Table, to: Path) -> Path:
    """Write the rows of a search as the Arrow file that every subject maps into its memory."""
    with pa.ipc.new_file(str(to), rows.schema) as writer:
        writer.write_table(rows)
    return to


def _repeated(arrays: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: array[np.arange(count) % len(array)] for name, array in arrays.items()}


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
