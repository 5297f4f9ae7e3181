"""Whatever a valid project file and a valid service ask for becomes documents that KServe takes, and that are read back."""

import copy
import string
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.documents import knative_document, read_service, standard_document
from tidegate.deployment.kserve.rules import check_document, check_update
from tidegate.errors import DeploymentError
from tidegate.project.cluster import ClusterSection

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
labels = st.dictionaries(
    st.sampled_from(["pool", "topology.kubernetes.io/zone", "nvidia.com/gpu.product"]), st.sampled_from(["", "a", "A-1_b.c"])
)
variables = st.text(string.ascii_uppercase + "_", min_size=1, max_size=6).map(lambda name: f"SETTING_{name}")
amounts = st.sampled_from(["1", "500m", "2.5", "1Gi", "512Mi", "1G"])
tolerations = st.lists(
    st.sampled_from([{"key": "spot"}, {"key": "dedicated", "operator": "Equal", "value": "serving", "effect": "NoExecute"}]),
    max_size=2,
)

rules = st.lists(
    st.sampled_from(
        [
            {"key": "topology.kubernetes.io/zone", "values": ["a", "b"]},
            {"key": "spot", "operator": "DoesNotExist"},
            {"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["40000"], "required": False},
        ]
    ),
    max_size=3,
)


@st.composite
def revisions(draw: st.DrawFn, name: str, least: int) -> Revision:
    env = draw(st.dictionaries(variables, st.text(max_size=8), max_size=3))
    return Revision(name, f"s3://bucket/{draw(names)}/{draw(st.integers(1, 99))}/", env=env, min_replicas=least)


@st.composite
def services(draw: st.DrawFn, section: ClusterSection) -> Service:
    least = section.serving.min_replicas
    alone = Service(draw(names), draw(names), draw(revisions("v1", least)))
    if draw(st.booleans()):
        return alone
    return alone.with_canary(draw(revisions("v2", least)), draw(st.integers(0, 100)))


@st.composite
def accelerators(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "resource": draw(st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "nvidia.com/gpu.shared"])),
        "count": draw(st.integers(1, 16)),
        "node_selector": draw(labels),
        "tolerations": draw(tolerations),
        "runtime_class": draw(st.sampled_from([None, "nvidia"])),
        "shared_memory": draw(st.sampled_from([None, "1Gi"])),
    }


@st.composite
def sections(draw: st.DrawFn, mode: str) -> ClusterSection:
    scalers = ["none", "cpu", "memory", *(["concurrency", "rps"] if mode == "Knative" else ["prometheus", "kafka"])]
    by = draw(st.sampled_from(scalers))
    accelerator = draw(st.none() | accelerators())
    to_zero = by in ("concurrency", "rps", "prometheus", "kafka") or (by == "none" and mode == "Knative")
    least = draw(st.integers(0 if to_zero else 1, 3))
    return ClusterSection.model_validate(
        {
            "store": "s3://bucket/tidegate",
            "mode": mode,
            "prometheus": {"url": "http://prometheus:9090", "token": draw(st.sampled_from([None, "TOKEN"]))},
            "secrets": [{"variable": "TOKEN", "secret": "tokens", "key": "prometheus"}],
            "serving": {
                "runtime": draw(st.sampled_from(["tidegate-onnx-gpu", "tidegate-triton"])) if accelerator else "tidegate-onnx",
                "accelerator": accelerator,
                "min_replicas": least,
                "max_replicas": max(least, 1) if by == "none" else least + draw(st.integers(1, 5)),
                "cpu": draw(amounts),
                "memory": draw(amounts),
                "node_selector": draw(labels),
                "node_affinity": draw(rules),
                "tolerations": draw(tolerations),
                "spread": draw(st.booleans()),
                "request_timeout_seconds": draw(st.integers(1, 3600)),
                "log_payloads_to": draw(st.sampled_from([None, "http://sink"])),
                "autoscaling": {
                    "by": by,
                    "target": draw(st.integers(1, 100 if by in ("cpu", "memory") else 5000)),
                    "query": "up",
                    "brokers": "kafka:9092",
                    "topic": "requests",
                    "consumer_group": "tidegate",
                },
            },
        }
    )


@QUICK
@given(data=st.data())
def test_standard_documents(schema_errors: Callable[[dict[str, Any]], list[str]], data: st.DataObject) -> None:
    section = data.draw(sections("Standard"))
    service = data.draw(services(section))
    in_place = service.canary is None and data.draw(st.booleans())

    document = standard_document(service, section, in_place=in_place)

    check_document(document)
    assert schema_errors(document) == []
    assert read_service(document) == service
    assert standard_document(service, section, in_place=in_place) == document


