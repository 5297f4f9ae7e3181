"""Component: export every source model to ONNX, as a model package with signature and golden sample."""

from kfp import dsl

from components.step import step


@step
def package_models(
    project_file: str,
    project_digest: str,
    target: str,
    release_id: str,
    source: dsl.Input[dsl.Model],
    training_set: dsl.Input[dsl.Dataset],
    packages: dsl.Output[dsl.Model],
) -> list:
    from pathlib import Path

    from tidegate.optimization.search.search import variants_to_build
    from tidegate.project import load_project
    from tidegate.release.model import package_models as package
    from tidegate.release.parameters import list_parameter

    project = load_project(project_file, digest=project_digest, target=target)
    packages.metadata["candidates"] = package(
        project,
        release_id=release_id,
        source=Path(source.path),
        training_set=Path(training_set.path),
        out=Path(packages.path),
    )
    return list_parameter("variants to build", variants_to_build(project, Path(packages.path)))
