"""Opens the target that a project runs on: the only place that chooses between this machine and a cluster."""

from tidegate.deployment.target import Target
from tidegate.project import Project


def open_target(project: Project) -> Target:
    """Return the target of `project`, as `load_project(…, target=…)` chose it.

    Raises:
        DeploymentError: No cluster can be reached with the configuration at hand.
    """
    if project.target == "kserve":
        from tidegate.deployment.kserve.target import KServeTarget

        return KServeTarget(project.on_cluster, in_place=project.rollout.strategy == "replace")
    from tidegate.deployment.local.target import LocalTarget

    return LocalTarget(project.paths.workspace)
