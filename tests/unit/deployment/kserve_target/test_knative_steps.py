"""Knative mode: the order of the writes, and that a bad canary never gets what was not meant for it."""

import pytest

from tidegate.errors import DeploymentError

TIMEOUT = 20


def test_a_canary_waits_for_the_first_rollout(knative):
    knative.cluster.pods.fates["v1"] = "unschedulable"
    knative.target.apply(knative.split)

    assert "canaryTrafficPercent" not in knative.spec()["predictor"]
    assert knative.target.get("flights") == knative.split
    with pytest.raises(DeploymentError, match=r"revision v1: pod .* cannot be scheduled"):
        knative.target.wait("flights", timeout=0.5)

    knative.cluster.pods.fates["v1"] = "ready"
    assert knative.target.wait("flights", timeout=TIMEOUT).settled
    assert knative.shares() == {"v1": 80, "v2": 20}
    assert all(split.get("v2", 0) <= 20 for split in knative.cluster.knative.splits)


@pytest.mark.parametrize("percent", [20, 100])
def test_a_rollback_never_gives_the_canary_more(knative, percent):
    knative.deploy(knative.service, knative.service.with_canary(knative.v2, percent))
    knative.cluster.knative.splits.clear()

    knative.deploy(knative.service)

    shares = [split.get("v2", 0) for split in knative.cluster.knative.splits]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    assert "canaryTrafficPercent" not in knative.spec()["predictor"]


def test_a_rollback_takes_the_traffic_back_before_the_stable_is_ready_again(knative):
    knative.deploy(knative.service, knative.service.with_canary(knative.v2, 100))
    knative.cluster.pods.fates["v1"] = "unschedulable"  # from now on: the pod that runs stays
    knative.target.apply(knative.service)
    with pytest.raises(DeploymentError):
        knative.target.wait("flights", timeout=1)

    assert knative.shares().get("v2", 0) == 0


def test_a_promoted_revision_that_is_bad_loses_its_traffic_at_once(knative):
    knative.deploy(knative.service, knative.split, knative.split.promoted())
    knative.cluster.knative.splits.clear()

    knative.target.apply(knative.service)

    assert knative.spec()["predictor"]["canaryTrafficPercent"] == 0
    assert knative.spec()["predictor"]["labels"]["tidegate.dev/revision"] == "v2"
    assert knative.target.wait("flights", timeout=TIMEOUT).settled
    assert knative.shares() == {"v1": 100}


def test_what_kserve_pins_wrongly_is_noticed_and_repaired(knative):
    knative.deploy(knative.service, knative.split, knative.split.promoted())
    promoted = knative.split.promoted()
    knative.cluster.knative.delays = [8]  # the Route is ahead of the Configuration
    knative.cluster.knative.splits.clear()

    knative.deploy(promoted.with_canary(knative.v3, 20))

    assert any(split.get("v1") for split in knative.cluster.knative.splits), "KServe did not pin the wrong revision"
    assert knative.shares() == {"v2": 80, "v3": 20}
    assert all(split.get("v3", 0) <= 20 for split in knative.cluster.knative.splits)


def test_what_kserve_pins_wrongly_each_time_is_told_and_not_tried_for_ever(knative):
    promoted = knative.split.promoted()
    knative.deploy(knative.service, knative.split, promoted)
    knative.cluster.knative.delays = [8] * 100
    knative.target.apply(promoted.with_canary(knative.v3, 20))

    with pytest.raises(DeploymentError, match=r"does not stay where it is put: 12 steps .* of the traffic"):
        knative.target.wait("flights", timeout=60)


def test_a_canary_that_takes_another_canarys_place_does_not_inherit_its_traffic(knative):
    knative.deploy(knative.service, knative.service.with_canary(knative.v2, 50))
    knative.cluster.knative.splits.clear()

    knative.deploy(knative.service.with_canary(knative.v3, 10))

    assert knative.shares() == {"v1": 90, "v3": 10}
    assert all(split.get("v3", 0) <= 10 for split in knative.cluster.knative.splits)


def test_moving_traffic_makes_no_revision(knative):
    knative.deploy(knative.service)
    for percent in (0, 5, 50, 100):
        knative.deploy(knative.service.with_canary(knative.v2, percent))

    assert len(knative.cluster.store.list("revisions.serving.knative.dev", "default")) == 2
