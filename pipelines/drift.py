"""The drift pipeline: check the last window of the inference log; if the drift policy says so, release a new version."""

from kfp import dsl

from components.begin_retraining import begin_retraining
from components.check_drift import check_drift
from components.close_retraining import close_retraining
from pipelines.placement import Placement


def drift_pipeline(place: Placement, release: dsl.base_component.BaseComponent) -> dsl.base_component.BaseComponent:
    """Return the drift pipeline, its tasks placed by `place`; `release` is the release pipeline, so placed."""

    @dsl.pipeline(name="tidegate-drift", description="Check for drift, and retrain once when the policy says so.")
    def drift(
        project_file: str = "tidegate.yaml",
        project_digest: str = "",
        target: str = "local",
        clock: str = "wall",
    ) -> None:
        """Check for drift.

        Args:
            project_file: The project file, relative to the working directory of the image.
            project_digest: `sha256:…` that the project file must have.
            target: Where the project runs: `local`, or `kserve`.
            clock: Event time: `wall`, `at:MOMENT` or `replay:PATH`.
        """
        project = {"project_file": project_file, "project_digest": project_digest, "target": target}
        run_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER

        check = place.repeatable(check_drift(**project, clock=clock, run_id=run_id))
        with dsl.If(check.outputs["Output"] == "retrain", name="policy-says-retrain"):
            retraining = check.outputs["retraining"]
            begun = place.repeatable(begin_retraining(**project, retraining=retraining, release_id=run_id))
            released = place.uncached(release(**project, clock=clock, reason=check.outputs["reason"])).after(begun)
            place.repeatable(close_retraining(**project, retraining=retraining, release_id=run_id)).after(released)

    return drift
