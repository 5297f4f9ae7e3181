"""Standard mode: traffic moves before pods do, so that no request meets a Service without pods."""

from dataclasses import replace

import pytest

from tidegate.deployment.inference_service import Service
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.errors import DeploymentError

TIMEOUT = 20


def test_no_request_is_lost_through_a_whole_rollout(standard):
    for percent in (0, 5, 50, 100):
        standard.deploy(standard.service, standard.service.with_canary(standard.v2, percent))
    standard.deploy(standard.split.promoted())
    standard.deploy(standard.split.promoted().with_canary(standard.v3, 40), standard.split.promoted())
    standard.deploy(standard.service)

    assert standard.shares() == {"v1": 100}
    assert standard.cluster.standard.lost == []


def test_what_kserve_does_with_a_rollback_in_one_write_loses_requests(standard):
    """The simulation can tell: KServe deletes the canary's Deployment before it rewrites the route."""
    standard.deploy(standard.service, standard.service.with_canary(standard.v2, 50))

    standard.cluster.edit("flights", lambda document: document["spec"].pop("canary"))
    with pytest.raises(DeploymentError, match=r"spec\.canary is gone"):
        standard.target.wait("flights", timeout=2)

    assert standard.cluster.standard.lost != []


def test_a_canary_gets_nothing_before_it_is_ready(standard):
    standard.cluster.pods.fates["v2"] = "unschedulable"
    standard.deploy(standard.service)
    standard.target.apply(standard.split)

    with pytest.raises(DeploymentError):
        standard.target.wait("flights", timeout=0.5)

    assert standard.spec()["canary"][0]["trafficPercent"] == 0
    assert standard.target.get("flights") == standard.split


def test_a_promotion_first_gives_the_canary_everything_and_all_replicas(make_bench):
    bench = make_bench()
    service = Service("flights", "default", replace(bench.v1, min_replicas=2))
    split = service.with_canary(replace(bench.v2, min_replicas=3), 20)
    bench.deploy(service, split)

    bench.target.apply(split.promoted())

    assert bench.spec()["predictor"]["name"] == "v1"
    assert bench.spec()["canary"][0]["trafficPercent"] == 100
    assert bench.spec()["canary"][0]["predictor"]["minReplicas"] == 3
    assert bench.target.wait("flights", timeout=TIMEOUT).settled
    assert bench.shares() == {"v2": 100}


def test_pods_are_not_restarted_while_traffic_moves_nor_by_a_promotion(standard):
    standard.deploy(standard.service, standard.service.with_canary(standard.v2, 0))
    before = {pod["metadata"]["uid"] for pod in standard.cluster.store.list("pods", "default")}

    for percent in (5, 50, 100):
        standard.deploy(standard.service.with_canary(standard.v2, percent))
    assert {pod["metadata"]["uid"] for pod in standard.cluster.store.list("pods", "default")} == before
    standard.deploy(standard.split.promoted())

    (pod,) = standard.cluster.store.list("pods", "default")
    assert pod["metadata"]["uid"] in before


def test_without_gateway_api_a_canary_is_refused_and_a_replacement_is_not(standard):
    standard.cluster.standard.gateway = False
    standard.cluster.api.unknown.add("httproutes.gateway.networking.k8s.io")
    standard.deploy(standard.service)

    with pytest.raises(
        DeploymentError, match=r"can have no canary: the cluster has no HTTPRoute API; .*enableGatewayApi: true"
    ):
        standard.target.apply(standard.split)

    assert "canary" not in standard.spec()
    standard.deploy(standard.split.promoted())
    assert standard.shares() == {"v2": 100}


def test_a_service_without_a_route_can_have_no_canary(standard):
    standard.cluster.standard.gateway = False
    standard.deploy(standard.service)

    with pytest.raises(DeploymentError, match=r"KServe made no HTTPRoute for it; .* not cluster-local"):
        standard.target.apply(standard.split)


def test_a_kserve_that_splits_no_traffic_yet_serves_a_stable_and_refuses_a_canary(standard):
    standard.cluster.standard.before_0_21 = True
    standard.deploy(standard.service)

    with pytest.raises(DeploymentError, match=r"this KServe splits no traffic in Standard mode, .* from 0\.21 on; upgrade it"):
        standard.target.apply(standard.split)
    assert standard.shares() == {"v1": 100}


def test_a_gateway_that_refuses_the_route_is_told(standard):
    standard.cluster.standard.gateway_refuses = "NotAllowedByListeners"
    standard.target.apply(standard.service)

    with pytest.raises(DeploymentError, match=r"the gateway refuses HTTPRoute flights.*NotAllowedByListeners"):
        standard.target.wait("flights", timeout=1)


def test_in_place_there_is_one_deployment_and_no_canary(make_bench):
    bench = make_bench()
    bench.target = KServeTarget(bench.section, in_place=True, api=bench.cluster.connection())
    bench.deploy(bench.service, bench.split.promoted(), bench.service)

    assert bench.shares() == {"v1": 100}
    assert [found["metadata"]["name"] for found in bench.cluster.store.list("deployments.apps", "default")] == [
        "flights-predictor"
    ]
    with pytest.raises(DeploymentError, match="replaced in place, so there can be no canary"):
        bench.target.apply(bench.split)
