"""Component: deploy the version as a canary, shift traffic step by step, and promote it or roll it back."""

from kfp import dsl

from components.step import step


@step
def roll_out(
    project_file: str,
    project_digest: str,
    target: str,
    release_id: str,
    version: int,
    clock: str,
    reason: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
) -> str:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.delivery import roll_out as deliver
    from tidegate.release.evidence import release_summary, rollout_metrics, rollout_page

    project = load_project(project_file, digest=project_digest, target=target)
    outcome = deliver(project, release_id=release_id, version=version, clock=clock, reason=reason)
    Path(report.path).write_text(rollout_page(project, release_id), encoding="utf-8")
    for name, value in rollout_metrics(project, release_id).items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(release_summary(project, release_id), encoding="utf-8")
    return outcome
