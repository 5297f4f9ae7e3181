"""The drift check: one window of the inference log against the reference of the champion that answered it.

    check = check_drift(project, store, registry, window_end=datetime(2013, 6, 1, tzinfo=UTC))
    check.drifted, check.summary

A window holds the champion's rows only. Traffic is split at random, so they are an unbiased sample of what was asked;
rows of a canary come from another model, whose outputs, and perhaps inputs, are not what the reference describes.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from tidegate.errors import MonitoringError
from tidegate.monitoring.concept import measure_concept_drift
from tidegate.monitoring.coverage import evenly_sampled, redacted_in
from tidegate.monitoring.drift import compare_columns, measure_drift
from tidegate.monitoring.labels import join_labels, read_labels
from tidegate.monitoring.records import ColumnDrift, ConceptDrift, DriftCheck, check_key, encode
from tidegate.monitoring.windows import describe_log, read_window
from tidegate.packaging.format.manifest import PROBABILITY, REFERENCE_NAME, Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.format.reference import read_reference
from tidegate.project import MonitoringSection, Project
from tidegate.serving.inference_log.schema import input_column, is_logged
from tidegate.storage import ObjectStore

if TYPE_CHECKING:
    from tidegate.registry.registry import ModelRegistry

_NAMED_COLUMNS = 3


def check_drift(project: Project, store: ObjectStore, registry: "ModelRegistry", window_end: datetime) -> DriftCheck:
    """Check [window_end - window_days, window_end) and write the check, its HTML report and its snapshot to the store.

    Checking the same window again replaces what the earlier check wrote.

    Args:
        project: The project file; its `monitoring` section holds the bounds.
        store: Holds the inference log and the labels, and gets the check under `monitoring/<model>/checks/`.
        registry: Holds the champion, whose `reference.parquet` is the reference.
        window_end: Event time, with a time zone. Labels known later are not looked at.

    Raises:
        MonitoringError: There is no champion, it is no binary classification, it answered nothing in the window, or the log
            does not fit its signature.
    """
    window_end = window_end.astimezone(UTC).replace(microsecond=0)
    window_start = window_end - timedelta(days=project.monitoring.window_days)
    champion = registry.alias(project.name, "champion")
    if champion is None:
        raise MonitoringError(f"model {project.name!r} has no champion to check; release a version first")
    window = read_window(store, project.name, window_start, window_end, version=champion.version)
    if window.num_rows == 0:
        raise MonitoringError(
            f"version {champion.version} of {project.name} answered nothing from {window_start:%Y-%m-%dT%H:%M}Z "
            f"to {window_end:%Y-%m-%dT%H:%M}Z; {describe_log(store, project.name)}"
        )
    manifest, reference = _reference(registry, project.name, champion.version)
    redacted = redacted_in(window)
    window = _in_model_words(evenly_sampled(window), manifest)
    watched = _watched(project.monitoring, manifest, redacted)
    histograms = compare_columns(reference.select([*watched, PROBABILITY]), window)
    prediction = histograms.pop(PROBABILITY)
    labels = read_labels(store, project.name, window_start, window_end)
    check = _check(
        project,
        version=champion.version,
        window=(window_start, window_end),
        rows=window.num_rows,
        unwatched=tuple(spec.name for spec in manifest.signature.inputs if spec.name in redacted),
        columns=measure_drift(histograms, project.monitoring.psi_threshold),
        prediction=measure_drift({PROBABILITY: prediction}, project.monitoring.prediction_psi_threshold)[0],
        concept=measure_concept_drift(
            reference,
            join_labels(window, labels),
            asked_before=window_end - timedelta(hours=project.monitoring.label_delay_hours),
            min_rows=project.monitoring.min_rows,
            max_loss=project.monitoring.max_metric_loss,
        ),
    )

    from tidegate.monitoring.report import render_report

    report = render_report(
        check,
        {**histograms, PROBABILITY: prediction},
        psi_threshold=project.monitoring.psi_threshold,
        prediction_psi_threshold=project.monitoring.prediction_psi_threshold,
    )
    store.put(check_key(project.name, window_end, ".html"), report.html.encode())
    store.put(check_key(project.name, window_end, ".snapshot.json"), report.snapshot.encode())
    store.put(check_key(project.name, window_end), encode(check))
    return check


def _check(
    project: Project,
    *,
    version: int,
    window: tuple[datetime, datetime],
    rows: int,
    unwatched: tuple[str, ...],
    columns: tuple[ColumnDrift, ...],
    prediction: ColumnDrift,
    concept: ConceptDrift,
) -> DriftCheck:
    bounds = project.monitoring
    drifted_share = sum(column.drifted for column in columns) / len(columns)
    data_drifted = drifted_share >= bounds.drifted_share
    counted = rows >= bounds.min_rows
    kinds = [("data", data_drifted), ("prediction", prediction.drifted), ("concept", concept.drifted)]
    found = [kind for kind, drifted in kinds if drifted]
    return DriftCheck(
        model=project.name,
        version=version,
        window_start=window[0],
        window_end=window[1],
        rows=rows,
        counted=counted,
        unwatched=unwatched,
        columns=columns,
        drifted_share=drifted_share,
        data_drifted=data_drifted,
        prediction=prediction,
        concept=concept,
        drifted=counted and bool(found),
        summary=_summary(
            found if counted else None,
            bounds=bounds,
            rows=rows,
            unwatched=unwatched,
            columns=columns,
            prediction=prediction,
            concept=concept,
        ),
    )


def _summary(
    found: Sequence[str] | None,
    *,
    bounds: MonitoringSection,
    rows: int,
    unwatched: Sequence[str],
    columns: tuple[ColumnDrift, ...],
    prediction: ColumnDrift,
    concept: ConceptDrift,
) -> str:
    drifted = [column for column in columns if column.drifted]
    named = ", ".join(f"{column.column} {column.psi:.2f}" for column in drifted[:_NAMED_COLUMNS])
    if found is None:
        outcome = f"not counted, {rows} rows of at least {bounds.min_rows}"
    else:
        outcome = f"{' and '.join(found)} drift" if found else "no drift"
    accuracy = (
        f"AUC not known: {concept.note}"
        if concept.loss is None
        else f"AUC {concept.window:.3f}, reference {concept.reference:.3f}, loss bound {concept.bound:g}"
    )
    blind = f"; redacted, so not watched: {', '.join(unwatched)}" if unwatched else ""
    return (
        f"{outcome}: {len(drifted)} of {len(columns)} inputs moved{f' ({named})' if named else ''}, "
        f"bound {bounds.drifted_share:.0%}; prediction PSI {prediction.psi:.2f}, bound {bounds.prediction_psi_threshold:g}; "
        f"{accuracy}{blind}"
    )


def _reference(registry: "ModelRegistry", name: str, version: int) -> tuple[Manifest, pa.Table]:
    with TemporaryDirectory(prefix="tidegate-") as folder:
        package = registry.download(name, version, Path(folder, "package"))
        manifest = read_manifest(package)
        if manifest.task != "binary-classification":
            raise MonitoringError(
                f"version {version} of {name} has task {manifest.task}; drift checks watch binary classifications only"
            )
        reference = read_reference(package)
        if reference.num_rows == 0:
            raise MonitoringError(f"version {version} of {name}: its {REFERENCE_NAME} holds no rows to compare with")
        return manifest, reference


def _watched(bounds: MonitoringSection, manifest: Manifest, redacted: Collection[str]) -> list[str]:
    """Return the inputs to compare: those of one value a row, since a tensor has no distribution that could be binned.

    What was redacted in the window would look as if it had gone missing; it is left out, unless it was asked for.
    """
    inputs = [spec.name for spec in manifest.signature.inputs if all(size == 1 for size in spec.shape[1:])]
    if not inputs:
        raise MonitoringError(f"{manifest.name} reads tensors only; drift checks compare inputs of one value a row")
    unknown = [name for name in bounds.columns or () if name not in inputs]
    if unknown:
        raise MonitoringError(
            f"monitoring.columns: {unknown[0]!r} is not an input of the model with one value a row; it has {', '.join(inputs)}"
        )
    if PROBABILITY in redacted:
        raise MonitoringError(
            f"the inference log of {manifest.name} redacts {PROBABILITY!r}, without which there is no drift check; "
            "take it out of serving.log.redact"
        )
    hidden = [name for name in bounds.columns or () if name in redacted]
    if hidden:
        raise MonitoringError(
            f"monitoring.columns: {hidden[0]!r} is redacted in the inference log, so it cannot be watched; "
            "take it out of monitoring.columns or of serving.log.redact"
        )
    watched = [name for name in bounds.columns or inputs if name not in redacted]
    if not watched:
        raise MonitoringError(f"the inference log of {manifest.name} redacts every input that could be watched")
    return watched


def _in_model_words(window: pa.Table, manifest: Manifest) -> pa.Table:
    """Rename the log's columns to the names of the model's inputs and output."""
    names = {input_column(spec): spec.name for spec in manifest.signature.inputs if is_logged(spec)}
    names[f"output_{PROBABILITY}"] = PROBABILITY
    missing = [column for column in names if column not in window.column_names]
    if missing:
        raise MonitoringError(f"the inference log of {manifest.name} has no column {missing[0]!r}, which its signature names")
    kept = ["prediction_id", "event_time", *names]
    return window.select(kept).rename_columns([names.get(column, column) for column in kept])
