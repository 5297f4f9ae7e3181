"""Envoy's configuration, as documents: how traffic is split, checked and retried. Pure: no file, no process.

A service is one listener with one route table. A request is drawn for the canary with the canary's percentage, otherwise it
goes to the stable revision. The canary's route leads to an *aggregate* cluster, the canary first and the stable as its
fallback: a request that the canary fails, or that arrives while it is down, is answered by the stable.

Each role of a revision has clusters and counters of its own (`stable`, `canary`, `fallback`), so that first attempts stay
apart from what the fallback answers. With `first attempt` meaning a request drawn for a revision:

    vhost.<service>.route.<revision>.<role>.upstream_rq_completed    first attempts that were answered, by whomever
    vhost.<service>.route.<revision>.<role>.upstream_rq_5xx          ... and the answer was an error all the same
    vhost.<service>.route.<revision>.<role>.upstream_rq_retry_success   ... after a retry
    cluster.<service>.<canary revision>.fallback.<protocol>.upstream_rq_total   attempts that went to the canary's fallback
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

_TYPES = "type.googleapis.com/"
_CLUSTER = _TYPES + "envoy.config.cluster.v3.Cluster"
_LISTENER = _TYPES + "envoy.config.listener.v3.Listener"
_ROUTES = _TYPES + "envoy.config.route.v3.RouteConfiguration"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

READY_PATH = "/v2/health/ready"
REVISION_HEADER = "x-tidegate-revision"
CONNECT_TIMEOUT = "1s"
_IDLE_TIMEOUT = "60s"  # less than the server's, which would else close a connection just as a request is sent on it
TRY_TIMEOUT = "5s"
ROUTE_TIMEOUT = "15s"
_CONCURRENT = 8192
_RETRIED_BODY_BYTES = 16 * 1024 * 1024  # a larger request is passed on too, but not to the fallback
_PARTS_PER_PERCENT = 10_000  # of Envoy's denominator MILLION


@dataclass(frozen=True, slots=True)
class Backend:
    """A running revision as Envoy reaches it: `instance` tells apart two processes of one revision name."""

    service: str
    revision: str
    instance: str
    http_port: int
    grpc_port: int

    def cluster(self, role: str, protocol: str) -> str:
        """Return the name of the cluster that leads here in `role` by `protocol`."""
        return f"{self.service}.{self.instance}.{role}.{protocol}"


@dataclass(frozen=True, slots=True)
class Route:
    """How one service's traffic goes: to `stable`, and `percent` of it to `canary`."""

    service: str
    stable: Backend
    canary: Backend | None = None
    percent: int = 0

    def guarded(self, canary: Backend, protocol: str) -> str:
        """Return the name of the aggregate cluster: `canary`, and the stable as its fallback."""
        return canary.cluster(f"guarded-by.{self.stable.instance}", protocol)

    def fallback(self, canary: Backend, protocol: str) -> str:
        """Return the name of the cluster that leads to the stable for what `canary` does not answer."""
        return self.stable.cluster(f"fallback-of.{canary.instance}", protocol)


def bootstrap(directory: str, admin_port: int) -> Document:
    """Return the static configuration of an Envoy that takes all else from the files in `directory`."""
    return {
        "node": {"id": "tidegate-local", "cluster": "tidegate-local"},
        "admin": {"address": _address(admin_port)},
        "dynamic_resources": {
            "cds_config": _file(f"{directory}/clusters.json"),
            "lds_config": _file(f"{directory}/listeners.json"),
        },
    }


def clusters(routes: list[Route]) -> Document:
    """Return the clusters that `routes` need."""
    needed = {cluster["name"]: cluster for route in routes for cluster in _clusters_of(route)}
    return _discovery(_CLUSTER, [needed[name] for name in sorted(needed)])


def listeners(ports: dict[str, int], directory: str) -> Document:
    """Return one listener per service name, on its port of the loopback address."""
    return _discovery(_LISTENER, [_listener(service, port, directory) for service, port in sorted(ports.items())])


def routes(route: Route) -> Document:
    """Return the route table of one service."""
    table = [_weighted(route, protocol) for protocol in ("grpc", "http")]
    host = {"name": route.service, "domains": ["*"], "routes": [entry for entries in table for entry in entries]}
    return _discovery(
        _ROUTES, [{"name": route.service, "virtual_hosts": [host], "response_headers_to_add": [_revision_header()]}]
    )


def stat_name(service: str, revision: str, role: str, protocol: str) -> str:
    """Return the name under which Envoy counts what the cluster of `role` for `revision` does."""
    return f"{service}.{revision}.{role}.{protocol}"


def cluster_names(route: Route) -> list[str]:
    """Return the names of the clusters with endpoints that `route` needs."""
    return [cluster["name"] for cluster in _clusters_of(route) if "load_assignment" in cluster]


