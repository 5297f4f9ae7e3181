"""The search for the variant to serve: build variants, gate them, time the survivors together, and select one.

In a pipeline, whose tasks it is spread over:

names = variants_to_build(project, packages)                   # ['mlp/graph-optimized', 'mlp/fp16', …]
outcomes = [build_variant(packages, name, out / name) for name in names]
selection = select_variant(project, packages, [out / name for name in names], training_set, chosen)
selection.winner                                               # 'mlp/int8-dynamic', or None; package in chosen/package/

On one machine, from a package: `optimize`.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization import variants
from tidegate.optimization.isolation.workers import Limits, Workers
from tidegate.optimization.records import PACKAGE_FOLDER, BuildOutcome, Selection, candidate_of, variant_of
from tidegate.optimization.search.build import build_variant_of, read_outcome, reasons_against
from tidegate.optimization.search.judgement import Trial
from tidegate.optimization.search.progress import Progress, Silent
from tidegate.optimization.search.question import Question
from tidegate.optimization.search.state import STATE_FOLDER, SearchState, key_of
from tidegate.optimization.search.trial import run_trial
from tidegate.optimization.search.winner import write_selection
from tidegate.packaging.format.manifest import MANIFEST_NAME
from tidegate.packaging.format.package import package_digest, verify_package
from tidegate.project import Project


def variants_to_build(project: Project, packages: Path) -> list[str]:
    """Return "candidate/variant" for every variant of the packages below `packages` that is worth a task of its own.

    Those that do not apply are left out; `select_variant` lists them with their reasons. A variant for a GPU is never left out,
    since only the machine that builds it knows. If nothing applies, one is returned nevertheless: a loop over nothing has no
    outputs that a pipeline could collect.

    Raises:
        OptimizationError: `gates.variants` names an unknown variant, or there is no package.
    """
    wanted, names = _wanted(project), []
    for candidate, package in _baselines(packages).items():
        refused = reasons_against(package, [variant for variant in wanted if not _is_elsewhere(variant)])
        names += [f"{candidate}/{variant}" for variant in wanted if variant not in refused]
    return names or [f"{next(iter(_baselines(packages)))}/{wanted[0]}"]


def build_variant(packages: Path, name: str, out: Path) -> BuildOutcome:
    """Build the variant `name` ("candidate/variant") of `packages/<candidate>`; see `build_variant_of`."""
    return build_variant_of(packages / candidate_of(name), name, out)


def select_variant(
    project: Project, packages: Path, built: Sequence[Path], training_set: Path, out: Path, limits: Limits | None = None
) -> Selection:
    """Hold every variant and baseline to the project's gates, time the survivors, and select one.

    Args:
        project: The project file.
        packages: Directory of the candidates' baseline packages.
        built: Directories that `build_variant` wrote.
        training_set: Parquet file with column `split`; its `holdout` rows and their labels are the accuracy gate's.
        out: Gets `selection.json`, and the winning package in `package/`, its manifest with verdicts, benchmark, metrics and
            how the others fared.
        limits: Of each variant's process; those of this machine by default.

    Returns:
        The selection. A failed gate is no error: `winner` is None if nothing survived, and then there is no `out/package/`.

    Raises:
        DataError: The holdout is missing, empty, or lacks a column or a class.
        PackageError: A package is corrupted.
    """
    question = Question(
        gates=project.gates,
        holdout=_holdout(training_set),
        label_column=project.label.column,
        seed=project.training.seed,
        limits=limits or Limits.of_this_machine(),
    )
    outcomes = {outcome.name: (outcome, folder) for folder in built for outcome in [read_outcome(folder)]}
    found: list[tuple[BuildOutcome, Path]] = []
    baselines = _baselines(packages)
    for candidate, package in baselines.items():
        names = [f"{candidate}/{variant}" for variant in _wanted(project)]
        refused = reasons_against(package, [variant_of(name) for name in names if name not in outcomes])
        for name in names:
            reason = refused.get(variant_of(name), "it was not built")
            found.append(outcomes.get(name) or (BuildOutcome(name=name, status="not-applicable", reason=reason), Path()))
    return select(question, list(baselines.values()), found, out)


def select(question: Question, baselines: Sequence[Path], built: Iterable[tuple[BuildOutcome, Path]], out: Path) -> Selection:
    """As `select_variant`, from the parts: baseline packages, and outcomes of builds with the folders they lie in."""
    with tempfile.TemporaryDirectory(prefix="tidegate-search-") as scratch, Workers() as workers:
        return _select(question, baselines, built, out, workers, SearchState(Path(scratch)), Silent())


def optimize(baseline: Path, names: Sequence[str], question: Question, out: Path, progress: Progress) -> Selection:
    """Build the named variants of one baseline package here, each in a process of its own, and select among them.

    If this is interrupted anywhere, even killed, then the same call goes on where it was: see `SearchState`.

    Args:
        baseline: The baseline package, verified.
        names: Of variants; those that do not apply are listed with their reasons.
        question: What is asked.
        out: As of `select_variant`.
        progress: Hears of every step.

    Raises:
        DataError: As `select_variant` does.
        OptimizationError: A name is unknown, or another search is writing to `out`.
    """
    state = SearchState(out / STATE_FOLDER)
    with state.in_use(), Workers() as workers:
        built = []
        progress.stage("Building", len(names))
        refused = reasons_against(baseline, map(variant_of, names))
        for name in names:
            built.append(_build(baseline, name, refused, question, state, workers))
            progress.step(name)
        return _select(question, [baseline], built, out, workers, state, progress)


def _select(
    question: Question,
    baselines: Sequence[Path],
    built: Iterable[tuple[BuildOutcome, Path]],
    out: Path,
    workers: Workers,
    state: SearchState,
    progress: Progress,
) -> Selection:
    outcomes = list(built)
    trials: list[Trial | BuildOutcome] = []
    for baseline in baselines:
        candidate = verify_package(baseline).variant.candidate
        trials.append(Trial.of_baseline(candidate, baseline))
        for outcome, folder in outcomes:
            if candidate_of(outcome.name) == candidate:
                trials.append(_trial(outcome, folder, baseline))
    selection, winner = run_trial(question, trials, workers=workers, state=state, progress=progress)
    write_selection(selection, winner, out)
    return selection


def _build(
    baseline: Path, name: str, refused: Mapping[str, str], question: Question, state: SearchState, workers: Workers
) -> tuple[BuildOutcome, Path]:
    parameters = variants.variant_builder(variant_of(name)).parameters
    key = key_of(package_digest(baseline), name, parameters, question.limits.seconds)
    folder, outcome = state.build_folder(name, key), state.outcome(name, key)
    if outcome is None:
        outcome = build_variant_of(baseline, name, folder, refused=refused, limits=question.limits, workers=workers)
    return outcome, folder


def _trial(outcome: BuildOutcome, folder: Path, baseline: Path) -> Trial | BuildOutcome:
    if not outcome.built:
        return outcome
    verify_package(folder / PACKAGE_FOLDER)
    return Trial(outcome.name, folder / PACKAGE_FOLDER, baseline, outcome.note)


def _wanted(project: Project) -> Sequence[str]:
    wanted = project.gates.variants
    if wanted is None:
        wanted = (*variants.variant_names("cpu"), *(variants.variant_names("tensorrt") if project.serves_on_gpu else ()))
    for variant in wanted:
        variants.variant_builder(variant)
    return wanted


def _is_elsewhere(variant: str) -> bool:
    return "cpu" not in variants.variant_builder(variant).targets


def _baselines(packages: Path) -> dict[str, Path]:
    found = {path.parent.name: path.parent for path in sorted(packages.glob(f"*/{MANIFEST_NAME}"))}
    if not found:
        raise OptimizationError(f"{packages}: holds no model package <candidate>/{MANIFEST_NAME}; package first")
    return found


def _holdout(training_set: Path) -> pa.Table:
    table = pq.ParquetFile(training_set).read()  # `read_table` would import pandas first
    if "split" not in table.column_names:
        raise DataError(f"training set {training_set}: column 'split' is missing; build it anew")
    return table.filter(pc.equal(table["split"], "holdout"))
