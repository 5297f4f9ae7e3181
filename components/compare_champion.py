"""Component: the champion gate. Returns whether the challenger may replace the champion, judged on recent labels."""

from kfp import dsl

from components.step import step


@step
def compare_champion(
    project_file: str,
    project_digest: str,
    target: str,
    release_id: str,
    selection: dsl.Input[dsl.Model],
    training_set: dsl.Input[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> bool:
    import tempfile
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.evidence import gate_summary
    from tidegate.release.model import compare

    project = load_project(project_file, digest=project_digest, target=target)
    with tempfile.TemporaryDirectory() as workdir:
        verdict = compare(
            project,
            release_id=release_id,
            challenger=Path(selection.path) / "package",
            training_set=Path(training_set.path),
            workdir=Path(workdir),
        )
    if verdict.value is not None:
        metrics.log_metric("loss_against_champion_upper_bound", verdict.value)
    Path(summary.path).write_text(gate_summary(project, release_id, "champion"), encoding="utf-8")
    return verdict.passed
