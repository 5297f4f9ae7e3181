"""The cluster section: what it accepts, what it refuses in which words, and what it changes about a project."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate.errors import ProjectError
from tidegate.project import load_project


@pytest.fixture
def document(project_text: str) -> dict[str, Any]:
    document = yaml.safe_load(project_text)
    document["features"]["entity_rows"] = ".tidegate/data/flights.parquet"
    document["cluster"] = {"store": "s3://models/flights", "prometheus": {"url": "http://prometheus:9090/"}}
    return document


def load(folder: Path, document: dict[str, Any], target: str = "kserve") -> Any:
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(document))
    return load_project(file, target=target)


def put(document: dict[str, Any], field: str, value: object) -> None:
    *sections, last = field.split(".")
    for section in sections:
        document = document.setdefault(section, {})
    document[last] = value


def test_what_lies_on_one_machine_lies_elsewhere_on_a_cluster(tmp_path: Path, document: dict[str, Any]) -> None:
    here, there = load(tmp_path, document, "local"), load(tmp_path, document)

    assert (here.target, there.target) == ("local", "kserve")
    assert here.store_uri == f"file://{tmp_path}/.tidegate/store"
    assert there.store_uri == "s3://models/flights"
    assert here.paths.entity_rows == tmp_path / ".tidegate/data/flights.parquet"
    assert there.paths.workspace == Path("/tmp/tidegate")
    assert there.paths.entity_rows == Path("/tmp/tidegate/data/flights.parquet")
    assert there.paths.repository == here.paths.repository, "the code is in the image"
    assert here.digest == there.digest


def test_entity_rows_outside_the_workspace_are_in_the_image(tmp_path: Path, document: dict[str, Any]) -> None:
    document["features"]["entity_rows"] = "data/flights.parquet"

    assert load(tmp_path, document).paths.entity_rows == tmp_path / "data/flights.parquet"


def test_addresses_lose_their_last_slash(tmp_path: Path, document: dict[str, Any]) -> None:
    document["cluster"]["data"] = "s3://models/data/"

    cluster = load(tmp_path, document).on_cluster

    assert (cluster.data, cluster.prometheus.url) == ("s3://models/data", "http://prometheus:9090")


def test_a_project_without_a_cluster_runs_here_only(tmp_path: Path, document: dict[str, Any]) -> None:
    del document["cluster"]

    load(tmp_path, document, "local")
    with pytest.raises(ProjectError, match="cluster: required for target kserve, but not given; describe the cluster"):
        load(tmp_path, document)


def test_an_unknown_target(tmp_path: Path, document: dict[str, Any]) -> None:
    with pytest.raises(ProjectError, match="target 'sagemaker': there is none of that name; choose one of local, kserve"):
        load(tmp_path, document, "sagemaker")


ACCELERATOR = {"cluster.serving.accelerator": {}, "cluster.serving.runtime": "tidegate-onnx-gpu"}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="least"),
        pytest.param(ACCELERATOR, id="gpu"),
        pytest.param({**ACCELERATOR, "cluster.serving.accelerator.resource": "nvidia.com/mig-1g.10gb"}, id="mig-slice"),
        pytest.param({**ACCELERATOR, "cluster.serving.accelerator.resource": "nvidia.com/gpu.shared"}, id="time-sliced-gpu"),
        pytest.param({"cluster.serving.autoscaling": {"by": "cpu", "target": 70}, "cluster.serving.max_replicas": 4}, id="hpa"),
        pytest.param(
            {
                "cluster.serving.autoscaling": {"by": "prometheus", "query": "up", "target": 200},
                "cluster.serving.min_replicas": 0,
            },
            id="keda-to-zero",
        ),
        pytest.param({"cluster.mode": "Knative", "cluster.serving.min_replicas": 0}, id="knative-to-zero"),
        pytest.param({"cluster.online_store": "rediss://redis.flights:6380/1"}, id="redis-over-tls"),
        pytest.param({"rollout.strategy": "replace"}, id="replace"),
    ],
)
def test_accepted(tmp_path: Path, document: dict[str, Any], fields: dict[str, object]) -> None:
    for field, value in fields.items():
        put(document, field, value)

    load(tmp_path, document)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        pytest.param({"cluster.colour": "red"}, "cluster.colour: no such field (allowed: namespace, mode, store", id="unknown"),
        pytest.param(
            {"cluster.serving.colour": 1}, "cluster.serving.colour: no such field (allowed: runtime", id="unknown-deeper"
        ),
        pytest.param({"cluster": "x"}, "cluster: 'x': expected fields (allowed: namespace", id="no-section"),
        pytest.param({"cluster.store": "/srv"}, "cluster.store: '/srv': is not on S3; use 's3://bucket/prefix'", id="store"),
        pytest.param({"cluster.store": "s3:///prefix"}, "cluster.store: 's3:///prefix': names no bucket of S3", id="no-bucket"),
        pytest.param({"cluster.data": "s3://My Bucket/x"}, "names no bucket of S3; use 's3://bucket/prefix'", id="bucket"),
        pytest.param({"cluster.online_store": "redis://redis:port/0"}, "needs a host, a port from 1 to 65535", id="redis-port"),
        pytest.param({"cluster.online_store": "redis://redis/name"}, "and the number of a database", id="redis-database"),
        pytest.param({"cluster.prometheus.url": "http://:9090"}, "is not an HTTP address", id="no-host"),
        pytest.param(
            {"cluster.secrets": [{"variable": "A", "secret": "s", "key": key} for key in "kl"]},
            "yaml: cluster.secrets: 'A' is given twice; name each once",
            id="variable-twice",
        ),
        pytest.param(
            {"cluster.secrets": [{"variable": "A", "secret": "s", "key": "k", "value": "v"}]},
            "cluster.secrets.0.value: no such field (allowed: variable, secret, key)",
            id="unknown-in-a-list",
        ),
        pytest.param({"cluster.serving.cpu": 2}, "cpu: 2: input should be a valid string; put it in quotes", id="number"),
        pytest.param({"cluster.mode": "RawDeployment"}, "cluster.mode: 'RawDeployment': input should be", id="mode"),
        pytest.param({"cluster.namespace": "Flights"}, "cluster.namespace: 'Flights': use lower-case", id="namespace"),
        pytest.param({"cluster.online_store": "sqlite:///x"}, "is not an address of a Redis", id="online-store"),
        pytest.param(
            {"cluster.online_store": "redis://:secret@redis:6379"},
            "holds credentials; keep the password in a Secret, and name it under cluster.secrets",
            id="password-in-address",
        ),
        pytest.param({"cluster.prometheus.url": "prometheus:9090"}, "is not an HTTP address", id="prometheus"),
        pytest.param({"cluster.serving.memory": "1 GB"}, "cluster.serving.memory: '1 GB': is not a quantity", id="quantity"),
        pytest.param({"cluster.serving.accelerator.resource": "gpu"}, "resource: 'gpu': is not an extended", id="resource"),
        pytest.param({"cluster.serving.accelerator": {}}, "runtime tidegate-onnx runs on CPU", id="gpu-on-cpu-runtime"),
        pytest.param({"cluster.serving.runtime": "tidegate-onnx-gpu"}, "needs an accelerator", id="gpu-runtime-alone"),
        pytest.param({"cluster.serving.max_replicas": 3}, "is never reached without autoscaling", id="replicas-never-reached"),
        pytest.param({"cluster.serving.min_replicas": 3}, "must not be less than min_replicas (3)", id="replicas"),
        pytest.param({"cluster.serving.min_replicas": 0}, "min_replicas 0 needs Knative, or autoscaling", id="zero-replicas"),
        pytest.param(
            {"cluster.serving.min_replicas": 2},
            "yaml: cluster.serving: max_replicas (1) must not be less than min_replicas (2)",
            id="no-dump",
        ),
        pytest.param({"cluster.serving.autoscaling": {"by": "cpu", "target": 200}}, "it must be at most 100", id="hpa-target"),
        pytest.param(
            {"cluster.serving.autoscaling": {"by": "kafka"}}, "by kafka needs brokers, topic, consumer_group", id="kafka"
        ),
        pytest.param(
            {"cluster.serving.autoscaling": {"by": "rps"}}, "is Knative's; in Standard mode use cpu", id="knatives-metric"
        ),
        pytest.param(
            {"cluster.mode": "Knative", "cluster.serving.autoscaling": {"by": "prometheus", "query": "up"}},
            "is KEDA's, which KServe uses in Standard mode only",
            id="kedas-metric",
        ),
        pytest.param(
            {"cluster.mode": "Knative", "rollout.strategy": "replace"},
            "rollout.strategy replace needs cluster.mode Standard",
            id="replace-in-knative",
        ),
        pytest.param(
            {"cluster.serving.node_affinity": [{"key": "zone"}]}, "operator In needs values", id="affinity-without-values"
        ),
        pytest.param(
            {"cluster.serving.node_affinity": [{"key": "zone", "operator": "Exists", "values": ["a"]}]},
            "operator Exists takes no values",
            id="affinity-with-values",
        ),
        pytest.param(
            {"cluster.serving.node_affinity": [{"key": "memory", "operator": "Gt", "values": ["a lot"]}]},
            "operator Gt needs one whole number",
            id="affinity-with-text",
        ),
        pytest.param({"cluster.secrets": [{"variable": "A-B", "secret": "s", "key": "k"}]}, "variable: 'A-B'", id="variable"),
    ],
)
def test_refused(tmp_path: Path, document: dict[str, Any], fields: dict[str, object], says: str) -> None:
    for field, value in fields.items():
        put(document, field, value)

    with pytest.raises(ProjectError) as caught:
        load(tmp_path, document)

    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert "secret@" not in message
