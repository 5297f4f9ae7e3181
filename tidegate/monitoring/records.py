"""What monitoring writes down, under `monitoring/<model>/` of the object store: drift checks and retrainings.

monitoring/<model>/checks/<window end>.json          one drift check, beside its report `.html` and `.snapshot.json`
monitoring/<model>/retrainings/<number>.json         one retraining, claimed by exactly one drift run
"""

from datetime import UTC, datetime
from typing import Literal, TypeVar

import msgspec

from tidegate.errors import MonitoringError
from tidegate.storage import ObjectStore

MONITORING_ROOT = "monitoring"
_T = TypeVar("_T", bound=msgspec.Struct)


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class ColumnDrift(_Record, frozen=True, kw_only=True):
    """How far one column moved: population stability index against the reference, and shares of missing values."""

    column: str
    psi: float
    drifted: bool
    missing_reference: float
    missing_current: float


class ConceptDrift(_Record, frozen=True, kw_only=True):
    """How much of its accuracy the model lost on labelled rows of the window, against its own holdout.

    `loss` is reference minus window, with its confidence interval. All numbers but `labelled_rows` are null when there
    were too few labels to say anything; `note` then says so.
    """

    metric: Literal["roc_auc"] = "roc_auc"
    labelled_rows: int
    reference: float | None = None
    window: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    bound: float
    drifted: bool
    note: str = ""


class DriftCheck(_Record, frozen=True, kw_only=True):
    """One window of the inference log held against the reference of the version that answered it.

    Attributes:
        model: The model's name.
        version: The champion's version; only rows that it answered are in the window.
        window_start: First event time of the window.
        window_end: Event time before which the window ends.
        rows: Answered rows in the window.
        counted: Whether the window held enough rows to be judged; one that did not never counts as drifted.
        unwatched: Inputs that the log redacts.
        columns: Every watched input, most drifted first.
        drifted_share: Share of watched inputs that drifted.
        data_drifted: The share reached its bound.
        prediction: The predicted probability, likewise.
        concept: The relation to the label.
        drifted: Data, prediction or concept drift, in a window that counts.
        summary: The outcome in one line.
    """

    schema_version: Literal[1] = 1
    model: str
    version: int
    window_start: datetime
    window_end: datetime
    rows: int
    counted: bool
    unwatched: tuple[str, ...] = ()
    columns: tuple[ColumnDrift, ...]
    drifted_share: float
    data_drifted: bool
    prediction: ColumnDrift
    concept: ConceptDrift
    drifted: bool
    summary: str


class Retraining(_Record, frozen=True, kw_only=True):
    """A release that drift started.

    Attributes:
        number: 1 for a model's first retraining; numbers are never reused.
        version: The champion whose drift it answers.
        at: Event time of the decision; cooldown and budget count from it.
        window_end: End of the newest window behind the decision.
        reason: The decision in words.
        run_id: The drift run that holds the claim.
        claimed_at: Wall time of the claim, from which its lease runs.
        state: `claimed` until the release runs, then `started`, then `finished`.
        release_id: The release pipeline's run.
        outcome: How the release ended, such as "promoted" or "stopped by the champion gate".
    """

    schema_version: Literal[1] = 1
    number: int
    model: str
    version: int
    at: datetime
    window_end: datetime
    reason: str
    run_id: str
    claimed_at: datetime
    state: Literal["claimed", "started", "finished"] = "claimed"
    release_id: str = ""
    outcome: str = ""


def check_key(model: str, window_end: datetime, suffix: str = ".json") -> str:
    """Return the key of a drift check, or of its report with another suffix."""
    return f"{MONITORING_ROOT}/{model}/checks/{window_end.astimezone(UTC):%Y%m%dT%H%M%S}Z{suffix}"


def retraining_key(model: str, number: int) -> str:
    """Return the key of a model's retraining."""
    return f"{MONITORING_ROOT}/{model}/retrainings/{number:06d}.json"


def read_checks(store: ObjectStore, model: str) -> list[DriftCheck]:
    """Return every drift check of a model, oldest window first; raises MonitoringError for a malformed record."""
    keys = store.list(f"{MONITORING_ROOT}/{model}/checks/")
    return [_decode(store, key, DriftCheck) for key in keys if key.endswith("Z.json")]


def read_retrainings(store: ObjectStore, model: str) -> list[Retraining]:
    """Return every retraining of a model, oldest first; raises MonitoringError for a malformed record."""
    keys = store.list(f"{MONITORING_ROOT}/{model}/retrainings/")
    return [_decode(store, key, Retraining) for key in keys if key.endswith(".json")]


def encode(record: DriftCheck | Retraining) -> bytes:
    """Return a record as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(record), indent=2)


def _decode(store: ObjectStore, key: str, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(store.get(key).data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MonitoringError(f"{store.uri}/{key}: not a {kind.__name__} record: {error}") from error
