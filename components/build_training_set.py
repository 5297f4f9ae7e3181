"""Component: join the point-in-time training set of the window before the release's event time."""

from kfp import dsl

from components.step import step


@step
def build_training_set(
    project_file: str, project_digest: str, target: str, event_time: str, training_set: dsl.Output[dsl.Dataset]
) -> None:
    from datetime import datetime
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.data import write_training_set

    project = load_project(project_file, digest=project_digest, target=target)
    table = write_training_set(project, datetime.fromisoformat(event_time), Path(training_set.path))
    training_set.metadata["rows"] = table.num_rows
    training_set.metadata["columns"] = table.num_columns
