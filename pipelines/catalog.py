"""The pipelines by name, placed on a project's cluster; `PIPELINES` are those that run on this machine."""

from kfp import dsl

from pipelines.batch import batch_pipeline
from pipelines.drift import drift_pipeline
from pipelines.placement import Placement
from pipelines.release import release_pipeline
from tidegate.project import ClusterSection


def pipelines_on(cluster: ClusterSection | None) -> dict[str, dsl.base_component.BaseComponent]:
    """Return every pipeline by name, its tasks placed on `cluster`, or nowhere in particular."""
    place = Placement(cluster)
    release = release_pipeline(place)
    return {"release": release, "drift": drift_pipeline(place, release), "batch": batch_pipeline(place)}


PIPELINES = pipelines_on(None)
