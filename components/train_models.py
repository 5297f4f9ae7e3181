"""Component: call the project's train function; every candidate it returns becomes a source model."""

from kfp import dsl

from components.step import step


@step
def train_models(
    project_file: str, project_digest: str, target: str, training_set: dsl.Input[dsl.Dataset], source: dsl.Output[dsl.Model]
) -> None:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.training.train import train_candidates

    project = load_project(project_file, digest=project_digest, target=target)
    source.metadata["candidates"] = train_candidates(project, Path(training_set.path), Path(source.path))
