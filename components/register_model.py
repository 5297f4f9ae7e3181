"""Component: register the selected package as the next version, and point the alias `challenger` at it."""

from kfp import dsl

from components.step import step


@step
def register_model(
    project_file: str, project_digest: str, target: str, release_id: str, reason: str, selection: dsl.Input[dsl.Model]
) -> int:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.model import register

    project = load_project(project_file, digest=project_digest, target=target)
    return register(project, release_id=release_id, package=Path(selection.path) / "package", reason=reason)
