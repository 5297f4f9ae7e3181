"""Component: record that the release of a claimed retraining starts."""

from components.step import step


@step
def begin_retraining(project_file: str, project_digest: str, target: str, retraining: int, release_id: str) -> None:
    from tidegate.project import load_project
    from tidegate.release.retraining import begin_retraining as begin

    begin(load_project(project_file, digest=project_digest, target=target), number=retraining, release_id=release_id)
