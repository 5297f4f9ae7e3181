"""The project file: one typed, strict `tidegate.yaml` that describes a model from its features to its monitoring.

    project = load_project("examples/flights/tidegate.yaml")
    project.name                      # 'flights-late'
    project.paths.workspace           # absolute; everything Tidegate writes on one machine lies below it

Relative paths in the file are relative to the file. A mistake is one clear line that names the field, the value and what
is allowed. `tidegate project schema` prints the JSON Schema for editors.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from tidegate.errors import ProjectError
from tidegate.strict_yaml import read_strict_yaml


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} is given twice; name each once")
    return names


def _known_address(address: str) -> str:
    if "://" in address and not address.startswith(("s3://", "file:///")):
        raise ValueError("is not an address of a store; use a folder, 'file:///absolute/path' or 's3://bucket/prefix'")
    return address


Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=45)]
_SHOWN_CHARACTERS = 80
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=604_800)]
WholeDays = Annotated[int, Field(ge=1, le=36_500)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
Classes = Annotated[tuple[Text, Text], AfterValidator(_distinct)]
StoreAddress = Annotated[Text, AfterValidator(_known_address)]
Names = Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(_distinct)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FeaturesSection(_Section):
    """Where the features come from and which rows are examples of the task."""

    repository: Text = Field(description="The Feast repository, a folder with feature_store.yaml.")
    service: Text = Field(description="The Feast feature service whose features the model reads.")
    entity_rows: Text = Field(description="Parquet file of examples: entity keys, event timestamp, request inputs, label.")
    timestamp_column: Text = Field(default="event_timestamp", description="When the prediction is (was) asked for, UTC.")
    id_column: Text = Field(description="Names one example; predictions and late labels join on it.")
    request_inputs: Names = Field(description="Columns that the caller sends and the model reads, besides looked-up features.")


class LabelSection(_Section):
    """What is predicted, and when its truth is known."""

    column: Text = Field(description="0/1 column of the entity rows; null while unknown.")
    known_at_column: Text = Field(description="When the label became known, UTC; null if it never did.")
    classes: Annotated[tuple[Text, Text], AfterValidator(_distinct)] = Field(
        default=("0", "1"), description="Names of class 0 and class 1."
    )


class TrainingSection(_Section):
    """The user's train function and the data it sees."""

    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function, importable from the project file's folder."
    )
    window_days: WholeDays = Field(description="Examples are taken from this many days before the training time.")
    holdout_days: WholeDays = Field(description="The last days of the window: kept from training, used by the gates.")
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict, description="Passed to the function.")
    seed: int = Field(default=0, description="Passed to the function and used for every sampling.")

    @model_validator(mode="after")
    def _holdout_lies_inside_window(self) -> Self:
        if self.holdout_days >= self.window_days:
            raise ValueError(f"holdout_days ({self.holdout_days}) must be less than window_days ({self.window_days})")
        return self


class DataGate(_Section):
    """What a training set must satisfy before anything is trained on it."""

    min_rows: int = Field(default=1000, ge=1)
    max_null_share: Share = Field(default=0.5, description="For every feature column not named below.")
    max_null_share_of: dict[str, Share] = Field(default_factory=dict, description="Column name to its own bound.")
    label_rate: tuple[Share, Share] = Field(default=(0.001, 0.999), description="Lowest and highest share of class 1.")
    max_duplicate_share: Share = Field(default=0.0, description="Share of rows whose id occurred before.")


class ParityGate(_Section):
    """How far a variant's outputs may lie from the source model's on the golden sample."""

    max_absolute: Positive = Field(default=1e-4, description="For full-precision variants.")
    max_absolute_reduced: Positive = Field(default=0.05, description="For variants that reduce precision (fp16, int8).")
    max_flip_rate: Share = Field(default=0.001, description="Share of rows whose class changes, full precision.")
    max_flip_rate_reduced: Share = Field(default=0.02, description="The same, reduced precision.")


class AccuracyGate(_Section):
    """How good a variant must be on the labelled holdout."""

    metric: Literal["roc_auc"] = "roc_auc"
    minimum: float = Field(ge=0, le=1, description="No variant below it passes.")
    max_loss: float = Field(default=0.005, ge=0, description="Largest accepted loss against its source model.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Confidence that the loss lies below max_loss.")


class BenchmarkGate(_Section):
    """How fast a variant must be, and how that is measured."""

    max_p99_ms: Positive = Field(default=50.0, description="For one row.")
    batch_sizes: tuple[int, ...] = Field(default=(1, 64), min_length=1)
    rounds: int = Field(default=15, ge=3, description="Interleaved rounds over all surviving variants.")
    calls_per_round: int = Field(default=200, ge=10)
    threads: int = Field(default=1, ge=1, description="ONNX Runtime intra-op threads.")


class ChampionGate(_Section):
    """What a challenger must prove against the champion on the most recent labels, which neither was trained on."""

    max_loss: float = Field(default=0.0, ge=0, description="Largest accepted loss of the metric against the champion.")
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    min_rows: int = Field(default=500, ge=10, description="Fewer labelled rows than this cannot decide; the gate fails.")


class GatesSection(_Section):
    """Everything that stands between a trained model and users."""

    data: DataGate = DataGate()
    parity: ParityGate = ParityGate()
    accuracy: AccuracyGate
    benchmark: BenchmarkGate = BenchmarkGate()
    champion: ChampionGate = ChampionGate()
    objective: Literal["latency", "throughput", "size"] = Field(
        default="latency", description="What the selection minimizes (or, for throughput, maximizes) among survivors."
    )
    variants: Names | None = Field(default=None, description="Names of variants to build; null means all.")


