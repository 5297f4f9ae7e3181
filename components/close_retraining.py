"""Component: record how the release of a retraining ended, and return that in words."""

from components.step import step


@step
def close_retraining(project_file: str, project_digest: str, target: str, retraining: int, release_id: str) -> str:
    from tidegate.project import load_project
    from tidegate.release.retraining import close_retraining as close

    return close(load_project(project_file, digest=project_digest, target=target), number=retraining, release_id=release_id)
