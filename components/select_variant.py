"""Component: the parity, accuracy and benchmark gates over all variants, and the selection among the survivors."""

from kfp import dsl

from components.step import step


@step
def select_variant(
    project_file: str,
    project_digest: str,
    target: str,
    release_id: str,
    packages: dsl.Input[dsl.Model],
    variants: dsl.Input[list[dsl.Model]],
    training_set: dsl.Input[dsl.Dataset],
    selection: dsl.Output[dsl.Model],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    curves: dsl.Output[dsl.ClassificationMetrics],
) -> bool:
    from pathlib import Path

    from tidegate.packaging.format.package import read_manifest
    from tidegate.project import load_project
    from tidegate.release.evidence import confusion, roc_points
    from tidegate.release.model import select

    project = load_project(project_file, digest=project_digest, target=target)
    winner = select(
        project,
        release_id=release_id,
        packages=Path(packages.path),
        built=[Path(variant.path) for variant in variants],
        training_set=Path(training_set.path),
        out=Path(selection.path),
        report=Path(report.path),
    )
    if winner is None:
        return False
    package = Path(selection.path) / "package"
    selection.metadata["winner"] = winner
    for name, value in read_manifest(package).metrics.items():
        metrics.log_metric(name, value)
    curves.log_roc_curve(*roc_points(package))
    curves.log_confusion_matrix(*confusion(package))
    return True
