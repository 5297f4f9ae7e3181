"""The InferenceServices under kserve/ are what Tidegate itself writes for the flights project with the same settings.

`TIDEGATE_WRITE_MANIFESTS=1 pytest tests/unit/kserve/test_inference_service.py` writes them anew after an intended change.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.companions import companion_documents
from tidegate.deployment.kserve.documents import knative_document, standard_document
from tidegate.deployment.kserve.rules import check_document
from tidegate.project import Project, load_project
from tidegate.project.cluster import ClusterSection
from tidegate.release.delivery import serving_environment

ROOT = Path(__file__).parents[3]
KSERVE = ROOT / "kserve"
HEADER = "# Written by tests/unit/kserve/test_inference_service.py from examples/flights/tidegate.yaml.\n"


@pytest.fixture(scope="module")
def project() -> Project:
    return load_project(ROOT / "examples/flights/tidegate.yaml", target="kserve")


def test_the_base_is_what_a_release_of_version_1_deploys(project, rendered):
    section = project.on_cluster
    document = standard_document(service_of(project, section), section)
    written(KSERVE / "inference-service/flights-late.yaml", document)

    assert inference_service(rendered(KSERVE / "inference-service")) == document


GPU = {"runtime": "tidegate-onnx-gpu"}
MIXED = {"nvidia.com/mig.strategy": "mixed"}
KAFKA = {
    "max_replicas": 20,
    "autoscaling": {
        "by": "kafka",
        "target": 100,
        "brokers": "kafka.kafka:9092",
        "topic": "flights",
        "consumer_group": "flights-late",
    },
}


@pytest.mark.parametrize(
    ("folder", "serving"),
    [
        pytest.param(
            "gpu",
            GPU | {"accelerator": {"node_selector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}},
            id="whole GPU",
        ),
        pytest.param(
            "mig",
            GPU
            | {"accelerator": {"resource": "nvidia.com/mig-1g.10gb", "node_selector": {"nvidia.com/mig.strategy": "mixed"}}},
            id="MIG slice",
        ),
        pytest.param(
            "time-slicing",
            GPU
            | {
                "accelerator": {
                    "resource": "nvidia.com/gpu.shared",
                    "node_selector": {"nvidia.com/gpu.sharing-strategy": "time-slicing"},
                }
            },
            id="share of a GPU",
        ),
        pytest.param(
            "logger",
            {"log_payloads_to": "http://broker-ingress.knative-eventing.svc.cluster.local/flights/default"},
            id="payload logger",
        ),
        pytest.param(
            "autoscaling/hpa",
            {"max_replicas": 20, "autoscaling": {"by": "memory", "target": 75}},
            id="HPA on memory",
        ),
        pytest.param(
            "autoscaling/keda-prometheus",
            {
                "max_replicas": 20,
                "autoscaling": {
                    "by": "prometheus",
                    "target": 200,
                    "query": 'sum(rate(tidegate_requests_total{model="flights-late"}[1m]))',
                },
            },
            id="KEDA on Prometheus",
        ),
        pytest.param("autoscaling/keda-kafka", KAFKA, id="KEDA on Kafka"),
    ],
)
def test_an_overlay_is_the_project_file_with_these_settings(folder, serving, project, rendered):
    section = changed(project.on_cluster, serving=serving)

    assert inference_service(rendered(KSERVE / "overlays" / folder)) == standard_document(service_of(project, section), section)


def test_knative_scale_to_zero_is_the_project_file_in_knative_mode(project, rendered):
    serving = {"min_replicas": 0, "max_replicas": 20, "spread": False, "autoscaling": {"by": "concurrency", "target": 8}}
    section = changed(project.on_cluster, mode="Knative", serving=serving)
    service = service_of(project, section)
    document = knative_document(service, section, latest=service.stable, percent=None)
    folder = KSERVE / "overlays/autoscaling/knative-scale-to-zero"
    written(folder / "flights-late.yaml", document)

    assert inference_service(rendered(folder)) == document


def test_the_scaled_object_for_kafka_is_what_goes_with_the_inference_service(project, rendered):
    section = changed(project.on_cluster, serving=KAFKA)
    folder = KSERVE / "overlays/autoscaling/keda-kafka"
    (companion,) = companion_documents(service_of(project, section), section)
    written(folder / "scaled-object.yaml", companion)

    assert [document for document in rendered(folder) if document["kind"] == "ScaledObject"] == [companion]


def test_the_shadow_answers_to_the_live_name_and_keeps_its_log_apart(project, rendered):
    live = service_of(project, project.on_cluster).stable.env
    shadow = inference_service(rendered(KSERVE / "overlays/shadow"))
    settings = {entry["name"]: entry.get("value") for entry in shadow["spec"]["predictor"]["model"]["env"]}

    check_document(shadow)
    assert settings["TIDEGATE_NAME"] == live["TIDEGATE_NAME"]
    assert settings["TIDEGATE_ONLINE_STORE"] == live["TIDEGATE_ONLINE_STORE"]
    assert settings["TIDEGATE_LOG_STORE"] != live["TIDEGATE_LOG_STORE"]


def test_the_transformer_is_started_with_what_it_knows(rendered):
    from kserve.model_server import parser

    from tidegate.deployment.kserve import feature_transformer

    service = inference_service(rendered(KSERVE / "overlays/transformer"))
    (container,) = service["spec"]["transformer"]["containers"]
    variables = {entry["name"] for entry in container["env"]}
    known = {option for action in parser._actions for option in action.option_strings}

    check_document(service)
    assert container["command"][2] == feature_transformer.__name__
    assert {argument.partition("=")[0] for argument in container["args"]} <= known
    assert {feature_transformer.PACKAGE_VARIABLE, feature_transformer.ONLINE_STORE_VARIABLE} <= variables


def service_of(project: Project, section: ClusterSection) -> Service:
    version = Revision(
        name="v1",
        storage_uri=f"{section.store}/models/{project.name}/versions/1/",
        env=serving_environment(project, clock="wall"),
        min_replicas=section.serving.min_replicas,
    )
    return Service(name=project.name, namespace=section.namespace, stable=version)


def changed(section: ClusterSection, *, serving: dict[str, Any], **fields: Any) -> ClusterSection:
    given = section.model_dump(mode="json")
    return ClusterSection.model_validate({**given, **fields, "serving": {**given["serving"], **serving}})


def inference_service(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == "InferenceService"]
    return found


def written(file: Path, document: dict[str, Any]) -> None:
    if os.environ.get("TIDEGATE_WRITE_MANIFESTS"):
        file.write_text(HEADER + yaml.safe_dump(document, sort_keys=False, width=10_000))