def _discovery(kind: str, resources: list[Document]) -> Document:
    typed = [{"@type": kind, **resource} for resource in resources]
    version = hashlib.sha256(json.dumps(typed, sort_keys=True).encode()).hexdigest()[:16]
    return {"version_info": version, "resources": typed}


def _weighted(route: Route, protocol: str) -> list[Document]:
    entries = []
    if route.canary is not None:
        share = {"default_value": {"numerator": route.percent * _PARTS_PER_PERCENT, "denominator": "MILLION"}}
        entries.append(_route(route.canary, "canary", route.guarded(route.canary, protocol), protocol, share))
    entries.append(_route(route.stable, "stable", route.stable.cluster("stable", protocol), protocol, None))
    return entries


def _route(backend: Backend, role: str, cluster: str, protocol: str, share: Document | None) -> Document:
    match: Document = {"prefix": "/"}
    if protocol == "grpc":
        match["grpc"] = {}
    if share is not None:
        match["runtime_fraction"] = share
    return {
        "match": match,
        "stat_prefix": f"{backend.revision}.{role}",
        "request_body_buffer_limit": _RETRIED_BODY_BYTES,
        "route": {"cluster": cluster, "timeout": ROUTE_TIMEOUT, "retry_policy": _retry_policy(role)},
    }


def _retry_policy(role: str) -> Document:
    return {
        # A canary's requests get one retry: a second would return to it, and no longer be a first attempt there. A worker that
        # dies leaves several connections behind, so that a retry to the stable may meet another of its.
        "num_retries": 1 if role == "canary" else 3,
        "retry_on": "connect-failure,refused-stream,reset,5xx,internal,unavailable",
        "per_try_timeout": TRY_TIMEOUT,
        "retry_priority": {
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": _TYPES + "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": 1,
            },
        },
    }


def _clusters_of(route: Route) -> list[Document]:
    stable, canary = route.stable, route.canary
    found = []
    for protocol in ("http", "grpc"):
        found.append(_cluster(stable, stable.cluster("stable", protocol), stable.revision, "stable", protocol))
        if canary is not None:
            found += [
                _cluster(stable, route.fallback(canary, protocol), canary.revision, "fallback", protocol),
                _cluster(canary, canary.cluster("canary", protocol), canary.revision, "canary", protocol),
                _aggregate(route, canary, protocol),
            ]
    return found


def _cluster(backend: Backend, name: str, counted_for: str, role: str, protocol: str) -> Document:
    http = protocol == "http"
    endpoint: Document = {
        "address": _address(backend.http_port if http else backend.grpc_port),
        "health_check_config": {"port_value": backend.http_port},
    }
    metadata = {"filter_metadata": {"tidegate": {"revision": backend.revision}}}
    options: Document = {"http_protocol_options": {}} if http else {"http2_protocol_options": {}}
    return {
        "name": name,
        "alt_stat_name": stat_name(backend.service, counted_for, role, protocol),
        "type": "STATIC",
        "connect_timeout": CONNECT_TIMEOUT,
        "circuit_breakers": _circuit_breakers(),
        "health_checks": [_health_check()],
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": _TYPES + _HTTP_OPTIONS,
                "common_http_protocol_options": {"idle_timeout": _IDLE_TIMEOUT},
                "explicit_http_config": options,
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint, "metadata": metadata}]}],
        },
    }


def _aggregate(route: Route, canary: Backend, protocol: str) -> Document:
    return {
        "name": route.guarded(canary, protocol),
        "connect_timeout": CONNECT_TIMEOUT,
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _circuit_breakers(),
        "cluster_type": {
            "name": "envoy.clusters.aggregate",
            "typed_config": {
                "@type": _TYPES + "envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                "clusters": [canary.cluster("canary", protocol), route.fallback(canary, protocol)],
            },
        },
    }


def _health_check() -> Document:
    return {
        "timeout": "1s",
        "interval": "1s",
        # Without it a host unused so far is checked once a minute only, and counts as dead until then.
        "no_traffic_interval": "1s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
        "http_health_check": {"path": READY_PATH, "host": "tidegate"},
    }


def _circuit_breakers() -> Document:
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    return {"thresholds": [dict.fromkeys(limits, _CONCURRENT)]}


def _listener(service: str, port: int, directory: str) -> Document:
    manager = {
        "@type": _TYPES + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service,
        "codec_type": "AUTO",
        "rds": {"route_config_name": service, "config_source": _file(f"{directory}/routes-{service}.json")},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _TYPES + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    return {
        "name": service,
        "address": _address(port),
        # A second process must not share the port unnoticed.
        "enable_reuse_port": False,
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    }


def _revision_header() -> Document:
    # The metadata of the endpoint that answered: right for a fallback too, and absent when none did.
    value = "%UPSTREAM_METADATA(tidegate:revision)%"
    return {"header": {"key": REVISION_HEADER, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _address(port: int) -> Document:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _file(path: str) -> Document:
    return {"path_config_source": {"path": path}, "resource_api_version": "V3"}
