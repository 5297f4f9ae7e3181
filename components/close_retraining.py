"""Component: record how the release of a retraining ended, and return that in words."""

from components.step import step


@step
def close_retraining(project_file: str, project_digest: str, target: str, retraining: int, release_id: str) -> str:
    from tidegate.project import load_project
    from tidegate.release.parameters import text_parameter
    from tidegate.release.retraining import close_retraining as close

    project = load_project(project_file, digest=project_digest, target=target)
    return text_parameter(close(project, number=retraining, release_id=release_id))
