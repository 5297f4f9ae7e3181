"""The drift pipeline: check the last window of the inference log; if the drift policy says so, release a new version."""

from kfp import dsl

from components.check_drift import check_drift
from pipelines.caching import uncached
from pipelines.release import release


@dsl.pipeline(name="tidegate-drift", description="Check for drift, and retrain once when the policy says so.")
def drift(
    project_file: str = "tidegate.yaml",
    project_digest: str = "",
    clock: str = "wall",
) -> None:
    """Check for drift.

    Args:
        project_file: The project file, relative to the working directory of the image.
        project_digest: `sha256:…` that the project file must have.
        clock: Event time: `wall`, or `replay:PATH`.
    """
    check = uncached(check_drift(project_file=project_file, project_digest=project_digest, clock=clock))
    with dsl.If(check.outputs["Output"] == "retrain", name="policy-says-retrain"):
        release(project_file=project_file, project_digest=project_digest, clock=clock, reason=check.outputs["reason"])
