"""Runs every gate over the variants of all candidates, and selects among the survivors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidegate.errors import DataError
from tidegate.optimization.accuracy import judge_accuracy, labelled_rows, measure_accuracy, not_judged
from tidegate.optimization.benchmark import Timings, benchmark_rows, judge_latency, measure_timings
from tidegate.optimization.choice import Contender, choose
from tidegate.optimization.parity import Parity, judge_parity, measure_parity
from tidegate.optimization.records import Accuracy, BuildOutcome, Footprint, OutputParity, Selection, SelectionRow
from tidegate.packaging.golden import read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.manifest import BASELINE, GOLDEN_NAME, MODEL_NAME, Verdict
from tidegate.project import GatesSection


@dataclass(frozen=True, slots=True)
class Trial:
    """A package to be judged, "candidate/variant", and its candidate's baseline package."""

    name: str
    package: Path
    baseline: Path

    @classmethod
    def of_baseline(cls, candidate: str, package: Path) -> "Trial":
        """Return the trial of a baseline package itself."""
        return cls(f"{candidate}/{BASELINE}", package, package)

    @property
    def baseline_name(self) -> str:
        """The name of the candidate's baseline."""
        return f"{self.name.partition('/')[0]}/{BASELINE}"


@dataclass(slots=True)
class _Findings:
    """What the gates found of one trial so far."""

    trial: Trial
    model: PackageModel
    parity: Parity
    verdicts: list[Verdict]
    accuracy: Accuracy | None = None

    @property
    def survives(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def size_bytes(self) -> int:
        return self.model.manifest.files[MODEL_NAME].size


@dataclass(slots=True)
class _Run:
    gates: GatesSection
    findings: dict[str, _Findings] = field(default_factory=dict)
    timings: Timings | None = None

    def survivors(self) -> list[_Findings]:
        return [found for found in self.findings.values() if found.survives]


def run_trial(
    gates: GatesSection,
    trials: Sequence[Trial | BuildOutcome],
    holdout: pa.Table,
    *,
    label_column: str | None,
    seed: int,
) -> tuple[Selection, Path | None]:
    """Judge every trial by parity, accuracy and benchmark, and select; return the selection and the winning package.

    A gate is only tried on what passed those before it; the benchmark also times the survivors' baselines, for comparison.
    A `BuildOutcome` stands for a variant that could not be built, and is listed with its reason.

    Raises:
        DataError: The holdout is empty, or lacks a column or a class.
    """
    if holdout.num_rows == 0:
        raise DataError("the holdout holds no rows; the gates need labelled rows that training never saw")
    run = _Run(gates)
    for trial in trials:
        if isinstance(trial, Trial):
            run.findings[trial.name] = _judge_parity(trial, gates)
    _judge_accuracy(run, holdout, label_column)
    _judge_benchmark(run, holdout, seed)
    _judge_against_best(run)
    winner, reasons = _select(run)
    rows = [
        _unbuilt_row(trial) if isinstance(trial, BuildOutcome) else _row(run, run.findings[trial.name], reasons)
        for trial in trials
    ]
    selection = Selection(
        winner=winner,
        reason=reasons[winner] if winner else "no variant met every gate",
        objective=gates.objective,
        rows=tuple(rows),
    )
    return selection, run.findings[winner].trial.package if winner else None


def _judge_parity(trial: Trial, gates: GatesSection) -> _Findings:
    model = PackageModel(trial.package)
    parity = measure_parity(model, read_golden(trial.baseline / GOLDEN_NAME))
    reduced = model.manifest.variant.precision != "full"
    verdicts = judge_parity(trial.name, parity, gates.parity, reduced_precision=reduced)
    return _Findings(trial, model, parity, list(verdicts))


def _judge_accuracy(run: _Run, holdout: pa.Table, label_column: str | None) -> None:
    survivors = run.survivors()
    if label_column is None:
        for found in survivors:
            found.verdicts.append(not_judged(found.trial.name, run.gates.accuracy))
        return
    rows = labelled_rows(holdout, label_column)
    labels = rows[label_column].to_numpy().astype(np.int64)
    needed = {found.trial.baseline_name for found in survivors} | {found.trial.name for found in survivors}
    scores = {name: run.findings[name].model.predict(rows) for name in sorted(needed)}
    for found in survivors:
        accuracy = measure_accuracy(
            labels, scores[found.trial.baseline_name], scores[found.trial.name], run.gates.accuracy.confidence
        )
        found.accuracy = accuracy
        found.verdicts.extend(judge_accuracy(found.trial.name, accuracy, run.gates.accuracy))


def _judge_benchmark(run: _Run, holdout: pa.Table, seed: int) -> None:
    survivors = run.survivors()
    if not survivors:
        return
    timed = {found.trial.name for found in survivors} | {found.trial.baseline_name for found in survivors}
    models = {name: found.model for name, found in run.findings.items() if name in timed}
    run.timings = measure_timings(models, holdout, run.gates.benchmark, seed)
    for found in survivors:
        found.verdicts.append(judge_latency(found.trial.name, run.timings, run.gates.benchmark))


def _judge_against_best(run: _Run) -> None:
    """Hold every survivor to the best survivor's AUC: a fast but clearly worse candidate must not win."""
    areas = {found.trial.name: found.accuracy.value for found in run.survivors() if found.accuracy is not None}
    if not areas:
        return
    best = max(areas, key=lambda name: areas[name])
    bound = run.gates.accuracy.max_loss
    for name, area in areas.items():
        loss = areas[best] - area
        run.findings[name].verdicts.append(
            Verdict(
                gate="accuracy",
                subject=name,
                measure="roc_auc loss to the best survivor",
                value=loss,
                bound=bound,
                passed=loss <= bound,
                note=f"the best is {best} with {areas[best]:.4f}",
            )
        )


def _select(run: _Run) -> tuple[str | None, dict[str, str]]:
    if run.timings is None:
        return None, {}
    contenders = [
        Contender(found.trial.name, found.size_bytes, found.accuracy.value if found.accuracy else None)
        for found in run.survivors()
    ]
    return choose(contenders, run.timings, run.gates.objective)


def _row(run: _Run, found: _Findings, reasons: Mapping[str, str]) -> SelectionRow:
    name, accuracy = found.trial.name, found.accuracy
    failed = next((verdict for verdict in found.verdicts if not verdict.passed), None)
    return SelectionRow(
        name=name,
        status="failed" if failed else "passed",
        reason=_describe(failed) if failed else reasons[name],
        precision=found.model.manifest.variant.precision,
        parameters=found.model.manifest.variant.parameters,
        accuracy=accuracy,
        parity=(_output_parity(found),),
        footprint=Footprint(size_bytes=found.size_bytes),
        verdicts=tuple(found.verdicts),
        benchmark=benchmark_rows(run.timings, name, found.trial.baseline_name) if run.timings else (),
    )


def _output_parity(found: _Findings) -> OutputParity:
    finite = bool(np.isfinite(found.parity.max_absolute))
    return OutputParity(
        output="probability",
        max_absolute=found.parity.max_absolute if finite else None,
        max_relative=None,
        of_tolerance=None,
        flip_rate=found.parity.flip_rate,
    )


def _unbuilt_row(outcome: BuildOutcome) -> SelectionRow:
    refused = outcome.status == "not-applicable"
    return SelectionRow(name=outcome.name, status="not-applicable" if refused else "failed", reason=outcome.reason)


def _describe(failed: Verdict) -> str:
    value = "no value" if failed.value is None else f"{failed.value:.4g}"
    return f"{failed.gate}: {failed.measure} is {value}, the bound is {failed.bound:.4g}"
