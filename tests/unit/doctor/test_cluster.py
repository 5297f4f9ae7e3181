"""What the doctor sees of a cluster, with an API server that answers over HTTP: all there, parts missing, rights missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.kubernetes_api.api_server import KINDS, ApiServer
from tidegate.doctor.cluster import examine_cluster
from tidegate.doctor.finding import Finding
from tidegate.project import Project, load_project

RUNTIMES, ACCOUNTS = "servingruntimes.serving.kserve.io", "serviceaccounts"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setitem(KINDS, RUNTIMES, ("serving.kserve.io/v1alpha1", "ServingRuntime"))
    monkeypatch.setitem(KINDS, ACCOUNTS, ("v1", "ServiceAccount"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    server = ApiServer()
    with server.running():
        configuration = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(configuration))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield server


@pytest.fixture
def project(tmp_path: Path, project_text: str) -> Project:
    document = yaml.safe_load(project_text) | {
        "cluster": {
            "store": "s3://models/flights",
            "online_store": "redis://redis.invalid:6379/0",
            "prometheus": {"url": "http://prometheus.invalid:9090"},
        }
    }
    (tmp_path / "tidegate.yaml").write_text(yaml.safe_dump(document))
    return load_project(tmp_path / "tidegate.yaml", target="kserve")


def findings(project: Project) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine_cluster(project)}


def test_what_a_project_needs_is_there(api: ApiServer, project: Project) -> None:
    for resource, name in ((RUNTIMES, "tidegate-onnx"), (ACCOUNTS, "tidegate-serving")):
        api.store.create(resource, {"metadata": {"name": name, "namespace": "default"}})

    found = findings(project)

    here = {"KServe", "Gateway API", "deployments", "pods", "runtime tidegate-onnx", "service account tidegate-serving"}
    assert {subject for subject, finding in found.items() if finding.state == "ok"} == here
    assert api.writes() == []


def test_what_has_its_address_inside_the_cluster_is_not_missing_outside(api: ApiServer, project: Project) -> None:
    found = findings(project)

    for subject in ("online store", "Prometheus"):
        assert found[subject].state == "optional"
        assert "has no address on this machine" in found[subject].found


def test_the_base_is_not_applied(api: ApiServer, project: Project) -> None:
    found = findings(project)["runtime tidegate-onnx"]

    assert (found.state, found.found) == ("missing", "no servingruntimes tidegate-onnx in namespace default")
    assert "kserve/base" in found.fix


def test_no_kserve(api: ApiServer, project: Project) -> None:
    api.unknown.add("inferenceservices.serving.kserve.io")

    found = findings(project)

    assert found["KServe"].state == "missing"
    assert "KServe is not installed" in found["KServe"].found
    assert "Gateway API" not in found


def test_the_account_of_the_steps_sees_what_a_rollout_uses(api: ApiServer, project: Project) -> None:
    """It may read its InferenceService and route by name, and neither list them nor read runtimes and accounts."""
    api.forbidden |= {("GET", RUNTIMES), ("GET", ACCOUNTS)}

    found = findings(project)

    assert [found[subject].state for subject in ("KServe", "Gateway API", "deployments", "pods")] == ["ok"] * 4
    for subject in ("runtime tidegate-onnx", "service account tidegate-serving"):
        assert (found[subject].state, found[subject].fix) == ("optional", "look with your own rights")
    assert "/inferenceservices/" in next(path for _, path in api.requests if "inferenceservices" in path)
