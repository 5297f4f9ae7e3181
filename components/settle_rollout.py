"""Component: after the rollout, however it ended: roll back what is half-done, and say how the release ended and why."""

from kfp import dsl

from components.step import step


@step
def settle_rollout(
    project_file: str, project_digest: str, target: str, release_id: str, summary: dsl.Output[dsl.Markdown]
) -> str:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.evidence import release_summary
    from tidegate.release.parameters import text_parameter
    from tidegate.release.settlement import settle_rollout as settle

    project = load_project(project_file, digest=project_digest, target=target)
    ended = settle(project, release_id=release_id)
    Path(summary.path).write_text(release_summary(project, release_id), encoding="utf-8")
    return text_parameter(ended)
