"""The delivery, a pipeline within the release pipeline: roll the version out; however that ends, leave nothing half-done.

It is a pipeline of its own so that the exit handler encloses the rollout alone: around the loop over the variants it would fail
on Kubeflow (kubeflow/pipelines#12390), and kfp allows an exit handler at the top of a pipeline only.
"""

from kfp import dsl

from components.roll_out import roll_out
from components.settle_rollout import settle_rollout
from pipelines.placement import Placement


def deliver_pipeline(place: Placement) -> dsl.base_component.BaseComponent:
    """Return the delivery, its tasks placed by `place`."""

    @dsl.pipeline(name="tidegate-deliver", description="Roll a version out, and settle what an interrupted rollout left.")
    def deliver(
        project_file: str, project_digest: str, target: str, release_id: str, version: int, clock: str, reason: str
    ) -> None:
        project = {"project_file": project_file, "project_digest": project_digest, "target": target}

        settling = place.repeatable(settle_rollout(**project, release_id=release_id))
        with dsl.ExitHandler(settling, name="rollout"):
            place.once(roll_out(**project, release_id=release_id, version=version, clock=clock, reason=reason))

    return deliver
