"""The data steps of a release: materialize features, build the training set, and validate it."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.features.address import project_online_store
from tidegate.features.mirror import mirror
from tidegate.packaging.format.manifest import FeatureContract, Verdict
from tidegate.project import Project
from tidegate.release.record import ReleaseLedger
from tidegate.storage import open_store
from tidegate.training.training_set import build_training_set
from tidegate.training.validation import validate_training_set

if TYPE_CHECKING:
    from tidegate.features.materialize import MaterializationReport
    from tidegate.features.repository import FeatureRepository

CONTRACT_METADATA = b"tidegate.feature_contract"
UNTIL_METADATA = b"tidegate.until"


def begin_release(project: Project, *, release_id: str, event_time: datetime, reason: str) -> None:
    """Open the release's record."""
    ReleaseLedger(open_store(project.store_uri), project.name).begin(release_id, event_time=event_time, reason=reason)


def open_repository(project: Project, online_store: str | None = None) -> "FeatureRepository":
    """Open the project's feature repository, with the data it reads at hand and its definitions applied.

    Args:
        project: The project file.
        online_store: Address of the online store, for a step that writes to it.

    Raises:
        StorageError: The cluster's data cannot be read.
        DataError: The cluster's data is empty, or a source is missing.
        FeatureError: A definition fails, or Feast refuses it.
    """
    from tidegate.features.repository import FeatureRepository  # imports Feast, which takes seconds

    if project.target == "kserve" and project.on_cluster.data is not None:
        from tidegate.storage.s3 import S3Store  # imports boto3

        mirror(S3Store.from_uri(project.on_cluster.data), project.paths.workspace / "data")
    repository = FeatureRepository(project.paths.repository, project.paths.workspace, online_store)
    repository.apply()
    return repository


def materialize_features(project: Project, until: datetime, *, live: bool = False) -> "MaterializationReport":
    """Bring the online store up to `until`, so that a canary finds what it looks up.

    Args:
        project: The project file.
        until: Event time, with a time zone.
        live: Event time is the wall clock's, so a Redis may forget a row an hour after its TTL. Never so in a replay.
    """
    return open_repository(project, project_online_store(project)).materialize(until, live=live)


def write_training_set(project: Project, until: datetime, out: Path) -> pa.Table:
    """Write the point-in-time training set of the window before `until` as Parquet to `out`, and return it.

    The file's metadata carries the frozen feature contract and `until`, so that later steps need no feature store.
    """
    repository = open_repository(project)
    contract = repository.contract(project.features.service)
    table = build_training_set(project, repository, until).replace_schema_metadata(
        {CONTRACT_METADATA: msgspec.json.encode(contract), UNTIL_METADATA: until.isoformat().encode()}
    )
    pq.write_table(table, out, compression="zstd")
    return table


def read_frozen(training_set: Path) -> tuple[FeatureContract, datetime]:
    """Return the feature contract and the event time that a training set was written with."""
    metadata = pq.read_schema(training_set).metadata or {}
    if CONTRACT_METADATA not in metadata or UNTIL_METADATA not in metadata:
        raise DataError(f"training set {training_set}: no feature contract in its metadata; write it with write_training_set")
    contract = msgspec.json.decode(metadata[CONTRACT_METADATA], type=FeatureContract)
    return contract, datetime.fromisoformat(metadata[UNTIL_METADATA].decode())


def validate_data(project: Project, *, release_id: str, training_set: Path, report: Path) -> tuple[bool, list[Verdict]]:
    """Hold a training set to the project's data gate.

    Writes the HTML report to `report` and the verdicts to the release record; a failed gate stops the release.

    Returns:
        Whether every verdict passed, and all of them.
    """
    from tidegate.reporting.data_validation import profile_of, render_data_validation

    table = pq.read_table(training_set)
    verdicts = validate_training_set(project, table)
    report.write_text(render_data_validation(verdicts, profile_of(table)), encoding="utf-8")
    passed = record_gate(project, release_id, "data", verdicts)
    return passed, verdicts


def record_gate(project: Project, release_id: str, gate: str, verdicts: list[Verdict]) -> bool:
    """Write a gate's verdicts to the release record, stop the release if any failed, and tell whether all passed."""
    ledger = ReleaseLedger(open_store(project.store_uri), project.name)
    ledger.add_verdicts(release_id, verdicts)
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        ledger.stop(release_id, f"{gate} gate: " + "; ".join(describe_verdict(verdict) for verdict in failed))
    return not failed


def describe_verdict(verdict: Verdict) -> str:
    """Say in one line which number met or missed which bound."""
    value = "no value" if verdict.value is None else f"{verdict.value:.6g}"
    bound = "" if verdict.bound is None else f" (bound {verdict.bound:.6g})"
    outcome = "passed" if verdict.passed else "missed"
    note = f", {verdict.note}" if verdict.note else ""
    return f"{verdict.subject}: {verdict.measure} {value}{bound} {outcome}{note}"
