import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tidegate.deployment.local import envoy_config
from tidegate.deployment.local.envoy_config import Backend, Route
from tidegate.serving.settings import ServeSettings


def http_routes(route):
    return [entry for entry in envoy_config.routes(route)["resources"][0]["virtual_hosts"][0]["routes"] if not is_grpc(entry)]


def is_grpc(entry):
    return "grpc" in entry["match"]


def by_name(document):
    return {resource["name"]: resource for resource in document["resources"]}


def test_without_a_canary_all_goes_to_the_stable(backend):
    (only,) = http_routes(Route("flights", backend("v1")))

    assert only["match"] == {"prefix": "/"}
    assert only["route"]["cluster"] == "flights.v1-0a.stable.http"
    assert only["stat_prefix"] == "v1.stable"


@pytest.mark.parametrize("percent", [0, 5, 100])
def test_the_canary_is_drawn_by_its_percentage_then_the_stable_takes_the_rest(backend, percent):
    canary, stable = http_routes(Route("flights", backend("v1"), backend("v2"), percent))

    share = canary["match"]["runtime_fraction"]["default_value"]
    assert share == {"numerator": percent * 10_000, "denominator": "MILLION"}
    assert canary["route"]["cluster"] == "flights.v2-0a.guarded-by.v1-0a.http"
    assert (canary["stat_prefix"], stable["stat_prefix"]) == ("v2.canary", "v1.stable")
    assert "runtime_fraction" not in stable["match"]


def test_a_failed_first_attempt_is_retried_at_another_priority_and_never_twice_at_a_canary(backend):
    for entry, retries in zip(http_routes(Route("flights", backend("v1"), backend("v2"), 5)), (1, 3), strict=True):
        policy = entry["route"]["retry_policy"]
        assert policy["num_retries"] == retries
        assert policy["retry_on"].startswith("connect-failure,refused-stream,reset,5xx")
        assert policy["retry_priority"]["name"] == "envoy.retry_priorities.previous_priorities"


def test_the_canarys_cluster_falls_back_to_the_stable(backend):
    clusters = by_name(envoy_config.clusters([Route("flights", backend("v1"), backend("v2", port=20010), 5)]))

    guarded = clusters["flights.v2-0a.guarded-by.v1-0a.http"]["cluster_type"]["typed_config"]["clusters"]
    assert guarded == ["flights.v2-0a.canary.http", "flights.v1-0a.fallback-of.v2-0a.http"]
    fallback = clusters["flights.v1-0a.fallback-of.v2-0a.http"]
    (endpoint,) = fallback["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 20000}
    assert fallback["alt_stat_name"] == "flights.v2.fallback.http"


def test_every_cluster_with_an_endpoint_is_checked_and_allows_many_retries(backend):
    route = Route("flights", backend("v1"), backend("v2", port=20010), 5)
    clusters = by_name(envoy_config.clusters([route]))

    for name in envoy_config.cluster_names(route):
        (check,) = clusters[name]["health_checks"]
        assert (check["http_health_check"]["path"], check["no_traffic_interval"]) == ("/v2/health/ready", "1s")
    assert all(cluster["circuit_breakers"]["thresholds"][0]["max_retries"] == 8192 for cluster in clusters.values())


def test_envoy_closes_idle_connections_before_the_server_does(backend):
    clusters = by_name(envoy_config.clusters([Route("flights", backend("v1"), backend("v2", port=20010), 5)]))
    server_keeps = ServeSettings(package="").idle_seconds

    for name, cluster in clusters.items():
        options = cluster.get("typed_extension_protocol_options", {}).values()
        kept = [float(found["common_http_protocol_options"]["idle_timeout"].removesuffix("s")) for found in options]
        assert len(kept) == ("load_assignment" in cluster), name
        assert all(seconds < server_keeps for seconds in kept)


def test_grpc_goes_to_the_grpc_port_and_is_checked_at_the_http_port(backend):
    cluster = by_name(envoy_config.clusters([Route("flights", backend("v1"))]))["flights.v1-0a.stable.grpc"]

    (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == 20001
    assert endpoint["endpoint"]["health_check_config"]["port_value"] == 20000
    assert "http2_protocol_options" in json.dumps(cluster["typed_extension_protocol_options"])


def test_listeners_stay_on_the_loopback_address_and_share_no_port():
    (listener,) = envoy_config.listeners({"flights": 18080}, "/state/envoy")["resources"]

    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 18080}
    assert listener["enable_reuse_port"] is False
    assert "/state/envoy/routes-flights.json" in json.dumps(listener)


def test_clusters_that_routes_share_are_listed_once(backend):
    before, after = Route("flights", backend("v1"), backend("v2"), 5), Route("flights", backend("v1"), backend("v2"), 25)

    assert envoy_config.clusters([before, after]) == envoy_config.clusters([after])


backends = st.sampled_from(["v1", "v2", "v3"]).map(lambda name: Backend("flights", name, f"{name}-0a", 20000, 20001))
all_routes = st.builds(Route, st.just("flights"), backends, st.one_of(st.none(), backends), st.integers(0, 100))


@given(all_routes)
def test_every_cluster_that_is_named_is_defined(route):
    defined = by_name(envoy_config.clusters([route]))
    named = {entry["route"]["cluster"] for entry in envoy_config.routes(route)["resources"][0]["virtual_hosts"][0]["routes"]}
    for cluster in defined.values():
        named |= set(cluster.get("cluster_type", {}).get("typed_config", {}).get("clusters", []))

    assert named <= set(defined)


@given(all_routes, all_routes)
def test_versions_tell_route_tables_apart(one, other):
    same = envoy_config.routes(one)["version_info"] == envoy_config.routes(other)["version_info"]

    assert same == (envoy_config.routes(one) == envoy_config.routes(other))
