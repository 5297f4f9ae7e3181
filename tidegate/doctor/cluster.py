"""What a project's cluster has of what the project needs there: KServe, its traffic splitting, runtime, stores, metrics."""

from collections.abc import Iterator

from tidegate.deployment.kserve.connection import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    KNATIVE_REVISIONS,
    PODS,
    Connection,
    Resource,
)
from tidegate.doctor.finding import Finding, examine
from tidegate.errors import DeploymentError
from tidegate.project import Project
from tidegate.project.cluster import ClusterSection, Prometheus

_RUNTIMES = Resource("serving.kserve.io", "v1alpha1", "servingruntimes", "KServe")
_SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")
_PATIENCE = 5.0


def examine_cluster(project: Project) -> Iterator[Finding]:
    """Yield what is found on the project's cluster; nothing is written there."""
    cluster = project.on_cluster
    connection = Connection.open().patient_for(_PATIENCE)
    reachable = examine(
        "KServe", lambda: _listed(connection, INFERENCE_SERVICES, cluster.namespace), "install KServe; check KUBECONFIG"
    )
    yield reachable
    if reachable.state == "ok":
        yield from _objects(connection, cluster)
    if cluster.online_store is None:
        yield Finding("online store", "optional", "cluster.online_store is not given", "needed for looked-up features")
    else:
        address = cluster.online_store
        yield examine("online store", lambda: _online_store(address), "check the address, and the password's Secret")
    if cluster.prometheus is None:
        yield Finding("Prometheus", "optional", "cluster.prometheus is not given", "needed to judge a canary")
    else:
        prometheus = cluster.prometheus
        yield examine("Prometheus", lambda: _prometheus(prometheus), "check cluster.prometheus")


def _objects(connection: Connection, cluster: ClusterSection) -> Iterator[Finding]:
    splitting = HTTP_ROUTES if cluster.mode == "Standard" else KNATIVE_REVISIONS
    fix = f"{cluster.mode} mode splits traffic with it; install it, and bind the role under kserve/"
    yield examine(splitting.brought_by, lambda: _listed(connection, splitting, cluster.namespace), fix)
    yield examine("deployments", lambda: _listed(connection, DEPLOYMENTS, cluster.namespace))
    yield examine("pods", lambda: _listed(connection, PODS, cluster.namespace))
    runtime, account = cluster.serving.runtime, cluster.serving.service_account
    yield examine(f"runtime {runtime}", lambda: _runtime(connection, cluster), "kubectl apply -k kserve/runtimes")
    yield examine(
        f"service account {account}",
        lambda: _named(connection, _SERVICE_ACCOUNTS, cluster.namespace, account),
        "kubectl apply -k kserve/base",
    )


def _listed(connection: Connection, resource: Resource, namespace: str) -> str:
    found = len(connection.list(resource, namespace, {}))
    return f"{found} {resource.plural} in {namespace}"


def _named(connection: Connection, resource: Resource, namespace: str, name: str) -> str:
    if connection.read(resource, namespace, name) is None:
        raise DeploymentError(f"no {resource.plural} {name} in namespace {namespace}")
    return f"in {namespace}"


def _runtime(connection: Connection, cluster: ClusterSection) -> str:
    return _named(connection, _RUNTIMES, cluster.namespace, cluster.serving.runtime)


def _online_store(address: str) -> str:
    from tidegate.features.online_opening import open_row_reader

    open_row_reader(address).close()
    return f"{address} answers"


def _prometheus(prometheus: Prometheus) -> str:
    from tidegate.rollout.prometheus_api import PrometheusApi

    PrometheusApi(prometheus).now()
    return f"{prometheus.url} answers"
