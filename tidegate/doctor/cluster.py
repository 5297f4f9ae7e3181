"""What a project's cluster has of what the project needs there: KServe, its traffic splitting, runtime, stores, metrics."""

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlsplit

from tidegate.deployment.kserve.connection import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    KNATIVE_REVISIONS,
    PODS,
    Connection,
    Forbidden,
    Resource,
)
from tidegate.doctor.finding import Finding, examine
from tidegate.errors import DeploymentError
from tidegate.project import Project
from tidegate.project.cluster import ClusterSection, Prometheus

_RUNTIMES = Resource("serving.kserve.io", "v1alpha1", "servingruntimes", "KServe")
_SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
_PATIENCE = 5.0
_IN_A_POD = "KUBERNETES_SERVICE_HOST"


def examine_cluster(project: Project) -> Iterator[Finding]:
    """Yield what is found on the project's cluster; nothing is written there."""
    cluster = project.on_cluster
    connection = Connection.open().patient_for(_PATIENCE)
    reachable = examine(
        "KServe",
        lambda: _this_one(connection, INFERENCE_SERVICES, cluster.namespace, project.name),
        "check KUBECONFIG, that KServe is installed, and the account's Role (kserve/overlays/rbac)",
    )
    yield reachable
    if reachable.state == "ok":
        yield from _objects(connection, cluster, project.name)
    if cluster.online_store is None:
        yield Finding("online store", "optional", "cluster.online_store is not given", "needed for looked-up features")
    else:
        address = cluster.online_store
        fix = "check the address, and the password in TIDEGATE_ONLINE_STORE_PASSWORD"
        yield _inside("online store", address, lambda: _online_store(address), fix)
    if cluster.prometheus is None:
        yield Finding("Prometheus", "optional", "cluster.prometheus is not given", "needed to judge a canary")
    else:
        prometheus = cluster.prometheus
        yield _inside("Prometheus", prometheus.url, lambda: _prometheus(prometheus), "check cluster.prometheus")


def _objects(connection: Connection, cluster: ClusterSection, name: str) -> Iterator[Finding]:
    """Look with the calls that a rollout makes, so that its own account may look too; runtime and account it never reads."""
    namespace = cluster.namespace
    missing = f"{cluster.mode} mode splits traffic with it; install it, and bind the account's Role (kserve/overlays/rbac)"
    if cluster.mode == "Standard":
        yield examine(HTTP_ROUTES.brought_by, lambda: _this_one(connection, HTTP_ROUTES, namespace, name), missing)
    else:
        yield examine(KNATIVE_REVISIONS.brought_by, lambda: _listed(connection, KNATIVE_REVISIONS, namespace), missing)
    for resource in (DEPLOYMENTS, PODS):
        look = partial(_listed, connection, resource, namespace)
        yield examine(resource.plural, look, "bind the account's Role (kserve/overlays/rbac)")
    for subject, resource, wanted in (
        ("runtime", _RUNTIMES, cluster.serving.runtime),
        ("service account", _SERVICE_ACCOUNTS, cluster.serving.service_account),
    ):
        yield _needed(connection, subject, resource, namespace, wanted)


def _needed(connection: Connection, subject: str, resource: Resource, namespace: str, name: str) -> Finding:
    subject = f"{subject} {name}"
    fix = "kubectl apply -k the overlay that holds kserve/base (docs/cluster.md, 4)"
    try:
        found = connection.read(resource, namespace, name)
    except Forbidden:
        return Finding(subject, "optional", f"this account may not read {resource.plural}", "look with your own rights")
    except DeploymentError as error:
        return Finding(subject, "missing", str(error), fix)
    if found is None:
        return Finding(subject, "missing", f"no {resource.plural} {name} in namespace {namespace}", fix)
    return Finding(subject, "ok", f"in {namespace}")


def _listed(connection: Connection, resource: Resource, namespace: str) -> str:
    found = len(connection.list(resource, namespace, {}))
    return f"{found} {resource.plural} in {namespace}"


def _this_one(connection: Connection, resource: Resource, namespace: str, name: str) -> str:
    """Say whether the namespace has the object; either is well, as long as there can be one."""
    there = connection.read(resource, namespace, name) is not None
    return f"{resource.plural} {name} is in {namespace}" if there else f"no {resource.plural} {name} in {namespace} yet"


def _inside(subject: str, address: str, look: Callable[[], str], fix: str) -> Finding:
    """Ask what has its address inside the cluster; where that means nothing, it is not missing, but was not seen."""
    host = urlsplit(address).hostname or ""
    if not os.environ.get(_IN_A_POD) and not _is_known_here(host):
        found = f"{host} has no address on this machine, so it was not asked"
        return Finding(subject, "optional", found, "where it is the cluster's own, run this in a pod")
    return examine(subject, look, fix)


def _is_known_here(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False


def _online_store(address: str) -> str:
    from tidegate.features.online_opening import open_row_reader

    open_row_reader(address).close()
    return f"{address} answers"


def _prometheus(prometheus: Prometheus) -> str:
    from tidegate.rollout.prometheus_api import PrometheusApi

    PrometheusApi(prometheus).now()
    return f"{prometheus.url} answers"
