"""The Prometheus text format (version 0.0.4) of all that a pod has counted, in one scrape."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.metrics.layout import MOST_OF_ONE_ROW, ONE_ROW_EACH, Family, Layout
from tidegate.serving.metrics.memory import KEPT_VERSIONS, SUFFIX, MetricsMemory
from tidegate.serving.metrics.names import (
    BATCH_BOUNDS,
    BATCH_REQUESTS,
    BATCH_ROWS,
    LATENCY,
    LATENCY_BOUNDS,
    METRICS,
    PROCESS_METRICS,
    PROVIDER_FALLBACK,
    REQUESTS,
)
from tidegate.serving.metrics.process import look_at

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Scrape:
    """Answers scrapes: of every version whose file lies in a folder, and of the workers.

    >>> scrape = Scrape(folder, board)                                                           # doctest: +SKIP
    >>> scrape()                                                                                 # doctest: +SKIP
    b'# HELP tidegate_requests_total Inference requests by HTTP status.…'
    """

    def __init__(self, folder: Path, board: WorkerBoard) -> None:
        """Watch `folder`, in which `MetricsMemory.open` makes files; what is mapped stays, whatever becomes of it."""
        self._folder = folder
        self._board = board
        self._known: dict[str, tuple[int, _Rendering]] = {}  # inode and lines, by file name
        self._workers = _Rendering(board.memory)
        self._look()

    def __call__(self) -> bytes:
        """Return all metrics as they are now."""
        self._look()
        renderings = [*(rendering for _, rendering in self._known.values()), self._workers]
        return _document(renderings, _process_lines(self._board))

    def _look(self) -> None:
        """Take up new files, and leave out those forgotten for newer ones: none else, since cleaners of /tmp know no better."""
        there = set()
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError):  # forgotten at this moment
                status = path.stat()
                os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))  # in use, as cleaners understand it
                if self._known.get(path.name, (0,))[0] != status.st_ino:
                    self._known[path.name] = (status.st_ino, _Rendering(MetricsMemory.load(path)))
                there.add(path.name)
        for name in list(self._known)[: max(0, len(self._known) - KEPT_VERSIONS)]:
            if name not in there:
                del self._known[name]


def render(memory: MetricsMemory) -> bytes:
    """Return the metrics of one version."""
    return _document([_Rendering(memory)], {})


def _document(renderings: Sequence["_Rendering"], samples: Mapping[str, str]) -> bytes:
    parts: dict[str, list[str]] = {name: [lines] for name, lines in samples.items()}
    for rendering in renderings:
        rendering.add_to(parts)
    return "".join(f"{_HEADS[name]}{''.join(parts[name])}" for name in METRICS if name in parts).encode()


_HEADS = {name: f"# HELP {name} {metric.purpose}\n# TYPE {name} {metric.kind}\n" for name, metric in METRICS.items()}


def _process_lines(board: WorkerBoard) -> dict[str, str]:
    common, lines = _labels_text(board.memory.labels), dict.fromkeys(PROCESS_METRICS, "")
    for worker, process in board.processes():
        for name, value in look_at(process).items():
            lines[name] += f"{name}{{{_joined(common, 'worker', str(worker))}}} {value:.17g}\n"
    return lines


class _Rendering:
    """One memory's lines, of which only the numbers change from scrape to scrape."""

    def __init__(self, memory: MetricsMemory) -> None:
        self._memory = memory
        common = _labels_text(memory.labels)
        self._shown = [(family, _template(family, common)) for family in memory.layout.families if family.metric in METRICS]

    def add_to(self, parts: dict[str, list[str]]) -> None:
        """Add the lines of each metric."""
        cells, at = self._memory.totals(), self._memory.layout.at
        if ONE_ROW_EACH in at:
            _complete(cells, self._memory.layout)
        for family, template in self._shown:
            first = at[family.metric]
            numbers = cells[first : first + family.size]
            parts.setdefault(family.metric, []).append(template % tuple(_histogram(family, numbers) or numbers))


def _complete(cells: list[int], layout: Layout) -> None:
    """Fill in what was counted in other cells: a latency counts an answer, too, and a run of one-row requests two sizes."""
    at = layout.at
    cells[layout.cells(REQUESTS)["200"]] = sum(cells[at[LATENCY] : at[LATENCY] + len(LATENCY_BOUNDS) + 1])
    runs = cells[at[ONE_ROW_EACH] : at[ONE_ROW_EACH] + MOST_OF_ONE_ROW]
    for histogram in (at[BATCH_ROWS], at[BATCH_REQUESTS]):
        for size, count in enumerate(runs, start=1):
            cells[histogram + (size - 1).bit_length()] += count
            cells[histogram + len(BATCH_BOUNDS) + 1] += count * size
    cells[at[PROVIDER_FALLBACK]] = min(1, cells[at[PROVIDER_FALLBACK]])


def _histogram(family: Family, cells: Sequence[int]) -> list[float]:
    """Return a histogram's cumulative buckets, sum and count; nothing of any other metric."""
    if not family.is_histogram:
        return []
    cumulative = list(accumulate(cells[:-1]))
    return [*cumulative, cells[-1] * METRICS[family.metric].unit, cumulative[-1]]


def _template(family: Family, common: str) -> str:
    """Return a metric's lines with a place for each number."""
    name, common = family.metric, common.replace("%", "%%")
    if family.is_histogram:
        buckets = [f"{name}_bucket{{{_joined(common, 'le', bound)}}} %d\n" for bound in (*family.values, "+Inf")]
        return "".join((*buckets, f"{name}_sum{{{common}}} %.9g\n", f"{name}_count{{{common}}} %d\n"))
    label = "".join(METRICS[name].labels)
    return "".join(
        f"{name}{{{_joined(common, label, _escaped(value).replace('%', '%%')) if value else common}}} %d\n"
        for value in family.values
    )


def _joined(common: str, label: str, value: str) -> str:
    return f'{common},{label}="{value}"' if common else f'{label}="{value}"'


def _labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as they stand between braces."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
