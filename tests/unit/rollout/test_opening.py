"""Which metrics source a project's rollouts are judged by."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.errors import RolloutError
from tidegate.project import Project, load_project
from tidegate.rollout import prometheus_api
from tidegate.rollout.opening import PROMETHEUS_VARIABLE, Unobserved, open_metrics_source
from tidegate.rollout.prometheus import PrometheusMetricsSource
from tidegate.rollout.scrape import ScrapeMetricsSource


@pytest.fixture
def project(tmp_path: Path, project_text: str):
    def make(target: str = "kserve", strategy: str = "canary", **cluster: Any) -> Project:
        document = yaml.safe_load(project_text)
        document["rollout"]["strategy"] = strategy
        document["cluster"] = {"store": "s3://models/flights", **cluster}
        (tmp_path / "tidegate.yaml").write_text(yaml.safe_dump(document))
        return load_project(tmp_path / "tidegate.yaml", target=target)

    return make


PROMETHEUS = {"url": "http://prometheus.monitoring:9090"}


def test_this_machine_is_scraped(project) -> None:
    assert isinstance(open_metrics_source(project("local")), ScrapeMetricsSource)


def test_a_cluster_is_seen_through_prometheus(project) -> None:
    source = open_metrics_source(project(prometheus=PROMETHEUS))

    assert isinstance(source, PrometheusMetricsSource)


def test_without_prometheus_nothing_is_judged(project) -> None:
    with pytest.raises(RolloutError, match=r"cluster\.prometheus: required to judge a canary, but not given; name its url"):
        open_metrics_source(project())


def test_what_is_not_judged_needs_none(project) -> None:
    source = open_metrics_source(project(strategy="replace"))

    assert isinstance(source, Unobserved)
    with pytest.raises(RolloutError, match="cannot be observed"):
        source.observe("flights-late")


def test_prometheus_may_have_another_address_here(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROMETHEUS_VARIABLE, "http://127.0.0.1:1/")
    monkeypatch.setattr(prometheus_api, "_PATIENCE", 0.1)
    source = open_metrics_source(project(prometheus=PROMETHEUS))

    with pytest.raises(RolloutError, match=r"Prometheus at http://127\.0\.0\.1:1 cannot be reached"):
        source._api.now()


def test_an_address_that_is_none_is_refused(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROMETHEUS_VARIABLE, "localhost:9090")

    with pytest.raises(RolloutError, match="TIDEGATE_PROMETHEUS_URL: 'localhost:9090' is not an HTTP address"):
        open_metrics_source(project(prometheus=PROMETHEUS))
