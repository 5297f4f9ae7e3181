"""KEDA's documents beside an InferenceService: made, moved with the stable, removed, and never taken from somebody else."""

import pytest

from tidegate.deployment.kserve.target import KServeTarget
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

SCALED_OBJECTS, AUTHENTICATIONS = "scaledobjects.keda.sh", "triggerauthentications.keda.sh"
KAFKA = {"by": "kafka", "brokers": "kafka:9092", "topic": "requests", "consumer_group": "tidegate", "target": 50}
PROMQL = {"by": "prometheus", "query": "up", "target": 5}


@pytest.fixture
def scaled(standard):
    """Make another target of the same cluster, as another process would, by how the service scales."""

    def make(autoscaling, **fields):
        serving = {"max_replicas": 1 if autoscaling["by"] == "none" else 5, "autoscaling": autoscaling}
        section = ClusterSection.model_validate({"store": "s3://bucket/tidegate", "serving": serving, **fields})
        return KServeTarget(section, api=standard.cluster.connection())

    return make


@pytest.fixture
def kafka(scaled):
    return scaled(KAFKA)


def deploy(target, service):
    target.apply(service)
    target.wait(service.name, timeout=20)


def scaled_object(bench):
    return bench.cluster.store.read(SCALED_OBJECTS, "default", "flights")


def names(bench, resource):
    return [found["metadata"]["name"] for found in bench.cluster.store.list(resource, "default")]


def test_kafka_lag_scales_the_stables_deployment(standard, kafka):
    deploy(kafka, standard.service)

    found = scaled_object(standard)
    assert found["spec"]["scaleTargetRef"] == {"name": "flights-v1-predictor"}
    assert found["metadata"]["ownerReferences"][0]["uid"] == standard.cluster.live("flights")["metadata"]["uid"]


def test_it_follows_a_promotion(standard, kafka):
    for service in (standard.service, standard.split, standard.split.promoted()):
        deploy(kafka, service)

    assert scaled_object(standard)["spec"]["scaleTargetRef"] == {"name": "flights-v2-predictor"}


def test_applying_again_writes_nothing(standard, kafka, scaled):
    deploy(kafka, standard.service)
    writes = len(standard.cluster.api.writes())

    deploy(scaled(KAFKA), standard.service)

    assert len(standard.cluster.api.writes()) == writes


def test_it_goes_when_the_service_scales_otherwise(standard, kafka, scaled):
    deploy(kafka, standard.service)

    deploy(scaled({"by": "cpu", "target": 70}), standard.service)

    assert names(standard, SCALED_OBJECTS) == []


def test_what_somebody_changed_in_it_is_put_right(standard, kafka, scaled):
    deploy(kafka, standard.service)
    standard.cluster.store.edit(
        SCALED_OBJECTS, "default", "flights", lambda found: found["spec"].update(maxReplicaCount=1), "kubectl-edit"
    )

    deploy(scaled(KAFKA), standard.service)

    assert scaled_object(standard)["spec"]["maxReplicaCount"] == 5


FOREIGN = {"metadata": {"name": "flights", "namespace": "default"}, "spec": {"scaleTargetRef": {"name": "other"}}}


def test_somebody_elses_is_refused_where_ours_would_be(standard, kafka):
    standard.cluster.store.create(SCALED_OBJECTS, FOREIGN)

    with pytest.raises(DeploymentError, match="ScaledObject default/flights is not Tidegate's, but stands where"):
        kafka.apply(standard.service)

    assert scaled_object(standard)["spec"] == FOREIGN["spec"]


def test_somebody_elses_is_left_alone_otherwise(standard, scaled):
    standard.cluster.store.create(SCALED_OBJECTS, FOREIGN)

    deploy(scaled({"by": "cpu", "target": 70}), standard.service)

    assert scaled_object(standard)["spec"] == FOREIGN["spec"]


def test_a_promql_with_a_token_brings_its_authentication(standard, scaled):
    prometheus = {"url": "http://prometheus:9090", "token": "TOKEN"}
    secrets = [{"variable": "TOKEN", "secret": "prometheus", "key": "token"}]

    deploy(scaled(PROMQL, prometheus=prometheus, secrets=secrets), standard.service)

    [found] = standard.cluster.store.list(AUTHENTICATIONS, "default")
    assert found["spec"]["secretTargetRef"] == [{"parameter": "bearerToken", "name": "prometheus", "key": "token"}]
    assert names(standard, SCALED_OBJECTS) == [], "KServe makes that one itself"


@pytest.mark.parametrize("trouble", ["unknown", "forbidden"])
def test_without_keda_only_what_needs_it_is_refused(standard, kafka, scaled, trouble):
    if trouble == "unknown":
        standard.cluster.api.unknown.update({SCALED_OBJECTS, AUTHENTICATIONS})
    else:
        standard.cluster.api.forbidden.add(("GET", SCALED_OBJECTS))

    deploy(scaled({"by": "none"}), standard.service)
    with pytest.raises(DeploymentError, match=r"KEDA is not installed|may not read scaledobjects"):
        kafka.apply(standard.service)


def test_knative_has_none(knative):
    knative.deploy(knative.service)

    assert not [path for _, path in knative.cluster.api.requests if "keda" in path]
