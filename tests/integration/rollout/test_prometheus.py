"""What the judge sees through a real Prometheus: the truth after restarts, of pods that are gone, and over an outage."""

import time

import pytest

from tidegate.errors import RolloutError
from tidegate.rollout import prometheus_api

STABLE, CANARY = "flights-v1-predictor", "flights-v2-predictor"


def seen(source):
    return {revision: (one.requests, one.errors) for revision, one in source.observe("flights").items()}


def test_counts_are_the_truth_over_restarts_and_vanished_pods(prometheus, exporter, observe):
    gateways = [exporter(pod="gateway-a"), exporter(pod="gateway-b")]
    servers = [exporter(pod="v1-a"), exporter(pod="v1-b")]
    gateways[0].count_istio(STABLE, 900)
    gateways[0].count_istio(CANARY, 80)
    gateways[0].count_istio(CANARY, 3, code=503)
    gateways[1].count_istio(STABLE, 50)
    gateways[1].count_istio(CANARY, 2, code=0)
    gateways[1].count_istio("flights-v10-predictor", 5_000)
    gateways[1].count_istio(CANARY, 7_000, reporter="destination")
    servers[0].count_latency("v1", 600, bucket=20)
    servers[1].count_latency("v1", 340, bucket=30)
    prometheus.start()
    for one in (*gateways, *servers):
        prometheus.has_scraped(one.address)
    source = observe()
    assert seen(source) == {"v1": (950, 0), "v2": (85, 5)}

    gateways[0].restart()
    gateways[0].count_istio(STABLE, 10)
    servers[0].restart()
    servers[0].count_latency("v1", 7, bucket=20)
    gateways[1].stop()
    servers[1].stop()
    for one in (gateways[0], servers[0]):
        prometheus.has_scraped(one.address)
    assert seen(source) == {"v1": (960, 0), "v2": (85, 5)}

    gateways[0].count_istio(CANARY, 15)
    prometheus.has_scraped(gateways[0].address)
    assert seen(source) == {"v1": (960, 0), "v2": (100, 5)}
    latency = source.observe("flights")["v1"].latency
    assert {index: count for index, count in enumerate(latency.counts) if count} == {20: 607, 30: 340}
    assert seen(observe()) == {"v1": (960, 0), "v2": (100, 5)}  # as another process sees it


def test_outage_of_prometheus_is_an_error_and_then_all_of_it_is_seen(prometheus, exporter, observe, monkeypatch):
    monkeypatch.setattr(prometheus_api, "_PATIENCE", 1.0)
    gateway, server = exporter(pod="gateway"), exporter(pod="v1")
    gateway.count_istio(STABLE, 100)
    server.count_latency("v1", 100)
    prometheus.start()
    for one in (gateway, server):
        prometheus.has_scraped(one.address)
    source = observe()
    assert seen(source)["v1"] == (100, 0)

    prometheus.stop()
    gateway.count_istio(STABLE, 11)
    with pytest.raises(RolloutError, match=r"Prometheus at http://127\.0\.0\.1:\d+ cannot be reached: .*refused"):
        source.observe("flights")

    prometheus.start()
    prometheus.has_scraped(gateway.address)
    assert seen(source)["v1"] == (111, 0)


def test_silent_gateway_is_no_evidence(prometheus, exporter, observe):
    gateway, server = exporter(pod="gateway"), exporter(pod="v1")
    prometheus.start()
    prometheus.has_scraped(gateway.address)
    source = observe()
    with pytest.raises(RolloutError, match=r"holds no istio_requests_total\{reporter=\"source\"\}: is the gateway scraped"):
        source.observe("flights")

    gateway.count_istio("another-service", 1)
    prometheus.has_scraped(gateway.address)
    assert seen(source) == {"v1": (0, 0), "v2": (0, 0)}

    gateway.count_istio(STABLE, 1)
    prometheus.has_scraped(gateway.address)
    with pytest.raises(
        RolloutError, match=r'holds no tidegate_request_latency_seconds_bucket\{namespace="models",model="flights"'
    ):
        source.observe("flights")

    server.count_latency("v1", 1)
    prometheus.has_scraped(server.address)
    assert seen(source) == {"v1": (1, 0), "v2": (0, 0)}

    gateway.stop()
    with pytest.raises(RolloutError, match=r"has scraped no istio_requests_total.* for \d+ s: is the gateway up"):
        observe_for(15, source)


def observe_for(seconds, source):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert seen(source)["v1"] == (1, 0)
        time.sleep(0.25)
