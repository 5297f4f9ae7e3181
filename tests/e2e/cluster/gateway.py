"""A real Envoy that splits traffic over Kubernetes Services as an HTTPRoute says, and names its clusters as Kourier does."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tidegate.deployment.local.envoy import envoy_binary

_TYPES = "type.googleapis.com/envoy"


class Gateway:
    """Leads `url` to backends by weight; which backends there are is told by `route`, as often as it changes."""

    def __init__(self, folder: Path, *, port: int, admin_port: int) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._told: Any = None
        self.port, self.admin_port = port, admin_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write("clusters.json", [])
        self._write("listeners.json", [self._listener()])
        self._write("routes.json", [_routes({})])
        bootstrap = {
            "node": {"id": "gateway", "cluster": "gateway"},
            "admin": {"address": _address(self.admin_port)},
            "dynamic_resources": {"cds_config": self._file("clusters.json"), "lds_config": self._file("listeners.json")},
        }
        (self._folder / "bootstrap.json").write_text(json.dumps(bootstrap))
        with (self._folder / "log").open("ab") as log:
            command = [
                str(envoy_binary()),
                "-c",
                str(self._folder / "bootstrap.json"),
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
            ]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait_until_ready()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def route(self, backends: dict[str, tuple[int, int]]) -> None:
        """Lead to `backends`: `<namespace>/<Service>` to (port on this machine, weight); the weights add up to 100."""
        if backends == self._told:
            return
        known = {name: port for name, (port, _) in {**(self._told or {}), **backends}.items()}
        self._write("clusters.json", [_cluster(name, port) for name, port in sorted(known.items())])
        time.sleep(0.3)  # a route to a cluster that Envoy does not know yet would answer 503
        self._write("routes.json", [_routes({name: weight for name, (_, weight) in backends.items() if weight})])
        self._told = backends

    def _write(self, name: str, resources: list[dict[str, Any]]) -> None:
        fresh = self._folder / f".{name}"
        fresh.write_text(json.dumps({"resources": resources}))
        fresh.replace(self._folder / name)

    def _file(self, name: str) -> dict[str, Any]:
        return {"path_config_source": {"path": str(self._folder / name)}, "resource_api_version": "V3"}

    def _listener(self) -> dict[str, Any]:
        manager = {
            "@type": f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "gateway",
            "rds": {"route_config_name": "gateway", "config_source": self._file("routes.json")},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_TYPES}.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        return {
            "@type": f"{_TYPES}.config.listener.v3.Listener",
            "name": "gateway",
            "address": _address(self.port),
            "filter_chains": [chain],
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/ready", timeout=1):
                    return
            except OSError:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
                time.sleep(0.05)


def _cluster(name: str, port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _routes(weights: dict[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {"match": {"prefix": "/"}, "direct_response": {"status": 503}}
    if weights:
        clusters = [{"name": name, "weight": weight} for name, weight in sorted(weights.items())]
        entry = {"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "15s"}}
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": "gateway",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [entry]}],
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
