"""The batch pipeline: point-in-time features of a window → the champion → scored Parquet in the object store."""

from kfp import dsl

from components.score_batch import score_batch
from pipelines.placement import Placement


def batch_pipeline(place: Placement) -> dsl.base_component.BaseComponent:
    """Return the batch pipeline, its tasks placed by `place`."""

    @dsl.pipeline(name="tidegate-batch", description="Score every example of a window with the champion.")
    def batch(
        start: str,
        end: str,
        project_file: str = "tidegate.yaml",
        project_digest: str = "",
        target: str = "local",
        alias: str = "champion",
    ) -> None:
        """Score a window.

        Args:
            start: First event time, ISO 8601 with a time zone.
            end: Event time before which the window ends.
            project_file: The project file, relative to the working directory of the image.
            project_digest: `sha256:…` that the project file must have.
            target: Where the project runs: `local`, or `kserve`.
            alias: The alias of the version that scores.
        """
        project = {"project_file": project_file, "project_digest": project_digest, "target": target}
        place.repeatable(score_batch(**project, start=start, end=end, alias=alias))

    return batch
