"""Envoy's admin interface: which configuration it applies, how its hosts fare, and its counters."""

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from tidegate.errors import DeploymentError

_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Host:
    """A cluster's only host: whether it is healthy, and the requests in flight to it."""

    healthy: bool
    active: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What Envoy applies now: hosts by cluster, route table versions by service, and the services it listens for."""

    hosts: dict[str, Host]
    routes: dict[str, str]
    listeners: frozenset[str]


class EnvoyAdmin:
    """Asks the admin interface on `port`; every method raises DeploymentError if it does not answer."""

    def __init__(self, port: int) -> None:
        """Remember the port."""
        self.port = port

    def applied(self) -> Applied:
        """Return what Envoy applies now."""
        return Applied(hosts=self._hosts(), routes=self._route_versions(), listeners=self._listeners())

    def counters(self, pattern: str) -> dict[str, int]:
        """Return the counters whose names match the regular expression `pattern` and that were ever counted."""
        query = urllib.parse.urlencode({"format": "json", "usedonly": "", "type": "Counters", "filter": pattern})
        stats = self._get(f"/stats?{query}")["stats"]
        return {entry["name"]: int(entry["value"]) for entry in stats if "name" in entry}

    def _hosts(self) -> dict[str, Host]:
        hosts = {}
        for cluster in self._get("/clusters?format=json").get("cluster_statuses", []):
            for host in cluster.get("host_statuses", []):
                gauges = {entry["name"]: int(entry.get("value", 0)) for entry in host.get("stats", [])}
                failed = host.get("health_status", {}).get("failed_active_health_check", False)
                hosts[cluster["name"]] = Host(healthy=not failed, active=gauges.get("rq_active", 0))
        return hosts

    def _route_versions(self) -> dict[str, str]:
        dump = self._get("/config_dump?resource=dynamic_route_configs")
        return {entry["route_config"]["name"]: entry["version_info"] for entry in dump.get("configs", [])}

    def _listeners(self) -> frozenset[str]:
        return frozenset(entry["name"] for entry in self._get("/listeners?format=json").get("listener_statuses", []))

    def _get(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=_TIMEOUT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:  # what Envoy says for a kind of resource it has none of
                return {}
            raise DeploymentError(f"Envoy's admin interface on port {self.port} answers {path} with {error.code}") from error
        except (OSError, ValueError) as error:
            raise DeploymentError(f"Envoy's admin interface on port {self.port} does not answer {path}: {error}") from error
