"""Runs every gate over the variants of all candidates, and selects among the survivors.

A gate is only tried on what passed those before it: parity, accuracy, benchmark. The benchmark also times the survivors'
baselines.
"""

from collections.abc import Sequence
from pathlib import Path

from tidegate.digests import file_digest
from tidegate.errors import OptimizationError
from tidegate.optimization.benchmark.conductor import run_benchmark
from tidegate.optimization.benchmark.cost import objective_by_round
from tidegate.optimization.benchmark.judge import judge_benchmark
from tidegate.optimization.benchmark.subject import write_rows
from tidegate.optimization.benchmark.timings import Timings
from tidegate.optimization.gates.accuracy import accuracy_gate, judge_accuracy, labels_of, measure_accuracy, not_judged
from tidegate.optimization.isolation.workers import Workers
from tidegate.optimization.records import BuildOutcome, Selection
from tidegate.optimization.search.choice import Contender, choose
from tidegate.optimization.search.findings import Findings, unbuilt_row
from tidegate.optimization.search.judgement import Judge, Trial
from tidegate.optimization.search.progress import Progress
from tidegate.optimization.search.question import Question
from tidegate.optimization.search.state import SearchState, key_of
from tidegate.packaging.format.manifest import Verdict
from tidegate.packaging.format.package import package_digest, read_manifest
from tidegate.packaging.running.session import Array
from tidegate.project import AccuracyGate

_ROWS_FILE = "rows.arrow"


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
        trials: Packages to judge, the baselines among them, all of one task. A `BuildOutcome` stands for a variant that could
            not be built, and is listed with its reason.
        workers: Start the packages' processes.
        state: What an interrupted search found already is found there, and what is found now goes there.
        progress: Hears of it.

    Raises:
        DataError: The holdout is empty, or lacks a column or a class.
        OptimizationError: A gate does not fit the packages.
        PackageError: A package is corrupted.
    """
    run = _Run(question, workers, state, progress)
    packages = [trial for trial in trials if isinstance(trial, Trial)]
    rows = question.rows(read_manifest(packages[0].package))
    state.folder.mkdir(parents=True, exist_ok=True)
    file = write_rows(rows, state.folder / _ROWS_FILE)
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
            unbuilt_row(trial) if isinstance(trial, BuildOutcome) else run.findings[trial.name].row(reasons) for trial in trials
        ),
    )
    return selection, run.findings[winner].trial.package if winner else None


class _Run:
    """The gates, one after the other."""

    def __init__(self, question: Question, workers: Workers, state: SearchState, progress: Progress) -> None:
        self._question = question
        self._workers = workers
        self._state = state
        self._progress = progress
        self.findings: dict[str, Findings] = {}

    def judge_parity(self, trials: Sequence[Trial], rows: Path) -> None:
        """Let every package answer its golden sample, and the rows."""
        question, gates = self._question, self._question.gates
        labelled = question.label_column is not None
        judge = Judge(self._workers, gates.parity, gates.benchmark, rows, labelled, question.seed, question.limits)
        asked = (file_digest(rows), labelled, gates.parity.model_dump(), gates.benchmark.batch_sizes, question.limits.seconds)
        self._progress.stage("Judging", len(trials))
        for trial in trials:
            key = key_of(package_digest(trial.baseline), package_digest(trial.package), *asked)
            judgement = self._state.judgement(trial.name, key)
            if judgement is None:
                judgement = judge.judge(trial)
                self._state.keep_judgement(judgement, key)
            self.findings[trial.name] = Findings(trial, read_manifest(trial.package), judgement)
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
        for name in benchmark.timings.variants:
            self.findings[name].add_timings(benchmark.timings, self._question.gates.prices)
        for found in self._survivors():
            found.verdicts.extend(judge_benchmark(found.name, benchmark.timings, found.footprint, gate))
        return benchmark.timings

    def judge_against_best(self) -> None:
        """Hold every survivor to the best survivor's accuracy: a fast but clearly worse candidate must not win."""
        judged = {found.name: found.quality for found in self._survivors() if found.quality is not None}
        if not judged:
            return
        best = self.findings[max(judged, key=lambda name: judged[name])]
        gate = accuracy_gate(self._question.gates, best.manifest.task)
        if gate is None or best.accuracy is None:
            return
        for name in judged:
            loss = self.findings[name].loss_against(best)
            self.findings[name].verdicts.append(
                Verdict(
                    gate="accuracy",
                    subject=name,
                    measure=f"{gate.metric} loss to the best survivor",
                    value=loss,
                    bound=gate.max_loss,
                    passed=loss <= gate.max_loss,
                    note=f"the best is {best.name} with {best.accuracy.value:.4f}",
                )
            )

    def select(self, timings: Timings) -> tuple[str | None, dict[str, str]]:
        """Choose among the survivors; return the winner's name, and why each of them won or lost."""
        objective = self._question.gates.objective
        contenders = []
        for found in self._survivors():
            if found.price is not None:
                size = found.footprint.size_bytes
                by_round = objective_by_round(timings, found.name, objective, price=found.price, size_bytes=size)
                contenders.append(Contender(found.name, by_round, found.quality))
        return choose(contenders, objective)

    def _compare_scores(self, found: Findings, labels: Array, gate: AccuracyGate) -> None:
        scores, expected = found.judgement.scores, self._baseline(found).judgement.scores
        try:
            found.accuracy = measure_accuracy(labels, expected, scores, gate, threshold=found.manifest.threshold)
        except OptimizationError as unusable:
            found.lost = str(unusable)
        else:
            found.verdicts.extend(judge_accuracy(found.name, found.accuracy, gate))

    def _survivors(self) -> list[Findings]:
        return [found for found in self.findings.values() if found.survives]

    def _baseline(self, found: Findings) -> Findings:
        return self.findings[found.trial.baseline_name]
