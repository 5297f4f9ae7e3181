"""How gateways count requests by revision: which series, and which label names the revision's backend.

A backend is a Kubernetes Service: in Standard mode the Service of a predictor, in Knative mode the Service of a Knative
revision, which bears the revision's name (knative/serving `pkg/reconciler/route/resources/ingress.go`: `ServiceName:
t.RevisionName`). What was read where:

istio   `istio_requests_total` of the proxies in front of the backend (`reporter="source"`), one a request, with its last
        answer: what Istio's own retries mended (two, within the revision; istio/istio of August 2026,
        `pilot/pkg/networking/core/route/retry/retry.go`) is not seen. Code 0 is a request that got no answer.
envoy   The counters of Envoy's clusters, where the cluster is the backend's own:
          Kourier        `<namespace>/<service>` (net-kourier, July 2026, `pkg/generator/ingress_translator.go`)
          Contour        `<namespace>_<service>_<port>` (contour, August 2026, `internal/envoy/cluster.go`, AltStatName)
          Envoy Gateway  `service/<namespace>/<service>/<port>`, only with `mergeBackends: {}` in its EnvoyProxy
                         (gateway 1.9.0, `internal/gatewayapi/helpers.go`, irBackendClusterName)
        Without mergeBackends Envoy Gateway puts all backends of a route's rule into one cluster
        (`internal/xds/translator/translator.go`), whose counters cannot be told apart by revision.
        `upstream_rq_xx` counts last answers, `retry_success` those that only a retry brought about: a first attempt failed in
        both. A request that its client gives up is in neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tidegate.rollout.prometheus_api import literal, matching, selector

ISTIO_REQUESTS = "istio_requests_total"
ENVOY_ANSWERS = "envoy_cluster_upstream_rq_xx"
ENVOY_ATTEMPTS = "envoy_cluster_upstream_rq_total"
ENVOY_MENDED = "envoy_cluster_upstream_rq_retry_success"
GATEWAY_METRICS = (ISTIO_REQUESTS, ENVOY_ANSWERS, ENVOY_ATTEMPTS, ENVOY_MENDED)

# UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS: the server's fault, as an HTTP status of 500 and above is.
_GRPC_ERRORS = ("2", "4", "13", "14", "15")


@dataclass(frozen=True, slots=True)
class Counted:
    """First attempts, and how many of them failed."""

    requests: int = 0
    errors: int = 0

    def __add__(self, other: "Counted") -> "Counted":
        """Return both together."""
        return Counted(self.requests + other.requests, self.errors + other.errors)


class Gateway(Protocol):
    """How one kind of gateway counts."""

    any: str  # selects a series that there is as soon as the gateway is scraped

    def of(self, backends: Iterable[str], namespace: str) -> str:
        """Return the selector of all counters of `backends`."""

    def backend(self, labels: Mapping[str, str], backends: Iterable[str], namespace: str) -> str | None:
        """Return which of `backends` the series with `labels` counts for."""

    def count(self, labels: Mapping[str, str], value: int) -> Counted:
        """Return what the series with `labels` and `value` contributes."""

    def absent(self, backends: Iterable[str], namespace: str) -> str | None:
        """Return what is wrong if the gateway is scraped and counts nothing for any of `backends`; None: no traffic yet."""


class IstioGateway:
    """Istio's proxies."""

    any = selector(ISTIO_REQUESTS, reporter="source")

    def of(self, backends: Iterable[str], namespace: str) -> str:
        """Return the selector of all counters of `backends`."""
        return selector(
            ISTIO_REQUESTS,
            reporter="source",
            destination_service_namespace=namespace,
            destination_service_name=tuple(backends),
        )

    def backend(self, labels: Mapping[str, str], backends: Iterable[str], namespace: str) -> str | None:
        """Return which of `backends` the series with `labels` counts for."""
        return next((backend for backend in backends if backend == labels.get("destination_service_name")), None)

    def count(self, labels: Mapping[str, str], value: int) -> Counted:
        """Return what the series with `labels` and `value` contributes."""
        code = labels.get("response_code", "")
        failed = code == "0" or code.startswith("5") or labels.get("grpc_response_status", "") in _GRPC_ERRORS
        return Counted(value, value if failed else 0)

    def absent(self, backends: Iterable[str], namespace: str) -> str | None:
        """Istio makes a series with its first request, so none may only mean no traffic yet."""
        return None


class EnvoyGateway:
    """Envoy's clusters, as Kourier, Contour, or Envoy Gateway with merged backends name them."""

    any = ENVOY_ATTEMPTS

    def of(self, backends: Iterable[str], namespace: str) -> str:
        """Return the selector of all counters of `backends`."""
        names = "|".join(f"{literal(namespace)}(/|_){literal(backend)}" for backend in backends)
        clusters = matching(f"(service/)?({names})([/_][0-9]+(/[a-z0-9.]+)?)?")
        metrics = matching("|".join((ENVOY_ANSWERS, ENVOY_ATTEMPTS, ENVOY_MENDED)))
        return f"{{__name__=~{metrics},envoy_cluster_name=~{clusters}}}"

    def backend(self, labels: Mapping[str, str], backends: Iterable[str], namespace: str) -> str | None:
        """Return which of `backends` the series with `labels` counts for."""
        cluster = labels.get("envoy_cluster_name", "").removeprefix("service/")
        separator = "/" if "/" in cluster else "_"
        parts = cluster.split(separator)
        if len(parts) < 2 or parts[0] != namespace:
            return None
        return next((backend for backend in backends if backend == parts[1]), None)

    def count(self, labels: Mapping[str, str], value: int) -> Counted:
        """Return what the series with `labels` and `value` contributes."""
        name = labels.get("__name__")
        if name == ENVOY_ANSWERS:
            return Counted(value, value if labels.get("envoy_response_code_class") == "5" else 0)
        return Counted(0, value) if name == ENVOY_MENDED else Counted()

    def absent(self, backends: Iterable[str], namespace: str) -> str | None:
        """Envoy counts from the moment it has a cluster, so none means that it has no cluster for a backend alone."""
        names = " or ".join(f"{namespace}/{backend}" for backend in backends)
        return (
            f"has Envoy's counters, but none of a cluster for {names} alone; Envoy Gateway needs `mergeBackends: {{}}` in its "
            "EnvoyProxy, see docs/monitoring.md"
        )


def gateway(kind: str) -> Gateway:
    """Return how the gateway of the project file's `cluster.prometheus.gateway` counts."""
    return EnvoyGateway() if kind == "envoy" else IstioGateway()
