"""Opens the metrics source of the target that a project runs on."""

from tidegate.errors import RolloutError
from tidegate.project import Project
from tidegate.rollout.metrics_source import MetricsSource


def open_metrics_source(project: Project) -> MetricsSource:
    """Return what the judge of `project` sees: a scrape on this machine, Prometheus on a cluster.

    Raises:
        RolloutError: The cluster section names no Prometheus, so nothing could be judged.
        DeploymentError: No cluster can be reached with the configuration at hand.
    """
    if project.target == "kserve":
        from tidegate.deployment.kserve.target import KServeTarget
        from tidegate.rollout.prometheus import PrometheusMetricsSource

        cluster = project.on_cluster
        if cluster.prometheus is None:
            raise RolloutError("cluster.prometheus: required to judge a canary, but not given; name its url")
        return PrometheusMetricsSource(cluster.prometheus, KServeTarget(cluster))
    from tidegate.deployment.local.target import LocalTarget
    from tidegate.rollout.scrape import ScrapeMetricsSource

    return ScrapeMetricsSource(LocalTarget(project.paths.workspace))
