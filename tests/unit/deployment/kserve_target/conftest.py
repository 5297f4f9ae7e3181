"""A cluster of its own for each test, and the target over it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kubernetes_api.cluster import Cluster
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve import connection as connections
from tidegate.deployment.kserve import target as targets
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.project.cluster import ClusterSection

TIMEOUT = 20


class Bench:
    """A target, its simulated cluster, and revisions."""

    def __init__(self, cluster: Cluster, mode: str, **options: Any) -> None:
        self.cluster = cluster
        self.mode = mode
        self.section = ClusterSection(store="s3://bucket/tidegate", mode=mode)
        self.target = KServeTarget(self.section, api=cluster.connection(), **options)
        self.v1, self.v2, self.v3 = (revision(number) for number in (1, 2, 3))
        self.service = Service("flights", "default", self.v1)
        self.split = self.service.with_canary(self.v2, 20)

    def deploy(self, *services: Service) -> None:
        for service in services:
            self.target.apply(service)
            assert self.target.wait(service.name, timeout=TIMEOUT).settled

    def spec(self) -> dict[str, Any]:
        return self.cluster.live("flights")["spec"]

    def shares(self) -> dict[str, int]:
        status = self.target.status("flights")
        return {revision.name: revision.traffic_percent for revision in status.revisions if revision.traffic_percent}


def revision(number: int) -> Revision:
    return Revision(f"v{number}", f"s3://bucket/models/{number}/", {"TIDEGATE_CLOCK": "wall"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated cluster is quick: look often, and try again soon."""
    monkeypatch.setattr(targets, "_LONGEST_POLL", 0.1)
    monkeypatch.setattr(connections, "_FIRST_PAUSE", 0.02)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster().running() as running:
        yield running


@pytest.fixture
def make_bench(cluster: Cluster) -> Callable[..., Bench]:
    return lambda mode="Standard", **options: Bench(cluster, mode, **options)


@pytest.fixture(params=["Standard", "Knative"])
def bench(request: pytest.FixtureRequest, cluster: Cluster) -> Bench:
    return Bench(cluster, request.param)


@pytest.fixture
def standard(cluster: Cluster) -> Bench:
    return Bench(cluster, "Standard")


@pytest.fixture
def knative(cluster: Cluster) -> Bench:
    return Bench(cluster, "Knative")
