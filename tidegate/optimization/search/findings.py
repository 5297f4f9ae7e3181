"""What the gates found of one variant, step by step, and how that reads in the selection."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tidegate.optimization.benchmark.cost import price_by_round
from tidegate.optimization.benchmark.timings import Floats, Timings
from tidegate.optimization.metrics import metric
from tidegate.optimization.records import Accuracy, BuildOutcome, Footprint, SelectionRow
from tidegate.optimization.search.judgement import Judgement, Trial
from tidegate.packaging.format.manifest import MODEL_NAME, BenchmarkRow, Manifest, Verdict
from tidegate.project import PricesSection


@dataclass(slots=True)
class Findings:
    """What was found of one trial so far.

    Attributes:
        trial: The package.
        manifest: Its manifest.
        judgement: What it answered.
        lost: Why it is out without a number that says so, such as a crash; empty if it is not.
        verdicts: Of every gate it met so far.
        accuracy: Its metric on the holdout, if that was judged.
        price: Of a million rows in each round, if it was timed.
        footprint: What it takes beside time.
        benchmark: Its rows of the benchmark's table.
    """

    trial: Trial
    manifest: Manifest
    judgement: Judgement
    lost: str = field(init=False)
    verdicts: list[Verdict] = field(init=False)
    accuracy: Accuracy | None = None
    price: Floats | None = None
    footprint: Footprint = field(init=False)
    benchmark: tuple[BenchmarkRow, ...] = ()

    def __post_init__(self) -> None:
        self.lost = self.judgement.lost
        self.verdicts = list(self.judgement.verdicts)
        self.footprint = Footprint(
            size_bytes=self.manifest.files[MODEL_NAME].size,
            load_seconds=self.judgement.load_seconds,
            memory_bytes=self.judgement.memory_bytes,
        )

    @property
    def name(self) -> str:
        """What is judged, "candidate/variant"."""
        return self.trial.name

    @property
    def survives(self) -> bool:
        """Whether it has met every gate so far."""
        return not self.lost and all(verdict.passed for verdict in self.verdicts)

    @property
    def quality(self) -> float | None:
        """The accuracy, turned so that higher is better; None if it was not judged."""
        if self.accuracy is None:
            return None
        return self.accuracy.value if metric(self.accuracy.metric).higher_is_better else -self.accuracy.value

    def loss_against(self, best: "Findings") -> float:
        """Return what is lost against another's accuracy, in the accuracy gate's unit; both must have been judged."""
        loss = (best.quality or 0.0) - (self.quality or 0.0)
        is_share = best.accuracy is not None and metric(best.accuracy.metric).loss_is_share
        return loss / best.accuracy.value if best.accuracy is not None and is_share and loss else loss

    def add_timings(self, timings: Timings, prices: PricesSection) -> None:
        """Take over what the benchmark says: price, processor time, and rows of its table."""
        self.price = price_by_round(timings, self.name, prices, self.manifest.runtime, self.footprint.memory_bytes)
        self.footprint = msgspec.structs.replace(
            self.footprint,
            cpu_us_per_row=float(np.median(timings.processor_seconds_per_row(self.name, timings.bulk))) * 1e6,
            cost_per_million=float(np.median(self.price)),
        )
        if self.trial.baseline_name in timings.variants:
            self.benchmark = timings.rows(self.name, self.trial.baseline_name)

    def row(self, reasons: Mapping[str, str]) -> SelectionRow:
        """Return the row of the selection; `reasons` say why each survivor won or lost."""
        failed = next((verdict for verdict in self.verdicts if not verdict.passed), None)
        notes = (self.trial.note, self.judgement.warning)
        return SelectionRow(
            name=self.name,
            status="passed" if self.survives else "failed",
            reason=self.lost or (_in_words(failed) if failed else reasons[self.name]),
            precision=self.manifest.variant.precision,
            parameters=self.manifest.variant.parameters,
            note="; ".join(note for note in notes if note),
            parity=self.judgement.parity,
            accuracy=self.accuracy,
            footprint=self.footprint,
            verdicts=tuple(self.verdicts),
            benchmark=self.benchmark,
        )


def unbuilt_row(outcome: BuildOutcome) -> SelectionRow:
    """Return the row of a variant that could not be built."""
    refused = outcome.status == "not-applicable"
    return SelectionRow(name=outcome.name, status="not-applicable" if refused else "failed", reason=outcome.reason)


def _in_words(failed: Verdict) -> str:
    value = "no value" if failed.value is None else f"{failed.value:.4g}"
    bound = "" if failed.bound is None else f"; the bound is {failed.bound:.4g}"
    return f"{failed.gate}: {failed.measure} is {value}{bound}" + (f" ({failed.note})" if failed.note else "")
