"""The sections of the project file that describe a model, from its features to its monitoring."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tidegate.project.patterns import FUNCTION
from tidegate.project.types import Classes, Names, Positive, Seconds, Section, Share, Text, WholeDays


class FeaturesSection(Section):
    """Where the features come from and which rows are examples of the task."""

    repository: Text = Field(description="The Feast repository, a folder with feature_store.yaml.")
    service: Text = Field(description="The Feast feature service whose features the model reads.")
    entity_rows: Text = Field(description="Parquet file of examples: entity keys, event timestamp, request inputs, label.")
    timestamp_column: Text = Field(default="event_timestamp", description="When the prediction is (was) asked for, UTC.")
    id_column: Text = Field(description="Names one example; predictions and late labels join on it.")
    request_inputs: Names = Field(description="Columns that the caller sends and the model reads, besides looked-up features.")


class LabelSection(Section):
    """What is predicted, and when its truth is known."""

    column: Text = Field(description="0/1 column of the entity rows; null while unknown.")
    known_at_column: Text = Field(description="When the label became known, UTC; null if it never did.")
    classes: Classes = Field(default=("0", "1"), description="Names of class 0 and class 1.")


class TrainingSection(Section):
    """The user's train function and the data it sees."""

    function: str = Field(pattern=FUNCTION, description="module:function, importable from the project file's folder.")
    window_days: WholeDays = Field(description="Examples are taken from this many days before the training time.")
    holdout_days: WholeDays = Field(description="The last days of the window: kept from training, used by the gates.")
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict, description="Passed to the function.")
    seed: int = Field(default=0, description="Passed to the function and used for every sampling.")

    @model_validator(mode="after")
    def _holdout_lies_inside_window(self) -> Self:
        if self.holdout_days >= self.window_days:
            raise ValueError(f"holdout_days ({self.holdout_days}) must be less than window_days ({self.window_days})")
        return self


class RolloutSection(Section):
    """How traffic shifts to a canary, and what the judge tolerates."""

    strategy: Literal["canary", "replace"] = Field(
        default="canary",
        description="replace: the new version takes the old one's place at once, unjudged, without capacity for both.",
    )
    steps: tuple[int, ...] = Field(default=(5, 25, 50, 100), min_length=1, description="Canary percentages, rising to 100.")
    look_seconds: Seconds = Field(default=10.0, description="Time between two looks of the judge.")
    min_requests: int = Field(default=200, ge=1, description="Canary requests a step needs before it can be passed.")
    max_step_seconds: Seconds = Field(default=600.0, description="A step that stays undecided this long is rolled back.")
    max_error_increase: Share = Field(default=0.01, description="Canary error rate may exceed the stable's by this much.")
    max_latency_ratio: float = Field(default=1.5, ge=1, description="Canary p95 may exceed the stable's by this factor.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of the whole rollout, over all its looks.")
    ready_seconds: Seconds = Field(default=120.0, description="A canary not ready within this time is rolled back.")

    @model_validator(mode="after")
    def _steps_rise_to_100(self) -> Self:
        rising = all(before < after for before, after in zip(self.steps, self.steps[1:], strict=False))
        if not rising or self.steps[0] < 1 or self.steps[-1] != 100:
            raise ValueError(f"steps {list(self.steps)} must rise from at least 1 to exactly 100, such as [5, 25, 50, 100]")
        return self


class DriftPolicySection(Section):
    """Hysteresis, cooldown and retrain budget: drift reports become at most one retraining."""

    drifted_windows: int = Field(default=2, ge=1, description="k: so many of the last n windows must have drifted.")
    of_windows: int = Field(default=3, ge=1, description="n.")
    cooldown_days: float = Field(default=30, ge=0, le=36_500, description="Event time after a retraining without another.")
    budget: int = Field(default=4, ge=0, description="Retrainings allowed within budget_days.")
    budget_days: float = Field(default=365.0, gt=0, le=36_500, description="Event time over which the budget counts.")

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.drifted_windows > self.of_windows:
            raise ValueError(f"drifted_windows ({self.drifted_windows}) must not exceed of_windows ({self.of_windows})")
        return self


class MonitoringSection(Section):
    """What is compared with the reference, how often, and what follows."""

    window_days: float = Field(default=14, gt=0, le=36_500, description="Length of a current window, event time.")
    label_delay_hours: float = Field(default=24, ge=0, le=876_000, description="How long after a window labels are waited for.")
    min_rows: int = Field(default=500, ge=1, description="A window with fewer rows is reported, but never counts as drifted.")
    psi_threshold: Positive = Field(default=0.2, description="Population stability index from which a column has drifted.")
    drifted_share: Share = Field(default=0.3, description="Share of drifted input columns from which the data has drifted.")
    prediction_psi_threshold: Positive = Field(default=0.2, description="The same for the predicted probability.")
    max_metric_loss: float = Field(default=0.03, ge=0, description="Loss of the accuracy metric that is concept drift.")
    columns: Names | None = Field(default=None, description="Columns to watch; null means every model input.")
    policy: DriftPolicySection = DriftPolicySection()
