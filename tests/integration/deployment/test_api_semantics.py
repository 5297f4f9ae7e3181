"""What Tidegate relies on of a Kubernetes API server, asked of the tests' own and, where there is one, of a real one."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.deployment import kube_apiserver
from tests.kubernetes_api.api_server import ApiServer
from tests.kubernetes_api.cluster import client as client_of
from tests.kubernetes_api.webhook import check_schema
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve import connection as connections
from tidegate.deployment.kserve import standard
from tidegate.deployment.kserve.applied import edits, predictors, sealed
from tidegate.deployment.kserve.connection import (
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    KNATIVE_REVISIONS,
    PODS,
    Connection,
    NoSuchApi,
    Stale,
)
from tidegate.deployment.kserve.documents import standard_document
from tidegate.deployment.kserve.target import KServeTarget
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

CLUSTER = ClusterSection(store="s3://bucket/tidegate")
_numbers = iter(range(10**6))


@pytest.fixture(scope="module", params=["of-the-tests", "kube-apiserver"])
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Any]]:
    """A maker of clients, of either server."""
    if request.param == "kube-apiserver":
        with kube_apiserver.running(tmp_path_factory.mktemp("kubernetes")) as client:
            yield client
        return
    server = ApiServer()
    server.store.admissions[str(INFERENCE_SERVICES)] = [check_schema]
    server.unknown.add(str(KNATIVE_REVISIONS))
    with server.running():
        yield lambda: client_of(server.url)


@pytest.fixture
def api(load: Callable[[], Any]) -> Connection:
    return Connection(load, patience=5)


@pytest.fixture
def service() -> Service:
    revisions = [Revision(f"v{number}", f"s3://bucket/models/{number}/", {"TIDEGATE_CLOCK": "wall"}) for number in (1, 2)]
    return Service(f"flights-{next(_numbers)}", "default", revisions[0], revisions[1], 5)


def filled_in(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Build a document, and fill in what KServe's webhook would: there is none in these tests."""
    built = standard_document(*arguments, **options)
    for predictor in predictors(built):
        predictor["model"]["name"] = "kserve-container"
    return built


@pytest.fixture
def document(service: Service) -> dict[str, Any]:
    return sealed(filled_in(service, CLUSTER), "Standard")


def changed(live: dict[str, Any], **fields: Any) -> dict[str, Any]:
    new = copy.deepcopy(live)
    new["spec"]["canary"][0] |= fields
    return new


def test_what_was_written_is_read_back_whole(api, document):
    api.create(INFERENCE_SERVICES, document)

    live = api.read(INFERENCE_SERVICES, "default", document["metadata"]["name"])

    assert edits(live) == []
    assert live["metadata"]["generation"] == 1
    assert live["spec"]["canary"][0]["trafficPercent"] == 5


def test_what_is_not_there_is_none_and_what_cannot_be_is_said(api):
    assert api.read(INFERENCE_SERVICES, "default", "nothing") is None
    assert api.list(PODS, "default", {"app": "nothing"}) == []
    assert api.log("default", "nothing", "kserve-container", previous=False, lines=5) == ""
    with pytest.raises(NoSuchApi, match=r"does not know revisions.serving.knative.dev: Knative Serving is not installed"):
        api.list(KNATIVE_REVISIONS, "default", {})
    with pytest.raises(NoSuchApi):
        api.read(KNATIVE_REVISIONS, "default", "nothing")


def test_of_two_who_create_one_is_told(api, document):
    api.create(INFERENCE_SERVICES, document)

    with pytest.raises(Stale):
        api.create(INFERENCE_SERVICES, document)


def test_of_two_who_replace_the_later_is_told(api, document):
    live = api.create(INFERENCE_SERVICES, document)
    api.replace(INFERENCE_SERVICES, changed(live, trafficPercent=10))

    with pytest.raises(Stale):
        api.replace(INFERENCE_SERVICES, changed(live, trafficPercent=20))


def test_what_was_deleted_is_not_replaced(api, document):
    live = api.create(INFERENCE_SERVICES, document)
    api.delete(INFERENCE_SERVICES, live)

    with pytest.raises(Stale):
        api.replace(INFERENCE_SERVICES, changed(live, trafficPercent=10))
    assert api.read(INFERENCE_SERVICES, "default", document["metadata"]["name"]) is None


def test_deleting_is_for_the_object_that_was_read_and_repeatable(api, document):
    first = api.create(INFERENCE_SERVICES, document)
    api.delete(INFERENCE_SERVICES, first)
    api.delete(INFERENCE_SERVICES, first)
    api.create(INFERENCE_SERVICES, document)

    with pytest.raises(Stale):
        api.delete(INFERENCE_SERVICES, first)


