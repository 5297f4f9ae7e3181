"""Runs every gate over the variants of all candidates, and selects among the survivors.

A gate is only tried on what passed those before it: parity, accuracy, benchmark. The benchmark also times the survivors'
baselines.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization.accuracy import (
    accuracy_gate,
    judge_accuracy,
    labelled_rows,
    labels_of,
    measure_accuracy,
    not_judged,
)
from tidegate.optimization.benchmark.conductor import run_benchmark
from tidegate.optimization.benchmark.cost import objective_by_round, price_by_round
from tidegate.optimization.benchmark.judge import judge_benchmark
from tidegate.optimization.benchmark.subject import write_rows
from tidegate.optimization.benchmark.timings import Floats, Timings
from tidegate.optimization.choice import Contender, choose
from tidegate.optimization.isolation.workers import Limits, Workers
from tidegate.optimization.judgement import Judge, Judgement, Trial
from tidegate.optimization.metrics import metric
from tidegate.optimization.progress import Progress
from tidegate.optimization.records import Accuracy, BuildOutcome, Footprint, Selection, SelectionRow
from tidegate.optimization.state import SearchState, file_digest, key_of
from tidegate.packaging.manifest import MODEL_NAME, SCORE_OUTPUTS, BenchmarkRow, Manifest, Verdict
from tidegate.packaging.package import package_digest, read_manifest
from tidegate.packaging.session import Array
from tidegate.project import AccuracyGate, GatesSection

_ROWS_FILE = "rows.arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a search is asked.

    Attributes:
        gates: Bounds, objective and prices.
        holdout: Rows that training never saw.
        label_column: Their label, or None: then accuracy is not judged, and the verdicts say so.
        seed: Of every draw.
        limits: Of each process.
    """

    gates: GatesSection
    holdout: pa.Table
    label_column: str | None
    seed: int
    limits: Limits


@dataclass(slots=True)
class _Findings:
    """What the gates found of one trial so far."""

    trial: Trial
    manifest: Manifest
    judgement: Judgement
    lost: str
    verdicts: list[Verdict]
    accuracy: Accuracy | None = None
    price: Floats | None = None
    footprint: Footprint = field(init=False)
    benchmark: tuple[BenchmarkRow, ...] = ()

    def __post_init__(self) -> None:
        self.footprint = Footprint(
            size_bytes=self.manifest.files[MODEL_NAME].size,
            load_seconds=self.judgement.load_seconds,
            memory_bytes=self.judgement.memory_bytes,
        )

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def survives(self) -> bool:
        return not self.lost and all(verdict.passed for verdict in self.verdicts)


def run_trial(
    question: Question,
    trials: Sequence[Trial | BuildOutcome],
    *,
    workers: Workers,
    state: SearchState,
    progress: Progress,
) -> tuple[Selection, Path | None]:
    """Judge every trial by parity, accuracy and benchmark, and select; return the selection and the winning package.

    Args:
        question: What is asked.
        trials: Packages to judge, the baselines among them. A `BuildOutcome` stands for a variant that could not be built, and
            is listed with its reason.
        workers: Start the packages' processes.
        state: What an interrupted search found already is found there, and what is found now goes there.
        progress: Hears of it.

    Raises:
        DataError: The holdout is empty, or lacks a column or a class.
        PackageError: A package is corrupted.
    """
    run = _Run(question, workers, state, progress)
    packages = [trial for trial in trials if isinstance(trial, Trial)]
    rows = rows_to_ask(question.holdout, question.label_column, read_manifest(packages[0].package))
    file = state.folder / _ROWS_FILE
    state.folder.mkdir(parents=True, exist_ok=True)
    write_rows(rows, file)
    run.judge_parity(packages, file)
    run.judge_accuracy(None if question.label_column is None else labels_of(rows, question.label_column))
    timings = run.judge_benchmark(file)
    run.judge_against_best()
    winner, reasons = run.select(timings) if timings else (None, {})
    selection = Selection(
        winner=winner,
        reason=reasons[winner] if winner else "no variant met every gate",
        objective=question.gates.objective,
        rows=tuple(
            _unbuilt_row(trial) if isinstance(trial, BuildOutcome) else _row(run.findings[trial.name], reasons)
            for trial in trials
        ),
    )
    return selection, run.findings[winner].trial.package if winner else None


