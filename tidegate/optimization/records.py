"""What a search writes down: how each build ended, and how the selection was made."""

from pathlib import Path
from typing import Literal

import msgspec

from tidegate.packaging.format.manifest import BenchmarkRow, Precision, Scalar, Verdict

OUTCOME_NAME = "outcome.json"
SELECTION_NAME = "selection.json"
PACKAGE_FOLDER = "package"

Objective = Literal["latency", "throughput", "cost", "size"]


def candidate_of(name: str) -> str:
    """Return the candidate that "candidate/variant" is of."""
    return name.partition("/")[0]


def variant_of(name: str) -> str:
    """Return the variant that "candidate/variant" is, of whichever candidate."""
    return name.partition("/")[2]


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class BuildOutcome(_Record, frozen=True, kw_only=True):
    """How the build of one variant ended; `reason` says why there is none, `note` what its builder found out."""

    name: str  # "candidate/variant"
    status: Literal["built", "not-applicable", "failed"]
    reason: str = ""
    note: str = ""
    seconds: float = 0.0

    @property
    def built(self) -> bool:
        """Whether there is a package."""
        return self.status == "built"


class OutputParity(_Record, frozen=True, kw_only=True):
    """How far one output lies from the source model's over all golden rows, whole, alone and in odd batches.

    `of_tolerance` is the largest difference as a share of what the gate allows there; None where one output is no number and
    the other is, and of outputs that are compared exactly (`differing`) or not at all (`problem`).
    """

    output: str
    max_absolute: float | None
    max_relative: float | None
    of_tolerance: float | None
    flip_rate: float | None = None  # share of rows whose class changes; None unless it is a classification's score
    differing: float | None = None  # share of rows that differ; only of an output of integers, booleans or text
    worst: str = ""  # the golden row that lies farthest off, in words; empty if none is off
    problem: str = ""  # why the output cannot be compared at all, such as another shape
    size: float = 1.0  # what `max_absolute` of the gate is a share of: a typical magnitude of the output, 1 of a probability


class Accuracy(_Record, frozen=True, kw_only=True):
    """A variant's metric with its two-sided interval, and its loss against the baseline with the one-sided upper bound."""

    metric: str
    value: float
    low: float
    high: float
    loss: float
    loss_bound: float
    rows: int
    rows_needed: int = 0  # to see, with the gate's confidence, a loss as small as it accepts; 0 for the baseline itself


class Footprint(_Record, frozen=True, kw_only=True):
    """What a variant takes beside time: the graph's bytes, seconds to load, memory and processor time."""

    size_bytes: int
    load_seconds: float | None = None  # from its files to the first answer
    memory_bytes: int | None = None  # that loading and running it added to its process, at most
    cpu_us_per_row: float | None = None  # processor time at the largest batch
    cost_per_million: float | None = None  # rows, at the gates' prices


class SelectionRow(_Record, frozen=True, kw_only=True):
    """What the search found of one variant, and why it won or lost. What is None was not measured.

    `passed` means that every gate was met; one of those is the winner.
    """

    name: str  # "candidate/variant"
    status: Literal["passed", "failed", "not-applicable"]
    reason: str
    precision: Precision = "full"
    parameters: dict[str, Scalar] = {}
    note: str = ""
    parity: tuple[OutputParity, ...] = ()
    accuracy: Accuracy | None = None
    footprint: Footprint | None = None
    verdicts: tuple[Verdict, ...] = ()
    benchmark: tuple[BenchmarkRow, ...] = ()

    def speed(self, batch: int = 1) -> BenchmarkRow | None:
        """Return the variant's speed at a batch size and one caller, if it was measured."""
        return next((row for row in self.benchmark if row.batch == batch and row.concurrency == 1), None)


class Selection(_Record, frozen=True, kw_only=True):
    """The whole of `selection.json`. `winner` is "candidate/variant", or None if no variant survived; `reason` says why."""

    winner: str | None
    reason: str
    objective: Objective
    rows: tuple[SelectionRow, ...]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Every verdict of every variant."""
        return tuple(verdict for row in self.rows for verdict in row.verdicts)

    @property
    def benchmark(self) -> tuple[BenchmarkRow, ...]:
        """The speed of every variant that was timed."""
        return tuple(entry for row in self.rows for entry in row.benchmark)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each variant that failed did so, as "candidate/variant: reason"."""
        return tuple(f"{row.name}: {row.reason}" for row in self.rows if row.status == "failed")

    def row(self, name: str) -> SelectionRow:
        """Return what was found of the variant called `name`."""
        return next(row for row in self.rows if row.name == name)


def write_record(path: Path, record: msgspec.Struct) -> None:
    """Write a record as JSON, atomically."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    fresh.replace(path)
