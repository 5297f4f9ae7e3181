"""Judges one package by parity in a process of its own, which also says what loading it takes and predicts the holdout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from tidegate.optimization.benchmark.conductor import SUBJECT
from tidegate.optimization.benchmark.subject import Opening
from tidegate.optimization.gates.parity import held_to, judge_parity, measure_parity
from tidegate.optimization.isolation.workers import Limits, WorkerLost, Workers
from tidegate.optimization.records import OutputParity, candidate_of
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import BASELINE, GOLDEN_NAME, SCORE_OUTPUTS, Manifest, Verdict
from tidegate.packaging.format.package import read_manifest
from tidegate.project import BenchmarkGate, ParityGate

Scores = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """A package to be judged, "candidate/variant", and its candidate's baseline package; `note` is from its build."""

    name: str
    package: Path
    baseline: Path
    note: str = ""

    @classmethod
    def of_baseline(cls, candidate: str, package: Path) -> "Trial":
        """Return the trial of a baseline package itself."""
        return cls(f"{candidate}/{BASELINE}", package, package)

    @property
    def baseline_name(self) -> str:
        """The name of the candidate's baseline."""
        return f"{candidate_of(self.name)}/{BASELINE}"

    @property
    def is_baseline(self) -> bool:
        """Whether it is its candidate's baseline."""
        return self.name == self.baseline_name


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a package answered: its parity, what opening it took, and its scores of the holdout's rows.

    `lost` says how its process was lost; whatever was not found by then is absent. `scores` is kept in a file of its own, and
    `scored` says that there are any.
    """

    name: str
    parity: tuple[OutputParity, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    load_seconds: float | None = None
    memory_bytes: int | None = None
    warning: str | None = None
    lost: str = ""
    scored: bool = False
    scores: Any = None

    def with_scores(self, scores: Scores) -> "Judgement":
        """Return the same with the scores."""
        return msgspec.structs.replace(self, scores=scores, scored=True)

    @property
    def survives(self) -> bool:
        """Whether parity was met."""
        return not self.lost and all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges packages one after the other.

    Attributes:
        workers: Start the packages' processes.
        parity: The gate.
        benchmark: Its largest batch is the one that memory is measured with.
        rows: Arrow file of the rows to be predicted.
        labelled: Whether they have labels, so that accuracy is judged after parity.
        seed: Of the rows that memory is measured with.
        limits: Of each call to a package's process.
    """

    workers: Workers
    parity: ParityGate
    benchmark: BenchmarkGate
    rows: Path
    labelled: bool
    seed: int
    limits: Limits

    def judge(self, trial: Trial) -> Judgement:
        """Replay the golden sample, and predict the rows if parity is met or it is a baseline, to which others are compared."""
        manifest = read_manifest(trial.package)
        found = Judgement(name=trial.name)
        doing = "when it was loaded"
        with self.workers.start(SUBJECT, trial.package, self.rows, self.seed, limits=self.limits) as subject:
            try:
                opening: Opening = subject.call("open", max(self.benchmark.batch_sizes))
                found = msgspec.structs.replace(
                    found, load_seconds=opening.load_seconds, memory_bytes=opening.memory_bytes, warning=opening.warning
                )
                doing = "when it answered the golden sample"
                found = self._with_parity(found, trial, manifest, subject.call("replay", trial.baseline / GOLDEN_NAME))
                doing = "when it predicted the holdout"
                if manifest.task in SCORE_OUTPUTS and (found.survives or trial.is_baseline):
                    found = found.with_scores(subject.call("predict"))
            except WorkerLost as lost:
                found = msgspec.structs.replace(found, lost=f"{lost}, {doing}")
        return found

    def _with_parity(self, found: Judgement, trial: Trial, manifest: Manifest, replay: Any) -> Judgement:
        golden = read_golden(trial.baseline / GOLDEN_NAME)
        precision = held_to(manifest.variant.precision, accuracy_is_judged=self.labelled)
        parity = measure_parity(golden, replay, self.parity, precision, task=manifest.task, threshold=manifest.threshold)
        verdicts = judge_parity(trial.name, parity, self.parity, precision, golden.rows)
        return msgspec.structs.replace(found, parity=parity, verdicts=verdicts)
