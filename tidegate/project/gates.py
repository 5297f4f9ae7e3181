"""The project file's gates: everything that stands between a trained model and users."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.config import JsonDict

from tidegate.project.misfit import misfit
from tidegate.project.types import Count, Names, Positive, Section, Share

Precision = Literal["full", "half", "int8", "pruned"]
MetricName = Literal["roc_auc", "accuracy", "log_loss", "rmse", "mae"]

_RISING: tuple[MetricName, ...] = ("roc_auc", "accuracy")  # the larger, the better; both lie between 0 and 1


class DataGate(Section):
    """What a training set must satisfy before anything is trained on it."""

    min_rows: int = Field(default=1000, ge=1)
    max_null_share: Share = Field(default=0.5, description="For every feature column not named below.")
    max_null_share_of: dict[str, Share] = Field(default_factory=dict, description="Column name to its own bound.")
    label_rate: tuple[Share, Share] = Field(default=(0.001, 0.999), description="Lowest and highest share of class 1.")
    max_duplicate_share: Share = Field(default=0.0, description="Share of rows whose id occurred before.")

    @model_validator(mode="after")
    def _label_rate_rises(self) -> Self:
        if self.label_rate[0] > self.label_rate[1]:
            raise misfit("label_rate", list(self.label_rate), "give the lowest share first, such as [0.05, 0.6]")
        return self


class Tolerance(Section):
    """How far outputs may lie from the source model's: |found - expected| <= max_absolute * size + max_relative * |expected|.

    A probability has a size of 1; of any other output it is the typical magnitude of the source model's own answers.
    """

    max_absolute: float = Field(ge=0, description="Times the output's size.")
    max_relative: float = Field(ge=0)
    max_flip_rate: Share = Field(description="Share of rows whose class changes; only a classification has any.")


class OutputTolerances(Section):
    """Tolerances of one output that differ from those of all; null means no difference.

    An output of integers, booleans or text has no error but differs or not: `max_flip_rate` is the share of rows that may.
    """

    full: Tolerance | None = None
    half: Tolerance | None = None
    int8: Tolerance | None = None
    pruned: Tolerance | None = None


class ParityGate(Section):
    """How far a variant's outputs may lie from the source model's on the golden sample, by the variant's precision."""

    full: Tolerance = Tolerance(max_absolute=1e-4, max_relative=1e-4, max_flip_rate=0.001)
    half: Tolerance = Tolerance(max_absolute=0.01, max_relative=0.01, max_flip_rate=0.01)
    int8: Tolerance = Tolerance(max_absolute=0.05, max_relative=0.05, max_flip_rate=0.02)
    pruned: Tolerance = Field(
        default=Tolerance(max_absolute=1, max_relative=0.5, max_flip_rate=0.25),
        description="Wide, since accuracy decides; where it is not judged, for want of labels, that of int8 holds instead.",
    )
    outputs: dict[str, OutputTolerances] = Field(default_factory=dict, description="By output name.")

    def tolerance(self, output: str, precision: Precision) -> Tolerance:
        """Return the tolerance of an output of a variant of that precision."""
        general: Tolerance = getattr(self, precision)
        return self._own(output, precision) or general

    def differing(self, output: str, precision: Precision) -> float:
        """Return the share of rows that may differ in an output of integers, booleans or text: none, unless `outputs` says."""
        own = self._own(output, precision)
        return own.max_flip_rate if own else 0.0

    def _own(self, output: str, precision: Precision) -> Tolerance | None:
        named = self.outputs.get(output)
        own: Tolerance | None = getattr(named, precision) if named else None
        return own