class InferenceLogSection(_Section):
    """How predictions are written down."""

    rotate_rows: int = Field(default=5000, ge=1, description="A Parquet file is closed after this many rows.")
    rotate_seconds: Seconds = Field(default=5.0, description="... or after this time.")
    queue_rows: int = Field(default=50_000, ge=1, description="Rows waiting to be written; more are dropped and counted.")


class ServingSection(_Section):
    """The model server."""

    workers: int = Field(default=1, ge=1, le=64)
    max_rows: int = Field(default=1024, ge=1, description="Rows in one request.")
    max_body_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    threshold: Share = Field(default=0.5, description="Probability from which class 1 is answered.")
    log: InferenceLogSection = InferenceLogSection()


class RolloutSection(_Section):
    """How traffic shifts to a canary, and what the judge tolerates."""

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


class DriftPolicySection(_Section):
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


class MonitoringSection(_Section):
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


@dataclass(frozen=True, slots=True)
class ProjectPaths:
    """The project's places on this machine, absolute."""

    root: Path
    workspace: Path
    repository: Path
    entity_rows: Path


class Project(_Section):
    """A whole project file."""

    schema_version: Literal[1]
    name: Name = Field(description="Names the model, its InferenceService and its pipelines.")
    description: str = ""
    task: Literal["binary-classification"]
    workspace: Text = Field(default=".tidegate", description="Folder for everything Tidegate writes on one machine.")
    store: StoreAddress | None = Field(
        default=None, description="Object store, a folder or s3://…; null means WORKSPACE/store."
    )
    features: FeaturesSection
    label: LabelSection
    training: TrainingSection
    gates: GatesSection
    serving: ServingSection = ServingSection()
    rollout: RolloutSection = RolloutSection()
    monitoring: MonitoringSection = MonitoringSection()

    _file: Path = PrivateAttr(default=Path("tidegate.yaml"))
    _digest: str = PrivateAttr(default="")

    @property
    def file(self) -> Path:
        """Where the project file lies, absolute."""
        return self._file

    @property
    def digest(self) -> str:
        """`sha256:…` of the project file's bytes."""
        return self._digest

    @property
    def paths(self) -> ProjectPaths:
        """Every path of the file, resolved against the folder it lies in."""
        root = self._file.parent
        return ProjectPaths(
            root=root,
            workspace=(root / self.workspace).resolve(),
            repository=(root / self.features.repository).resolve(),
            entity_rows=(root / self.features.entity_rows).resolve(),
        )

    @property
    def store_uri(self) -> str:
        """The object store's address."""
        if self.store is None:
            return f"file://{self.paths.workspace / 'store'}"
        if "://" in self.store:
            return self.store
        return f"file://{(self._file.parent / self.store).resolve()}"


def load_project(path: str | Path, *, digest: str | None = None) -> Project:
    """Read and check the project file at `path`.

    Args:
        path: The file, usually `tidegate.yaml`.
        digest: If given, the `sha256:…` that the file's bytes must have.

    Raises:
        ProjectError: The file is missing, is not YAML, has another digest, or holds a mistake; the message names the
            field, the value and what is allowed.
    """
    try:
        file = Path(path).resolve()
        raw = file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(path, getattr(error, "strerror", None) or error) from error
    found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    if digest is not None and digest != found:
        raise _refusal(path, f"its digest is {found}, but {digest} was asked for; use the same file")
    try:
        document = read_strict_yaml(raw)
    except ValueError as error:
        raise _refusal(path, f"not YAML: {error}") from error
    if not isinstance(document, dict):
        raise _refusal(path, f"expected fields at the top, found {type(document).__name__}")
    try:
        # Through JSON, since pydantic's strictness takes a list for a tuple only there.
        project = Project.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise _refusal(path, _explain(error)) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(path, error) from error
    project._file = file
    project._digest = found
    return project


def project_schema() -> dict[str, Any]:
    """Return the project file's JSON Schema, for editors."""
    schema = Project.model_json_schema()
    schema["title"] = "Tidegate project file"
    return schema


def _refusal(path: str | Path, reason: object) -> ProjectError:
    message = " ".join(f"project file {path}: {reason}".split())
    return ProjectError("".join(character if character.isprintable() else ascii(character)[1:-1] for character in message))


def _explain(error: ValidationError) -> str:
    problems = dict.fromkeys(_explain_one(detail) for detail in error.errors(include_url=False))
    return "; ".join(problems)


def _explain_one(detail: Any) -> str:
    location, kind, message = detail["loc"], detail["type"], detail["msg"]
    if location[:2] == ("training", "parameters") and len(location) == 4:
        location, message = location[:3], "must be a bool, int, float or text"
    field = ".".join(str(part) for part in location) or "(file)"
    if kind == "missing":
        return f"{field}: required, but not given"
    if kind == "extra_forbidden":
        return f"{field}: no such field ({_allowed_fields(location[:-1])})"
    if kind in ("model_type", "model_attributes_type"):
        return f"{field}: {_shown(detail['input'])}: expected fields ({_allowed_fields(location)})"
    if kind == "value_error":
        return f"{field}: {_shown(detail['input'])}: {message.removeprefix('Value error, ')}"
    return f"{field}: {_shown(detail['input'])}: {message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _allowed_fields(location: tuple[int | str, ...]) -> str:
    section: Any = Project
    for part in location:
        field = getattr(section, "model_fields", {}).get(part)
        section = field.annotation if field is not None else None
    fields = getattr(section, "model_fields", None)
    return f"allowed: {', '.join(fields)}" if fields else "nothing is allowed there"
