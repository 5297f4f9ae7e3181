"""The connection: what passes is waited out, what does not is one clear line, and no write is done twice."""

import copy
import time
from typing import Any

import pytest

from tests.kubernetes_api.api_server import Fault
from tests.kubernetes_api.cluster import Cluster, client
from tidegate.deployment.kserve import connection as connections
from tidegate.deployment.kserve.configuration import load_client
from tidegate.deployment.kserve.connection import DEPLOYMENTS, PODS, Connection, Forbidden, NoSuchApi, Stale, Unreachable
from tidegate.errors import DeploymentError

POD = {"metadata": {"name": "one", "namespace": "default", "labels": {"app": "a"}}, "spec": {"containers": [{"name": "c"}]}}


@pytest.fixture
def cluster():
    cluster = Cluster()
    with cluster.api.running():
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Connection:
    return cluster.connection(patience=5)


def fault(cluster: Cluster, what: str | int, **options: Any) -> None:
    cluster.api.faults.append(Fault(what, **options))


@pytest.mark.parametrize("what", ["drop", 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(cluster, api, what):
    fault(cluster, what, times=3)

    assert api.read(PODS, "default", "one") is None
    assert len(cluster.api.requests) == 4


def test_a_server_that_asks_for_time_gets_it(cluster, api):
    fault(cluster, 429, retry_after="1")

    began = time.monotonic()
    api.read(PODS, "default", "one")

    assert time.monotonic() - began >= 1


def test_an_answer_that_does_not_come_is_not_waited_for(cluster, api, monkeypatch):
    monkeypatch.setattr(connections, "_READ_SECONDS", 0.2)
    fault(cluster, "slow", seconds=2)

    began = time.monotonic()
    assert api.read(PODS, "default", "one") is None
    assert time.monotonic() - began < 1.5


def test_an_outage_ends_patience_with_one_line(cluster):
    fault(cluster, 503, times=10**6)

    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"API server does not answer \(GET pods\): an outage") as caught:
        cluster.connection(patience=0.5).read(PODS, "default", "one")

    assert time.monotonic() - began < 2
    assert "\n" not in str(caught.value)


def test_nobody_listens():
    with pytest.raises(Unreachable, match="Connection refused"):
        Connection(lambda: client("http://127.0.0.1:9"), patience=0.3).read(PODS, "default", "one")


def test_a_create_whose_answer_was_lost_is_told_as_stale_and_is_done(cluster, api):
    fault(cluster, "lose", method="POST")

    with pytest.raises(Stale):
        api.create(PODS, POD)
    assert api.read(PODS, "default", "one") is not None


def test_a_replacement_whose_answer_was_lost_is_told_as_stale_and_is_done_once(cluster, api):
    live = api.create(PODS, POD)
    live["spec"]["nodeName"] = "n1"
    fault(cluster, "lose", method="PUT")

    with pytest.raises(Stale):
        api.replace(PODS, live)
    assert api.read(PODS, "default", "one")["metadata"]["generation"] == 2


def test_a_deletion_whose_answer_was_lost_is_done(cluster, api):
    live = api.create(PODS, POD)
    fault(cluster, "lose", method="DELETE")

    api.delete(PODS, live)

    assert api.read(PODS, "default", "one") is None


def test_a_replacement_of_something_that_was_not_read_is_a_mistake(api):
    with pytest.raises(ValueError, match="resourceVersion"):
        api.replace(PODS, copy.deepcopy(POD))


def test_an_expired_token_is_renewed(cluster):
    tokens = iter(["old", "new"])
    cluster.api.token = "new"

    assert Connection(lambda: client(cluster.api.url, next(tokens))).read(PODS, "default", "one") is None


def test_a_token_that_stays_refused_is_told(cluster):
    cluster.api.token = "other"

    with pytest.raises(DeploymentError, match=r"does not accept the credentials .*renew the kubeconfig or the token"):
        Connection(lambda: client(cluster.api.url, "wrong")).read(PODS, "default", "one")


def test_what_may_not_be_done_is_told_with_verb_and_resource(cluster, api):
    cluster.api.forbidden.add(("POST", "pods"))

    with pytest.raises(Forbidden, match=r"may not create pods in namespace default: .*bind it to the role under kserve/"):
        api.create(PODS, POD)


def test_what_is_not_installed_is_told(cluster, api):
    cluster.api.unknown.add("deployments.apps")

    with pytest.raises(NoSuchApi, match=r"does not know deployments\.apps: Kubernetes is not installed"):
        api.read(DEPLOYMENTS, "default", "one")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "Invalid kube-config file", id="no-file"),
        pytest.param("{", "no cluster can be reached", id="not-yaml"),
        pytest.param("apiVersion: v1\nkind: Config\n", "no cluster can be reached", id="empty"),
        pytest.param(
            "apiVersion: v1\nkind: Config\ncurrent-context: gone\ncontexts: []\nclusters: []\nusers: []\n",
            "no cluster can be reached",
            id="no-such-context",
        ),
    ],
)
def test_a_configuration_that_cannot_be_read_is_told_in_one_line(tmp_path, monkeypatch, content, told):
    file = tmp_path / "kubeconfig"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(DeploymentError, match=told) as caught:
        load_client()
    assert "\n" not in str(caught.value)


def test_a_kubeconfig_is_used(tmp_path, monkeypatch, cluster):
    file = tmp_path / "kubeconfig"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
        f"clusters: [{{name: k, cluster: {{server: '{cluster.api.url}'}}}}]\n"
        "users: [{name: u, user: {token: secret}}]\n"
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    cluster.api.token = "secret"

    assert Connection.open().read(PODS, "default", "one") is None
