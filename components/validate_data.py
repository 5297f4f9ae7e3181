"""Component: the data gate. Returns whether the training set may be trained on; the report says why."""

from kfp import dsl

from components.step import step


@step
def validate_data(
    project_file: str,
    project_digest: str,
    target: str,
    release_id: str,
    training_set: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.data import validate_data as validate

    project = load_project(project_file, digest=project_digest, target=target)
    passed, verdicts = validate(project, release_id=release_id, training_set=Path(training_set.path), report=Path(report.path))
    metrics.log_metric("checks", len(verdicts))
    metrics.log_metric("checks_failed", sum(not verdict.passed for verdict in verdicts))
    return passed
