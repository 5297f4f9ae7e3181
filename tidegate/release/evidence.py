"""What a release shows of itself: ROC curve and confusion matrix of the selected variant, its gates, its rollout, a summary."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.errors import PackageError, RegistryError
from tidegate.packaging.format.manifest import LABEL, PROBABILITY
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.format.reference import read_reference
from tidegate.packaging.labels import Labels
from tidegate.project import Project
from tidegate.release.model import open_registry
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.storage import ObjectStore, open_store

_ROC_POINTS = 200


def roc_points(package: Path) -> tuple[list[float], list[float], list[float]]:
    """Return false positive rates, true positive rates and thresholds on the holdout, at most 200 of each.

    Raises:
        PackageError: The package is no binary classification.
    """
    label, probability = _holdout(package)
    order = np.argsort(-probability, kind="stable")
    positives = np.cumsum(label[order])
    negatives = np.cumsum(1 - label[order])
    distinct = np.flatnonzero(np.diff(probability[order], append=np.nan))  # rows of one probability pass a threshold together
    keep = distinct[np.unique(np.linspace(0, len(distinct) - 1, _ROC_POINTS).astype(int))]
    false_positive_rate = negatives[keep] / max(negatives[-1], 1)
    true_positive_rate = positives[keep] / max(positives[-1], 1)
    return false_positive_rate.tolist(), true_positive_rate.tolist(), probability[order][keep].tolist()


def confusion(package: Path) -> tuple[list[str], list[list[int]]]:
    """Return the class names and the confusion matrix (rows: truth, columns: answer) on the holdout, at the threshold.

    Raises:
        PackageError: The package is no binary classification.
    """
    manifest = read_manifest(package)
    label, probability = _holdout(package)
    answer = Labels(manifest).numbers({PROBABILITY: probability})
    matrix = [[int(np.sum((label == truth) & (answer == said))) for said in (0, 1)] for truth in (0, 1)]
    return list(manifest.classes), matrix


def release_summary(project: Project, release_id: str) -> str:
    """Return a release's Markdown summary: what was trained, every gate with its number, and how the rollout ended."""
    from tidegate.reporting.release import render_release_summary

    store = open_store(project.store_uri)
    record = _record(store, project, release_id)
    if record.version is None:
        raise RegistryError(f"release {release_id!r} of {project.name} registered no version; there is nothing to sum up")
    manifest = open_registry(project).manifest(project.name, record.version)
    return render_release_summary(
        manifest,
        version=record.version,
        rollout=_rollout(store, record),
        stopped_by=record.stopped_by,
    )


def gate_summary(project: Project, release_id: str, gate: str) -> str:
    """Return what a gate found in a release, as Markdown: every check with its number and its bound."""
    from tidegate.reporting.release import render_gate

    record = _record(open_store(project.store_uri), project, release_id)
    return render_gate(gate, [verdict for verdict in record.verdicts if verdict.gate == gate])


def rollout_page(project: Project, release_id: str) -> str:
    """Return the HTML page of a release's rollout; raises RegistryError if it was never rolled out."""
    from tidegate.reporting.rollout import render_rollout

    return render_rollout(_rollout_of(project, release_id))


def rollout_metrics(project: Project, release_id: str) -> dict[str, float]:
    """Return the numbers at the judge's last look, by name; only the number of looks if it never looked.

    Error rates are shares, latencies milliseconds. Raises RegistryError if the release was never rolled out.
    """
    rollout = _rollout_of(project, release_id)
    found: dict[str, float | None] = {"looks": rollout["looks_taken"]}
    if rollout["looks"]:
        evidence = rollout["looks"][-1]["evidence"]
        for side in ("canary", "stable"):
            p95 = evidence["latency"][side]
            found[f"{side}_requests"] = evidence[f"{side}_requests"]
            found[f"{side}_error_rate"] = evidence["errors"][side]
            found[f"{side}_p95_ms"] = None if p95 is None else p95 * 1000
    return {name: float(value) for name, value in found.items() if value is not None}


def _record(store: ObjectStore, project: Project, release_id: str) -> ReleaseRecord:
    record = ReleaseLedger(store, project.name).find(release_id)
    if record is None:
        raise RegistryError(f"release {release_id!r} of {project.name} was never begun; there is nothing to show")
    return record


def _rollout(store: ObjectStore, record: ReleaseRecord) -> dict[str, Any] | None:
    if record.rollout_id is None:
        return None
    rollout: dict[str, Any] = msgspec.json.decode(store.get(f"rollouts/{record.project}/{record.rollout_id}.json").data)
    return rollout


def _rollout_of(project: Project, release_id: str) -> dict[str, Any]:
    store = open_store(project.store_uri)
    rollout = _rollout(store, _record(store, project, release_id))
    if rollout is None:
        raise RegistryError(f"release {release_id!r} of {project.name} was never rolled out; there is nothing to show")
    return rollout


def _holdout(package: Path) -> tuple[np.ndarray, np.ndarray]:
    task = read_manifest(package).task
    if task != "binary-classification":
        raise PackageError(f"package {package}: it has task {task}; the release pipeline is for binary classifications")
    reference = read_reference(package, [LABEL, PROBABILITY])
    return reference[LABEL].to_numpy().astype(int), reference[PROBABILITY].to_numpy()
