"""Component: score every example of a window with the champion, from point-in-time features, as Parquet."""

from kfp import dsl

from components.step import step


@step
def score_batch(
    project_file: str, project_digest: str, target: str, start: str, end: str, alias: str, predictions: dsl.Output[dsl.Dataset]
) -> int:
    from pathlib import Path

    from tidegate.project import load_project
    from tidegate.release.batch import read_moment, score_window

    project = load_project(project_file, digest=project_digest, target=target)
    scored = score_window(
        project,
        start=read_moment("start", start),
        end=read_moment("end", end),
        alias=alias,
        out=Path(predictions.path),
    )
    predictions.metadata["rows"] = scored.rows
    predictions.metadata["version"] = scored.version
    predictions.metadata["uri"] = scored.uri
    return scored.rows