class AccuracyGate(Section):
    """How good a variant must be on the labelled holdout."""

    metric: MetricName = "roc_auc"
    minimum: Share | None = Field(default=None, description="No variant below it passes; for roc_auc and accuracy.")
    maximum: float | None = Field(default=None, ge=0, description="No variant above it passes; for log_loss, rmse and mae.")
    max_loss: float = Field(
        default=0.005,
        ge=0,
        description="Largest accepted loss against its source model; for log_loss, rmse and mae a share of the model's own.",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence that the loss lies below max_loss.")

    @model_validator(mode="after")
    def _bound_fits_the_metric(self) -> Self:
        wrong = "maximum" if self.metric in _RISING else "minimum"
        if (given := getattr(self, wrong)) is not None:
            raise misfit(wrong, given, f"{self.metric} has none; give {self.bound_name}")
        return self

    @property
    def bound_name(self) -> Literal["minimum", "maximum"]:
        """Which of the two bounds the metric has."""
        return "minimum" if self.metric in _RISING else "maximum"

    @property
    def bound(self) -> float | None:
        """The minimum or maximum, whichever the metric has; None accepts any value."""
        return self.minimum if self.metric in _RISING else self.maximum


class BenchmarkGate(Section):
    """How fast and how large a variant may be, and how that is measured."""

    max_p99_ms: Positive = Field(default=50.0, description="For one row and one caller.")
    max_size_mb: Positive | None = Field(default=None, description="Of the graph.")
    max_memory_mb: Positive | None = Field(default=None, description="That loading and running it adds to a process, at most.")
    max_load_seconds: Positive | None = Field(default=None, description="From its files to the first answer.")
    batch_sizes: tuple[Count, ...] = Field(default=(1, 64), min_length=1)
    concurrencies: tuple[Count, ...] = Field(default=(1, 2), min_length=1, description="Callers at once, at the largest batch.")
    rounds: int = Field(default=15, ge=3, description="Interleaved rounds over all surviving variants.")
    calls_per_round: int = Field(default=200, ge=10)
    max_seconds: Positive = Field(default=15.0, description="Of the whole benchmark; slow variants make fewer calls a round.")
    threads: int = Field(default=1, ge=1, description="ONNX Runtime intra-op threads of the baseline and most variants.")


class PricesSection(Section):
    """What serving costs, in any currency. The defaults are examples: put in your own."""

    core_hour: float = Field(default=0.04, ge=0)
    memory_gib_hour: float = Field(default=0.005, ge=0)
    gpu_hour: float = Field(default=2.5, ge=0)


class ChampionGate(Section):
    """What a challenger must prove against the champion on the most recent labels, which neither was trained on."""

    max_loss: float = Field(default=0.0, ge=0, description="Largest accepted loss of the metric against the champion.")
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    min_rows: int = Field(default=500, ge=10, description="Fewer labelled rows than this cannot decide; the gate fails.")


class GatesSection(Section):
    """Everything that stands between a trained model and users."""

    data: DataGate = DataGate()
    parity: ParityGate = ParityGate()
    accuracy: AccuracyGate | None = Field(default=None, description="null: the usual metric of the model's task, unbounded.")
    benchmark: BenchmarkGate = BenchmarkGate()
    champion: ChampionGate = ChampionGate()
    objective: Literal["latency", "throughput", "cost", "size"] = Field(
        default="latency", description="What the selection minimizes (or, for throughput, maximizes) among survivors."
    )
    prices: PricesSection = Field(default=PricesSection(), description="For the objective cost.")
    variants: Names | None = Field(default=None, description="Names of variants to build; null means all of the target's.")


_NEEDS_A_BOUND: JsonDict = {
    "if": {"properties": {"metric": {"const": "log_loss"}}, "required": ["metric"]},
    "then": {"required": ["maximum"]},
    "else": {"required": ["minimum"]},
}


class ProjectGates(GatesSection):
    """The gates of a project, which releases a binary classifier: its accuracy must have a bound."""

    accuracy: AccuracyGate = Field(json_schema_extra=_NEEDS_A_BOUND)

    @model_validator(mode="after")
    def _accuracy_suits_the_task(self) -> Self:
        gate = self.accuracy
        if gate.metric in ("rmse", "mae"):
            raise misfit("accuracy.metric", gate.metric, "judges a regression; use roc_auc, accuracy or log_loss")
        if gate.bound is None:
            raise misfit(f"accuracy.{gate.bound_name}")
        return self

    @model_validator(mode="after")
    def _parity_names_the_output(self) -> Self:
        for name in self.parity.outputs:
            if name != "probability":
                raise misfit(f"parity.outputs.{name}", name, "no such output; a binary classification has: probability")
        return self
