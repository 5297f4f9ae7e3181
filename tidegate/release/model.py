"""The model steps of a release: train and package, select the variant, compare with the champion, and register."""

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate import __version__
from tidegate.digests import file_digest
from tidegate.errors import ObjectNotFound, TrainingError
from tidegate.packaging.format.manifest import Lineage, Verdict
from tidegate.packaging.format.package import read_manifest
from tidegate.project import Project
from tidegate.registry.registry import CHALLENGER, CHAMPION, ModelRegistry
from tidegate.release.data import read_frozen, record_gate
from tidegate.release.record import ReleaseLedger
from tidegate.storage import open_store
from tidegate.training.training_set import SPLIT_COLUMN
from tidegate.training.user_code import importable


def package_models(project: Project, *, release_id: str, source: Path, training_set: Path, out: Path) -> list[str]:
    """Package every candidate that training left in `source`; returns the candidates' names."""
    from tidegate.packaging.packager import package_candidates

    contract, until = read_frozen(training_set)
    lineage = _lineage(project, release_id, training_set, until)
    return package_candidates(project, source, training_set, contract, lineage, out)


def select(
    project: Project, *, release_id: str, packages: Path, built: list[Path], training_set: Path, out: Path, report: Path
) -> str | None:
    """Gate and measure every built variant and keep the best as `out/package`; returns its name, or None if none survived.

    Writes the HTML report to `report` and the verdicts to the release record; without a survivor the release is stopped.
    """
    from tidegate.optimization.search.search import select_variant
    from tidegate.reporting.selection import render_selection

    selection = select_variant(project, packages, built, training_set, out)
    report.write_text(render_selection(selection), encoding="utf-8")
    ledger = ReleaseLedger(open_store(project.store_uri), project.name)
    ledger.add_verdicts(release_id, selection.verdicts)
    if selection.winner is None:
        ledger.stop(release_id, f"no variant passed every gate: {'; '.join(selection.reasons)}")
    return selection.winner


def compare(project: Project, *, release_id: str, challenger: Path, training_set: Path, workdir: Path) -> Verdict:
    """Hold the challenger against the champion on the labels that neither was trained on; a failure stops the release.

    Those are the holdout rows that lie after the champion's own training.
    """
    from tidegate.optimization.gates.champion import compare_with_champion

    registry = open_registry(project)
    alias = registry.alias(project.name, CHAMPION)
    holdout = pq.read_table(training_set, filters=[(SPLIT_COLUMN, "=", "holdout")])
    champion = None
    if alias is not None:
        champion = registry.download(project.name, alias.version, workdir / "champion")
        holdout = _unseen_by(champion, project, holdout)
    verdict = compare_with_champion(project, challenger, champion, holdout)
    record_gate(project, release_id, "champion", [verdict])
    return verdict


def register(project: Project, *, release_id: str, package: Path, reason: str) -> int:
    """Register a package as the next version and point `challenger` at it; doing so again changes nothing."""
    registry = open_registry(project)
    version = registry.register(package, reason=reason)
    current = registry.alias(project.name, CHALLENGER)
    if current is None or current.version != version:
        expected = None if current is None else current.version
        registry.move_alias(project.name, CHALLENGER, version, reason=reason, expected=expected)
    ReleaseLedger(open_store(project.store_uri), project.name).registered(release_id, version)
    return version


def open_registry(project: Project) -> ModelRegistry:
    """Open the model registry in the project's object store."""
    return ModelRegistry(open_store(project.store_uri))


def _unseen_by(champion: Path, project: Project, rows: pa.Table) -> pa.Table:
    lineage = read_manifest(champion).lineage
    if lineage is None:
        return rows
    trained_until = pa.scalar(datetime.fromisoformat(lineage.window_end), type=pa.timestamp("us", tz="UTC"))
    return rows.filter(pc.greater_equal(rows[project.features.timestamp_column], trained_until))


def _lineage(project: Project, release_id: str, training_set: Path, until: datetime) -> Lineage:
    ledger = ReleaseLedger(open_store(project.store_uri), project.name)
    record = ledger.find(release_id)
    if record is None:
        raise ObjectNotFound(f"release {release_id!r} of {project.name} was never begun; start the release pipeline")
    return Lineage(
        run_id=release_id,
        created_at=datetime.now(UTC).isoformat(),
        event_time=record.event_time,
        window_start=(until - timedelta(days=project.training.window_days)).isoformat(),
        window_end=until.isoformat(),
        holdout_start=(until - timedelta(days=project.training.holdout_days)).isoformat(),
        data_digest=file_digest(training_set),
        code_digest=_code_digest(project),
        project_digest=project.digest,
        reason=record.reason,
        tidegate_version=__version__,
    )


def _code_digest(project: Project) -> str:
    module = project.training.function.partition(":")[0]
    with importable(project.paths.root):
        found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise TrainingError(f"training.function: module {module!r} has no source file in {project.paths.root}")
    return file_digest(Path(found.origin))