@QUICK
@given(data=st.data())
def test_knative_documents(schema_errors: Callable[[dict[str, Any]], list[str]], data: st.DataObject) -> None:
    section = data.draw(sections("Knative"))
    service = data.draw(services(section))
    latest, percent = (service.canary, service.canary_percent) if service.canary else (service.stable, None)

    document = knative_document(service, section, latest=latest, percent=percent)

    check_document(document)
    assert schema_errors(document) == []
    assert read_service(document) == service
    assert knative_document(service, section, latest=latest, percent=percent) == document


@settings(max_examples=300, deadline=None)
@given(
    service=st.text(string.ascii_lowercase, min_size=1, max_size=45),
    namespace=st.text(string.ascii_lowercase, min_size=1, max_size=45),
    number=st.integers(1, 10**6),
)
def test_names_that_pass_give_no_name_that_kubernetes_refuses(service: str, namespace: str, number: int) -> None:
    section = ClusterSection.model_validate({"store": "s3://bucket/tidegate"})
    asked = Service(service, namespace, Revision(f"v{number}", f"s3://bucket/{number}/"))
    longest = max(len(f"isvc.{service}-v{number}-predictor"), len(f"{service}-v{number}-predictor-{namespace}"))

    try:
        standard_document(asked, section)
    except DeploymentError as error:
        assert longest > 63
        assert "shorten" in str(error)  # noqa: PT017
    else:
        assert longest <= 63


@QUICK
@given(data=st.data())
def test_a_promotion_changes_nothing_about_the_canarys_pods(data: st.DataObject) -> None:
    section = data.draw(sections("Standard"))
    least = section.serving.min_replicas
    service = Service(data.draw(names), data.draw(names), data.draw(revisions("v1", least)))
    with_canary = service.with_canary(data.draw(revisions("v2", least)), data.draw(st.integers(0, 100)))
    before = standard_document(with_canary, section)
    after = standard_document(with_canary.promoted(), section)
    deployed = over(before["spec"]["predictor"], before["spec"]["canary"][0]["predictor"])

    was, becomes = pod_template(before, deployed), pod_template(after, after["spec"]["predictor"])

    scaler = "serving.kserve.io/autoscalerClass"
    if section.serving.autoscaling.by in ("prometheus", "kafka"):  # documented: a canary beside KEDA restarts then
        assert was["annotations"].pop(scaler) == "none"
        assert becomes["annotations"].pop(scaler) in ("keda", "external")
    assert was == becomes
    if service.stable.storage_uri != with_canary.promoted().stable.storage_uri:
        check_update(before, after)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_document_is_refused_in_one_line_or_accepted(data: st.DataObject) -> None:
    section = ClusterSection.model_validate({"store": "s3://bucket/tidegate"})
    service = Service("flights", "default", Revision("v1", "s3://bucket/1/")).with_canary(Revision("v2", "s3://bucket/2/"), 5)
    document = copy.deepcopy(standard_document(service, section))
    *path, last = data.draw(st.sampled_from(list(paths(document))))
    place: Any = document
    for key in path:
        place = place[key]
    place[last] = data.draw(json_values)

    for check in (check_document, read_service, lambda document: check_update(document, document)):
        try:
            check(document)
        except DeploymentError as error:
            assert "\n" not in str(error)  # noqa: PT017


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the parts of a document lie."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from paths(part, (*path, key))


def over(stable: Any, canary: Any) -> Any:
    """A canary as KServe deploys it: merged over a copy of the stable, lists whole, empty values not at all.

    buildCanaryPredictor of pkg/controller/v1beta1/inferenceservice/components/predictor.go, KServe at aaac4e2.
    """
    if isinstance(stable, dict) and isinstance(canary, dict):
        return stable | {key: over(stable.get(key), value) for key, value in canary.items()}
    return canary or stable


def pod_template(document: dict[str, Any], predictor: dict[str, Any]) -> dict[str, Any]:
    """What a Deployment's pods are made from: buildObjectMeta and buildPodSpec, in the same file."""
    about_replicas = {"name", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "autoScaling"}
    spec = {key: value for key, value in predictor.items() if key not in about_replicas | {"labels", "annotations"}}
    return {
        "labels": document["metadata"]["labels"] | predictor["labels"],
        "annotations": document["metadata"]["annotations"] | predictor["annotations"],
        "spec": spec,
    }
