"""The search for the variant to serve: build variants, gate them, time the survivors together, and select one.

names = variant_names(project, packages)                       # ['mlp/graph-optimized', 'mlp/fp16', …]
outcomes = [build_variant(packages, name, out / name) for name in names]
selection = select_variant(project, packages, [out / name for name in names], training_set, chosen)
selection.winner                                               # 'mlp/int8-dynamic', or None; package in chosen/package/
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization import variants
from tidegate.optimization.build import build_variant_of, read_outcome
from tidegate.optimization.records import PACKAGE_FOLDER, SELECTION_NAME, BuildOutcome, Selection, SelectionRow, write_record
from tidegate.optimization.trial import Trial, run_trial
from tidegate.packaging.manifest import MANIFEST_NAME
from tidegate.packaging.package import copy_package, read_manifest, verify_package
from tidegate.project import GatesSection, Project


def variant_names(project: Project, packages: Path) -> list[str]:
    """Return "candidate/variant" for every variant to build of the packages below `packages`.

    Raises:
        OptimizationError: `gates.variants` names an unknown variant, or there is no package.
    """
    wanted = variants.variant_names() if project.gates.variants is None else project.gates.variants
    for variant in wanted:
        variants.variant_builder(variant)
    return [f"{candidate}/{variant}" for candidate in _baselines(packages) for variant in wanted]


def build_variant(packages: Path, name: str, out: Path) -> BuildOutcome:
    """Build the variant `name` ("candidate/variant") of `packages/<candidate>`; see `build_variant_of`."""
    return build_variant_of(packages / name.partition("/")[0], name, out)


def select_variant(project: Project, packages: Path, built: list[Path], training_set: Path, out: Path) -> Selection:
    """Hold every variant and baseline to the project's gates, time the survivors, and select one.

    Args:
        project: The project file.
        packages: Directory of the candidates' baseline packages.
        built: Directories that `build_variant` wrote.
        training_set: Parquet file with column `split`; its `holdout` rows and their labels are the accuracy gate's.
        out: Gets `selection.json`, and the winning package in `package/`, its manifest with verdicts, benchmark and metrics.

    Returns:
        The selection. A failed gate is no error: `winner` is None if nothing survived, and then there is no `out/package/`.

    Raises:
        DataError: The holdout is missing, empty, or lacks a column or a class.
        PackageError: A package is corrupted.
    """
    table = pq.read_table(training_set)
    if "split" not in table.column_names:
        raise DataError(f"training set {training_set}: column 'split' is missing; build it anew")
    holdout = table.filter(pc.equal(table["split"], "holdout"))
    return select(
        project.gates,
        list(_baselines(packages).values()),
        built,
        holdout,
        out,
        label_column=project.label.column,
        seed=project.training.seed,
    )


def select(
    gates: GatesSection,
    baselines: Sequence[Path],
    built: Sequence[Path],
    holdout: pa.Table,
    out: Path,
    *,
    label_column: str | None,
    seed: int,
) -> Selection:
    """As `select_variant`, from the parts: without a `label_column`, accuracy is not judged and the verdicts say so."""
    trials: list[Trial | BuildOutcome] = []
    for baseline in baselines:
        candidate = verify_package(baseline).variant.candidate
        trials.append(Trial.of_baseline(candidate, baseline))
        for folder in built:
            outcome = read_outcome(folder)
            if outcome.name.partition("/")[0] != candidate:
                continue
            if outcome.built:
                verify_package(folder / PACKAGE_FOLDER)
                trials.append(Trial(outcome.name, folder / PACKAGE_FOLDER, baseline))
            else:
                trials.append(outcome)
    selection, winner = run_trial(gates, trials, holdout, label_column=label_column, seed=seed)
    _write(selection, winner, out)
    return selection


def _baselines(packages: Path) -> dict[str, Path]:
    found = {path.parent.name: path.parent for path in sorted(packages.glob(f"*/{MANIFEST_NAME}"))}
    if not found:
        raise OptimizationError(f"{packages}: holds no model package <candidate>/{MANIFEST_NAME}; package first")
    return found


def _write(selection: Selection, winner: Path | None, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if selection.winner is None or winner is None:
        shutil.rmtree(out / PACKAGE_FOLDER, ignore_errors=True)
    else:
        _write_winner(selection, selection.row(selection.winner), winner, out / PACKAGE_FOLDER)
    write_record(out / SELECTION_NAME, selection)


def _write_winner(selection: Selection, row: SelectionRow, package: Path, to: Path) -> None:
    manifest = read_manifest(package)
    changes = {"verdicts": row.verdicts, "benchmark": selection.benchmark, "metrics": manifest.metrics | _metrics(row)}
    copy_package(package, to, msgspec.structs.replace(manifest, **changes))


def _metrics(row: SelectionRow) -> dict[str, float]:
    speed = row.speed()
    found = {
        **_accuracy(row),
        "parity_max_absolute": row.parity[0].max_absolute if row.parity else None,
        "p50_us": speed.p50_us if speed else None,
        "p95_us": speed.p95_us if speed else None,
        "p99_us": speed.p99_us if speed else None,
        "model_bytes": row.footprint.size_bytes if row.footprint else None,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _accuracy(row: SelectionRow) -> dict[str, float]:
    found = row.accuracy
    if found is None:
        return {}
    return {found.metric: found.value, f"{found.metric}_low": found.low, f"{found.metric}_high": found.high}
