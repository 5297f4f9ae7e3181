"""KEDA's documents that KServe does not write by itself."""

import pytest

from tidegate.deployment.kserve.companions import companion_documents
from tidegate.errors import DeploymentError

KAFKA = {"by": "kafka", "target": 50, "brokers": "kafka:9092", "topic": "requests", "consumer_group": "tidegate"}
PROMETHEUS = {"by": "prometheus", "query": "sum(up)"}
TOKEN = {"url": "https://thanos:9091", "token": "TOKEN"}
SECRET = {"variable": "TOKEN", "secret": "thanos", "key": "token"}


@pytest.mark.parametrize(
    ("in_place", "deployment"),
    [
        pytest.param(False, "flights-late-v1-predictor", id="canaries"),
        pytest.param(True, "flights-late-predictor", id="in-place"),
    ],
)
def test_a_lag_of_kafka_scales_the_stables_deployment(cluster, service, in_place, deployment, schema_errors):
    section = cluster(serving={"max_replicas": 6, "autoscaling": KAFKA})

    [scaled] = companion_documents(service, section, in_place=in_place)

    assert scaled["kind"] == "ScaledObject"
    assert scaled["metadata"] == {
        "name": "flights-late",
        "namespace": "flights",
        "labels": {"app.kubernetes.io/managed-by": "tidegate"},
    }
    assert scaled["spec"]["scaleTargetRef"] == {"name": deployment}
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (1, 6)
    assert scaled["spec"]["triggers"] == [
        {
            "type": "kafka",
            "metadata": {
                "bootstrapServers": "kafka:9092",
                "consumerGroup": "tidegate",
                "topic": "requests",
                "lagThreshold": "50",
            },
        }
    ]
    assert schema_errors(scaled) == []


def test_after_a_promotion_it_is_the_same_object_that_scales_the_new_stable(cluster, service):
    section = cluster(serving={"max_replicas": 6, "autoscaling": KAFKA})

    [before], [after] = companion_documents(service, section), companion_documents(service.promoted(), section)

    assert before["metadata"] == after["metadata"]
    assert after["spec"]["scaleTargetRef"] == {"name": "flights-late-v2-predictor"}


def test_prometheus_token_comes_from_the_secret_of_that_variable(cluster, service, schema_errors):
    section = cluster(serving={"max_replicas": 6, "autoscaling": PROMETHEUS}, prometheus=TOKEN, secrets=[SECRET])

    [authentication] = companion_documents(service, section)

    assert authentication["kind"] == "TriggerAuthentication"
    assert authentication["metadata"]["name"] == "tidegate-prometheus"
    assert authentication["spec"] == {"secretTargetRef": [{"parameter": "bearerToken", "name": "thanos", "key": "token"}]}
    assert schema_errors(authentication) == []


def test_a_token_without_a_secret_is_refused(cluster, service):
    section = cluster(serving={"max_replicas": 6, "autoscaling": PROMETHEUS}, prometheus=TOKEN)

    with pytest.raises(DeploymentError, match=r"no secret of cluster.secrets is for the variable TOKEN"):
        companion_documents(service, section)


@pytest.mark.parametrize(
    "section",
    [
        pytest.param({}, id="no-autoscaling"),
        pytest.param({"serving": {"max_replicas": 3, "autoscaling": {"by": "cpu"}}, "prometheus": TOKEN}, id="hpa"),
        pytest.param(
            {"serving": {"max_replicas": 3, "autoscaling": PROMETHEUS}, "prometheus": {"url": "http://prometheus:9090"}},
            id="prometheus-without-a-token",
        ),
        pytest.param({"mode": "Knative", "serving": {"max_replicas": 3, "autoscaling": {"by": "rps"}}}, id="knative"),
    ],
)
def test_mostly_there_are_none(cluster, service, section):
    assert companion_documents(service, cluster(**section)) == []


def test_kedas_schema_refuses_a_scaled_object_without_triggers(cluster, service, schema_errors):
    """So a canary beside KEDA is given the class `none`: KServe would write it a ScaledObject without triggers."""
    [scaled] = companion_documents(service, cluster(serving={"max_replicas": 6, "autoscaling": KAFKA}))
    del scaled["spec"]["triggers"]

    assert schema_errors(scaled) == ["spec: 'triggers' is a required property"]
