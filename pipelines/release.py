"""The release pipeline: features → training set → data gate → train → package → variants → gates → register → roll out.

Each gate is a component that returns one bool; a gate that does not pass ends the run, its evidence shown, nothing deployed.
"""

from kfp import dsl

from components.build_training_set import build_training_set
from components.build_variant import build_variant
from components.compare_champion import compare_champion
from components.materialize_features import materialize_features
from components.package_models import package_models
from components.register_model import register_model
from components.select_variant import select_variant
from components.train_models import train_models
from components.validate_data import validate_data
from pipelines.deliver import deliver_pipeline
from pipelines.placement import Placement


def release_pipeline(place: Placement) -> dsl.base_component.BaseComponent:
    """Return the release pipeline, its tasks placed by `place`."""
    deliver = deliver_pipeline(place)

    @dsl.pipeline(name="tidegate-release", description="Train, prove, register and roll out a new version of a model.")
    def release(
        project_file: str = "tidegate.yaml",
        project_digest: str = "",
        target: str = "local",
        clock: str = "wall",
        reason: str = "started by hand",
    ) -> None:
        """Release a new version.

        Args:
            project_file: The project file, relative to the working directory of the image.
            project_digest: `sha256:…` that the project file must have.
            target: Where the project runs: `local`, or `kserve`.
            clock: Event time: `wall`, `at:MOMENT` or `replay:PATH`.
            reason: Why this release is made; recorded with the version.
        """
        project = {"project_file": project_file, "project_digest": project_digest, "target": target}
        release_id = dsl.PIPELINE_JOB_ID_PLACEHOLDER

        features = place.repeatable(materialize_features(**project, clock=clock, reason=reason, release_id=release_id))
        examples = place.repeatable(build_training_set(**project, event_time=features.output)).outputs["training_set"]
        data_gate = place.repeatable(validate_data(**project, release_id=release_id, training_set=examples))

        with dsl.If(data_gate.outputs["Output"] == True, name="data-gate-passed"):  # noqa: E712
            training = place.repeatable(train_models(**project, training_set=examples))
            packaging = place.repeatable(
                package_models(**project, release_id=release_id, source=training.outputs["source"], training_set=examples)
            )
            packages = packaging.outputs["packages"]
            with dsl.ParallelFor(packaging.outputs["Output"], name="variants") as name:
                building = place.as_serving(build_variant(name=name, packages=packages))
            selecting = place.as_serving(
                select_variant(
                    **project,
                    release_id=release_id,
                    packages=packages,
                    variants=dsl.Collected(building.outputs["variant"]),
                    training_set=examples,
                )
            )
            with dsl.If(selecting.outputs["Output"] == True, name="variant-gates-passed"):  # noqa: E712
                selection = selecting.outputs["selection"]
                champion_gate = place.repeatable(
                    compare_champion(**project, release_id=release_id, selection=selection, training_set=examples)
                )
                with dsl.If(champion_gate.outputs["Output"] == True, name="champion-gate-passed"):  # noqa: E712
                    version = place.repeatable(
                        register_model(**project, release_id=release_id, reason=reason, selection=selection)
                    ).output
                    place.uncached(deliver(**project, release_id=release_id, version=version, clock=clock, reason=reason))

    return release
