"""What a search writes down: how each build ended, and how the selection was made."""

from pathlib import Path
from typing import Literal

import msgspec

from tidegate.packaging.manifest import BenchmarkRow, Verdict

OUTCOME_NAME = "outcome.json"
SELECTION_NAME = "selection.json"
PACKAGE_FOLDER = "package"


class BuildOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the build of one variant ended; `reason` says why there is none."""

    name: str  # "candidate/variant"
    status: Literal["built", "not-applicable", "failed"]
    reason: str = ""
    seconds: float = 0.0

    @property
    def built(self) -> bool:
        """Whether there is a package."""
        return self.status == "built"


class SelectionRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the search found of one variant, and why it won or lost. A number is None if it was not measured.

    `passed` means that every gate was met; one of those is the winner. `size` is the graph's, in bytes.
    """

    name: str  # "candidate/variant"
    status: Literal["passed", "failed", "not-applicable"]
    reason: str
    reduced_precision: bool = False
    auc: float | None = None
    auc_low: float | None = None
    auc_high: float | None = None
    max_absolute: float | None = None
    flip_rate: float | None = None
    size: int | None = None
    verdicts: tuple[Verdict, ...] = ()
    benchmark: tuple[BenchmarkRow, ...] = ()

    def speed(self, batch: int = 1) -> BenchmarkRow | None:
        """Return the variant's speed at a batch size, if it was measured."""
        return next((row for row in self.benchmark if row.batch == batch), None)


class Selection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `selection.json`. `winner` is "candidate/variant", or None if no variant survived; `reason` says why."""

    winner: str | None
    reason: str
    objective: Literal["latency", "throughput", "size"]
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


def write_record(path: Path, record: BuildOutcome | Selection) -> None:
    """Write a record as JSON, atomically."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    fresh.replace(path)