def rows_to_ask(holdout: pa.Table, label_column: str | None, manifest: Manifest) -> pa.Table:
    """Return the rows that variants are judged on, those with a label if there are labels; raises DataError without any."""
    if holdout.num_rows == 0:
        raise DataError("the holdout holds no rows; the gates need rows that training never saw")
    if label_column is None:
        return holdout
    if manifest.task not in SCORE_OUTPUTS:
        raise DataError(
            f"label column {label_column!r} was given, but a model of the task {manifest.task!r} has no score to judge"
        )
    rows = labelled_rows(holdout, label_column, manifest.task, manifest.classes)
    if rows.num_rows == 0:
        raise DataError(f"label column {label_column!r} holds no label; the gates need labelled rows")
    return rows


class _Run:
    """The gates, one after the other."""

    def __init__(self, question: Question, workers: Workers, state: SearchState, progress: Progress) -> None:
        self._question = question
        self._workers = workers
        self._state = state
        self._progress = progress
        self.findings: dict[str, _Findings] = {}

    def judge_parity(self, trials: Sequence[Trial], rows: Path) -> None:
        """Let every package answer its golden sample, and the rows."""
        question, gates = self._question, self._question.gates
        judge = Judge(self._workers, gates.parity, gates.benchmark, rows, question.seed, question.limits)
        asked = (file_digest(rows), gates.parity.model_dump(), gates.benchmark.batch_sizes, question.limits.seconds)
        self._progress.stage("Judging", len(trials))
        for trial in trials:
            key = key_of(package_digest(trial.baseline), package_digest(trial.package), *asked)
            judgement = self._state.judgement(trial.name, key)
            if judgement is None:
                judgement = judge.judge(trial)
                self._state.keep_judgement(judgement, key)
            manifest = read_manifest(trial.package)
            self.findings[trial.name] = _Findings(trial, manifest, judgement, judgement.lost, list(judgement.verdicts))
            self._progress.step(trial.name)

    def judge_accuracy(self, labels: Array | None) -> None:
        """Hold the survivors' scores of the rows to their baseline's."""
        for found in self._survivors():
            gate = accuracy_gate(self._question.gates, found.manifest.task)
            if labels is None or gate is None:
                found.verdicts.append(not_judged(found.name, gate))
            elif self._baseline(found).lost:
                found.lost = f"its baseline, which its accuracy is held against, {self._baseline(found).lost}"
            else:
                self._compare_scores(found, labels, gate)

    def _compare_scores(self, found: _Findings, labels: Array, gate: AccuracyGate) -> None:
        scores, expected = found.judgement.scores, self._baseline(found).judgement.scores
        try:
            found.accuracy = measure_accuracy(labels, expected, scores, gate, threshold=found.manifest.threshold)
        except OptimizationError as unusable:
            found.lost = str(unusable)
        else:
            found.verdicts.extend(judge_accuracy(found.name, found.accuracy, gate))

    def judge_benchmark(self, rows: Path) -> Timings | None:
        """Time the survivors and their baselines together; None if there is nothing to time."""
        survivors, gate = self._survivors(), self._question.gates.benchmark
        wanted = {found.trial.baseline_name for found in survivors} | {found.name for found in survivors}
        packages = {name: found.trial.package for name, found in self.findings.items() if name in wanted and not found.lost}
        if not packages:
            return None
        self._progress.stage("Timing", gate.rounds)
        benchmark = run_benchmark(
            self._workers,
            packages,
            rows,
            gate,
            seed=self._question.seed,
            limits=self._question.limits,
            after_round=lambda: self._progress.step("round"),
        )
        for name, reason in benchmark.lost.items():
            self.findings[name].lost = reason
        for found in survivors:
            if self._baseline(found).lost and not found.lost:
                found.lost = f"its baseline, which its speed is held against, {self._baseline(found).lost}"
        for found in self._timed(benchmark.timings):
            self._describe(found, benchmark.timings)
        for found in self._survivors():
            found.verdicts.extend(judge_benchmark(found.name, benchmark.timings, found.footprint, gate))
        return benchmark.timings

    def judge_against_best(self) -> None:
        """Hold every survivor to the best survivor's accuracy: a fast but clearly worse candidate must not win."""
        judged = [found for found in self._survivors() if found.accuracy is not None]
        gate = accuracy_gate(self._question.gates, judged[0].manifest.task) if judged else None
        if gate is None:
            return
        best = max(judged, key=_quality)
        for found in judged:
            loss = _loss(found, best)
            found.verdicts.append(
                Verdict(
                    gate="accuracy",
                    subject=found.name,
                    measure=f"{gate.metric} loss to the best survivor",
                    value=loss,
                    bound=gate.max_loss,
                    passed=loss <= gate.max_loss,
                    note=f"the best is {best.name} with {_value(best):.4f}",
                )
            )

    def select(self, timings: Timings) -> tuple[str | None, dict[str, str]]:
        """Choose among the survivors; return the winner's name, and why each of them won or lost."""
        objective = self._question.gates.objective
        contenders = [
            Contender(
                found.name,
                objective_by_round(timings, found.name, objective, price=found.price, size_bytes=found.footprint.size_bytes),
                _quality(found) if found.accuracy else None,
            )
            for found in self._timed(timings)
            if found.survives and found.price is not None
        ]
        return choose(contenders, objective)

    def _survivors(self) -> list[_Findings]:
        return [found for found in self.findings.values() if found.survives]

    def _baseline(self, found: _Findings) -> _Findings:
        return self.findings[found.trial.baseline_name]

    def _timed(self, timings: Timings) -> Iterable[_Findings]:
        return (found for found in self.findings.values() if found.name in timings.variants)

    def _describe(self, found: _Findings, timings: Timings) -> None:
        """Say what the timings say of one variant: its price, processor time, and rows of the benchmark's table."""
        before = found.footprint
        found.price = price_by_round(
            timings, found.name, self._question.gates.prices, found.manifest.runtime, before.memory_bytes
        )
        found.footprint = Footprint(
            size_bytes=before.size_bytes,
            load_seconds=before.load_seconds,
            memory_bytes=before.memory_bytes,
            cpu_us_per_row=float(np.median(timings.processor_seconds_per_row(found.name, timings.bulk))) * 1e6,
            cost_per_million=float(np.median(found.price)),
        )
        if found.trial.baseline_name in timings.variants:
            found.benchmark = timings.rows(found.name, found.trial.baseline_name)