def test_an_object_with_a_finalizer_stays_until_it_is_taken_away(api, document):
    document["metadata"]["finalizers"] = ["tests.tidegate.dev/finalizer"]
    live = api.create(INFERENCE_SERVICES, document)
    api.delete(INFERENCE_SERVICES, live)

    going = api.read(INFERENCE_SERVICES, "default", document["metadata"]["name"])
    assert going["metadata"]["deletionTimestamp"]

    going["metadata"]["finalizers"] = []
    api.replace(INFERENCE_SERVICES, going)
    assert api.read(INFERENCE_SERVICES, "default", document["metadata"]["name"]) is None


def test_the_generation_counts_specs_and_an_equal_object_is_not_written(api, document):
    live = api.create(INFERENCE_SERVICES, document)

    annotated = copy.deepcopy(live)
    annotated["metadata"]["annotations"]["note"] = "only"
    annotated = api.replace(INFERENCE_SERVICES, annotated)
    split = api.replace(INFERENCE_SERVICES, changed(annotated, trafficPercent=10))
    again = api.replace(INFERENCE_SERVICES, split)

    assert [each["metadata"]["generation"] for each in (live, annotated, split, again)] == [1, 1, 2, 2]
    versions = [each["metadata"]["resourceVersion"] for each in (live, annotated, split, again)]
    assert len(set(versions)) == 3
    assert versions[2] == versions[3]


def test_the_status_is_not_written_with_the_object(api, document):
    document["status"] = {"url": "http://forged"}
    live = api.create(INFERENCE_SERVICES, document)
    live["status"] = {"url": "http://forged"}

    assert "url" not in (api.replace(INFERENCE_SERVICES, live).get("status") or {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda spec: spec["canary"][0].update(trafficPercent=60),
            "spec.canary.0.trafficPercent is 60, but Tidegate set 5 (changed by kubectl-edit at ",
            id="share-of-the-traffic",
        ),
        pytest.param(
            lambda spec: spec["predictor"]["model"].update(storageUri="s3://bucket/models/7/"),
            'spec.predictor.model.storageUri is "s3://bucket/models/7/", but Tidegate set "s3://bucket/models/1/" '
            "(changed by kubectl-edit at ",
            id="model-package",
        ),
        pytest.param(
            lambda spec: spec.pop("canary"),
            "spec.canary is gone, but Tidegate set [",  # and no server says who took a field away
            id="canary-taken-away",
        ),
    ],
)
def test_who_edited_what_is_told(api, load, document, monkeypatch, change, told):
    live = api.create(INFERENCE_SERVICES, document)
    monkeypatch.setattr(connections, "FIELD_MANAGER", "kubectl-edit")
    change(live["spec"])

    edited = api.replace(INFERENCE_SERVICES, live)

    (sentence,) = edits(edited)
    assert told in sentence


def test_the_target_writes_once_what_it_is_told_twice(api, service, monkeypatch):
    monkeypatch.setattr(standard, "standard_document", filled_in)
    target = KServeTarget(CLUSTER, api=api)
    written = []
    for desired in (service.rolled_back(), service):
        for _ in range(2):
            target.apply(desired)
            written.append(api.read(INFERENCE_SERVICES, "default", service.name)["metadata"]["resourceVersion"])
        assert target.get(service.name) == desired

    assert written[0] == written[1] != written[2] == written[3]
    with pytest.raises(DeploymentError, match="KServe has not taken it up yet"):
        target.wait(service.name, timeout=0.2)
    target.delete(service.name)
    assert target.get(service.name) is None


def test_labels_select(api):
    for name, labels in (("one", {"app": "a", "part": "x"}), ("two", {"app": "a", "part": "y"})):
        api.create(DEPLOYMENTS, _deployment(f"{name}-{next(_numbers)}", labels))

    assert {found["metadata"]["labels"]["part"] for found in api.list(DEPLOYMENTS, "default", {"app": "a"})} == {"x", "y"}
    assert [found["metadata"]["labels"]["part"] for found in api.list(DEPLOYMENTS, "default", {"app": "a", "part": "y"})] == [
        "y"
    ]


def test_what_the_schema_refuses_is_told_in_one_line(api, document):
    document["spec"]["canary"][0]["trafficPercent"] = 101

    with pytest.raises(
        DeploymentError, match=r"refused to create inferenceservices.serving.kserve.io.*trafficPercent"
    ) as caught:
        api.create(INFERENCE_SERVICES, document)
    assert "\n" not in str(caught.value)


def _deployment(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    }
