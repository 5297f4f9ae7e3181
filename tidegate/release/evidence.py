"""What a release shows of itself: the ROC curve and confusion matrix of the selected variant, and a Markdown summary."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq

from tidegate.errors import RegistryError
from tidegate.packaging.manifest import REFERENCE_NAME
from tidegate.packaging.package import read_manifest
from tidegate.project import Project
from tidegate.release.model import open_registry
from tidegate.release.record import ReleaseLedger
from tidegate.storage import open_store

_ROC_POINTS = 200


def roc_points(package: Path) -> tuple[list[float], list[float], list[float]]:
    """Return false positive rates, true positive rates and thresholds on the holdout, at most 200 of each."""
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
    """Return the class names and the confusion matrix (rows: truth, columns: answer) on the holdout, at the threshold."""
    manifest = read_manifest(package)
    label, probability = _holdout(package)
    answer = (probability >= manifest.threshold).astype(int)
    matrix = [[int(np.sum((label == truth) & (answer == said))) for said in (0, 1)] for truth in (0, 1)]
    return list(manifest.classes), matrix


def release_summary(project: Project, release_id: str) -> str:
    """Return a release's Markdown summary: what was trained, every gate with its number, and how the rollout ended."""
    from tidegate.reporting.release import render_release_summary

    store = open_store(project.store_uri)
    record = ReleaseLedger(store, project.name).find(release_id)
    if record is None or record.version is None:
        raise RegistryError(f"release {release_id!r} of {project.name} registered no version; there is nothing to sum up")
    manifest = open_registry(project).manifest(project.name, record.version)
    rollout = store.get(f"rollouts/{project.name}/{record.rollout_id}.json").data if record.rollout_id else None
    return render_release_summary(
        manifest,
        version=record.version,
        rollout=msgspec.json.decode(rollout) if rollout else None,
        stopped_by=record.stopped_by,
    )


def _holdout(package: Path) -> tuple[np.ndarray, np.ndarray]:
    reference = pq.read_table(package / REFERENCE_NAME, columns=["label", "probability"])
    return reference["label"].to_numpy().astype(int), reference["probability"].to_numpy()