def _value(found: _Findings) -> float:
    return found.accuracy.value if found.accuracy else float("nan")


def _quality(found: _Findings) -> float:
    """Return the accuracy, turned so that higher is better."""
    rises = found.accuracy is None or metric(found.accuracy.metric).higher_is_better
    return _value(found) if rises else -_value(found)


def _loss(found: _Findings, best: _Findings) -> float:
    """Return what is lost against the best, in the gate's unit."""
    loss = _quality(best) - _quality(found)
    is_share = best.accuracy is not None and metric(best.accuracy.metric).loss_is_share
    return loss / _value(best) if is_share and loss else loss


def _row(found: _Findings, reasons: Mapping[str, str]) -> SelectionRow:
    failed = next((verdict for verdict in found.verdicts if not verdict.passed), None)
    reason = found.lost or (_describe(failed) if failed else reasons[found.name])
    notes = (found.trial.note, found.judgement.warning)
    return SelectionRow(
        name=found.name,
        status="passed" if found.survives else "failed",
        reason=reason,
        precision=found.manifest.variant.precision,
        parameters=found.manifest.variant.parameters,
        note="; ".join(note for note in notes if note),
        parity=found.judgement.parity,
        accuracy=found.accuracy,
        footprint=found.footprint,
        verdicts=tuple(found.verdicts),
        benchmark=found.benchmark,
    )


def _unbuilt_row(outcome: BuildOutcome) -> SelectionRow:
    refused = outcome.status == "not-applicable"
    return SelectionRow(name=outcome.name, status="not-applicable" if refused else "failed", reason=outcome.reason)


def _describe(failed: Verdict) -> str:
    value = "no value" if failed.value is None else f"{failed.value:.4g}"
    bound = "" if failed.bound is None else f"; the bound is {failed.bound:.4g}"
    return f"{failed.gate}: {failed.measure} is {value}{bound}" + (f" ({failed.note})" if failed.note else "")
