import copy
from pathlib import Path

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given
from jsonschema import Draft7Validator

from tidegate.deployment.inference_service import MODE_ANNOTATION, Revision, Service
from tidegate.errors import DeploymentError

CRD = Path(__file__).parents[4] / "shared/specs/crds/serving.kserve.io_inferenceservices.yaml"
V1 = Revision("v1", "s3://bucket/flights/1/", env={"TIDEGATE_LOG_STORE": "s3://bucket"})
V2 = Revision("v2", "file:///models/flights/2/", min_replicas=2)
SERVICE = Service("flights-late", "default", V1).with_canary(V2, 25)

names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
revisions = st.builds(
    Revision,
    name=names,
    storage_uri=st.text(max_size=20).map(lambda path: f"s3://bucket/{path}/"),
    env=st.dictionaries(st.text(min_size=1, max_size=10), st.text(max_size=10), max_size=3),
    min_replicas=st.integers(0, 5),
)


@given(names, names, revisions, revisions, st.integers(0, 100))
def test_a_document_holds_all_of_a_service(name, namespace, stable, canary, percent):
    service = Service(name, namespace, stable)
    if canary.name != stable.name:
        service = service.with_canary(canary, percent)

    assert Service.from_document(service.to_document()) == service


def test_promotion_and_rollback():
    assert SERVICE.promoted() == Service("flights-late", "default", V2)
    assert SERVICE.rolled_back() == Service("flights-late", "default", V1)
    with pytest.raises(DeploymentError, match="flights-late has no canary to promote"):
        SERVICE.promoted().promoted()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Revision("V1", "s3://b/1/"), "revision name 'V1' must match", id="revision name"),
        pytest.param(lambda: Revision("v1", "s3://b/1"), "'s3://b/1' of revision v1 must end in '/'", id="storage uri"),
        pytest.param(lambda: Service("late_1", "default", V1), "service name 'late_1' must match", id="service name"),
        pytest.param(lambda: SERVICE.with_canary(V2, 101), "percent 101 must lie between 0 and 100", id="percent above"),
        pytest.param(lambda: SERVICE.with_canary(V2, -1), "percent -1 must lie between 0 and 100", id="percent below"),
        pytest.param(lambda: SERVICE.with_canary(V1, 5), "must not share the stable revision's name 'v1'", id="same name"),
        pytest.param(
            lambda: Service("late", "default", V1, canary_percent=5), "percent 5 without a canary", id="percent, no canary"
        ),
    ],
)
def test_what_no_service_may_be(make, message):
    with pytest.raises(DeploymentError, match=message):
        make()


def changed(change):
    document = copy.deepcopy(SERVICE.to_document())
    change(document)
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        pytest.param({}, "malformed: KeyError", id="empty"),
        pytest.param({"metadata": 1, "spec": 2}, "malformed: AttributeError", id="wrong types"),
        pytest.param(
            changed(lambda d: d["metadata"]["annotations"].update({MODE_ANNOTATION: "Knative"})),
            "is 'Knative'; spec.canary needs 'Standard'",
            id="Knative mode",
        ),
        pytest.param(changed(lambda d: d["metadata"].pop("annotations")), "is None; spec.canary needs", id="no mode"),
        pytest.param(
            changed(lambda d: d["spec"]["predictor"].update(canaryTrafficPercent=5)),
            "canaryTrafficPercent is ignored in Standard mode; use spec.canary",
            id="the other dialect",
        ),
        pytest.param(changed(lambda d: d["spec"]["canary"].append({})), "holds 2 canaries; one is supported", id="two"),
        pytest.param(changed(lambda d: d["spec"]["canary"][0].pop("trafficPercent")), "trafficPercent", id="no percent"),
        pytest.param(changed(lambda d: d["spec"]["canary"][0].update(trafficPercent="5")), "malformed", id="text percent"),
        pytest.param(changed(lambda d: d["spec"]["predictor"]["model"].pop("storageUri")), "storageUri", id="no package"),
        pytest.param(changed(lambda d: d["spec"]["predictor"].pop("name")), "name", id="no revision name"),
        pytest.param(
            changed(lambda d: d["spec"]["predictor"]["model"].update(env=[{"name": "A", "valueFrom": {}}])),
            "value",
            id="secret",
        ),
    ],
)
def test_documents_that_are_refused(document, message):
    with pytest.raises(DeploymentError, match=message):
        Service.from_document(document)


@pytest.fixture(scope="module")
def schema():
    document = yaml.load(CRD.read_text(), Loader=yaml.CSafeLoader)
    schema = document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    canary_model = schema["properties"]["spec"]["properties"]["canary"]["items"]["properties"]["predictor"]["properties"][
        "model"
    ]
    # KServe's webhook fills the name in before the API server checks it.
    canary_model["required"].remove("name")
    return schema


@pytest.mark.skipif(not CRD.exists(), reason=f"KServe's schema is not at {CRD}")
@pytest.mark.parametrize(
    "service", [pytest.param(SERVICE, id="with a canary"), pytest.param(SERVICE.rolled_back(), id="stable only")]
)
def test_documents_satisfy_kserves_schema(schema, service):
    assert list(Draft7Validator(schema).iter_errors(service.to_document())) == []
    broken = service.to_document()
    broken["spec"]["predictor"]["minReplicas"] = "one"
    assert list(Draft7Validator(schema).iter_errors(broken))
