"""Opens the metrics source of the target that a project runs on."""

import os

from tidegate.errors import RolloutError
from tidegate.project import Project
from tidegate.project.cluster import Prometheus
from tidegate.rollout.metrics_source import MetricsSource, RevisionCounters

PROMETHEUS_VARIABLE = "TIDEGATE_PROMETHEUS_URL"
_NONE_GIVEN = "cluster.prometheus: required to judge a canary, but not given; name its url"


def open_metrics_source(project: Project) -> MetricsSource:
    """Return what the judge of `project` sees: a scrape on this machine, Prometheus on a cluster.

    The variable TIDEGATE_PROMETHEUS_URL holds another address of the same Prometheus, for who is outside the cluster.

    Raises:
        RolloutError: The cluster section names no Prometheus, so nothing could be judged.
        DeploymentError: No cluster can be reached with the configuration at hand.
    """
    if project.target == "kserve":
        from tidegate.deployment.kserve.target import KServeTarget
        from tidegate.rollout.prometheus import PrometheusMetricsSource

        cluster = project.on_cluster
        if cluster.prometheus is None and project.rollout.strategy == "replace":
            return Unobserved()
        if cluster.prometheus is None:
            raise RolloutError(_NONE_GIVEN)
        return PrometheusMetricsSource(_as_reached_from_here(cluster.prometheus), KServeTarget(cluster))
    from tidegate.deployment.local.target import LocalTarget
    from tidegate.rollout.scrape import ScrapeMetricsSource

    return ScrapeMetricsSource(LocalTarget(project.paths.workspace))


class Unobserved:
    """The metrics source of rollouts that are not judged, where there is no Prometheus."""

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        """Raise RolloutError: there is nothing to see."""
        raise RolloutError(f"service {service} cannot be observed; {_NONE_GIVEN}")


def _as_reached_from_here(prometheus: Prometheus) -> Prometheus:
    address = os.environ.get(PROMETHEUS_VARIABLE, "").rstrip("/")
    if not address:
        return prometheus
    if not address.startswith(("http://", "https://")):
        raise RolloutError(f"{PROMETHEUS_VARIABLE}: {address!r} is not an HTTP address, such as 'http://127.0.0.1:9090'")
    return prometheus.model_copy(update={"url": address})
