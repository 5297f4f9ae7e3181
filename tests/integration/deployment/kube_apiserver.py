"""A real kube-apiserver over etcd, for the tests that hold the tests' own API server to it.

`TIDEGATE_KUBE_APISERVER` names the binary; etcd is looked for on the PATH. There are no controllers and no webhooks.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ports import free_port

CRDS = Path(__file__).parents[4] / "shared/specs/crds"
_DEFINITIONS = ("serving.kserve.io_inferenceservices.yaml", "gateway.networking.k8s.io_httproutes.yaml")
_TOKEN = "tests"


def find() -> tuple[str, str]:
    """Return the binaries; skips the test where one is missing."""
    server, etcd = os.environ.get("TIDEGATE_KUBE_APISERVER", ""), shutil.which("etcd")
    if not server or not Path(server).exists() or etcd is None:
        pytest.skip("needs a kube-apiserver (TIDEGATE_KUBE_APISERVER) and etcd on the PATH")
    if not CRDS.exists():
        pytest.skip(f"needs the definitions of custom resources at {CRDS}")
    return server, etcd


@contextmanager
def running(folder: Path) -> Iterator[Callable[[], Any]]:
    """Yield a maker of clients for a real API server with KServe's and Gateway API's definitions."""
    server, etcd = find()
    client_port, peer_port, port = (free_port() for _ in range(3))
    address, peers = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    subprocess.run(["openssl", "genrsa", "-out", folder / "key.pem", "2048"], check=True, capture_output=True)
    (folder / "tokens.csv").write_text(f"{_TOKEN},admin,1,system:masters\n")
    etcd_arguments = {
        "--data-dir": folder / "etcd",
        "--listen-client-urls": address,
        "--advertise-client-urls": address,
        "--listen-peer-urls": peers,
        "--initial-advertise-peer-urls": peers,
        "--initial-cluster": f"default={peers}",
    }
    server_arguments = {
        "--etcd-servers": address,
        "--bind-address": "127.0.0.1",
        "--secure-port": port,
        "--cert-dir": folder / "certificates",
        "--token-auth-file": folder / "tokens.csv",
        "--authorization-mode": "RBAC",
        "--service-account-issuer": "https://tests",
        "--service-account-signing-key-file": folder / "key.pem",
        "--service-account-key-file": folder / "key.pem",
        "--service-cluster-ip-range": "10.0.0.0/24",
        "--disable-admission-plugins": "ServiceAccount",
    }
    with _process(etcd, etcd_arguments, folder / "etcd.log"), _process(server, server_arguments, folder / "server.log"):

        def client() -> Any:
            from kubernetes.client import ApiClient, Configuration

            configuration = Configuration(host=f"https://127.0.0.1:{port}")
            configuration.ssl_ca_cert = str(folder / "certificates" / "apiserver.crt")  # which it signs itself
            configuration.retries = False
            configuration.api_key = {"authorization": f"Bearer {_TOKEN}"}
            return ApiClient(configuration)

        _wait_until_ready(client)
        _install(client())
        yield client


@contextmanager
def _process(program: str, arguments: dict[str, Any], log: Path) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen([program, *(f"{k}={v}" for k, v in arguments.items())], stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(client: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            client().call_api("/readyz", "GET", auth_settings=["BearerToken"], response_type="str", _request_timeout=5)
            return
        time.sleep(0.2)
    raise RuntimeError("kube-apiserver did not become ready within 60 s")


def _install(client: Any) -> None:
    for file in _DEFINITIONS:
        body = yaml.load((CRDS / file).read_text(), Loader=yaml.CSafeLoader)
        _drop_empty_defaults(body)
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        client.call_api(path, "POST", body=body, auth_settings=["BearerToken"], response_type="object", _request_timeout=30)
        deadline = time.monotonic() + 60
        group, version, plural = body["spec"]["group"], body["spec"]["versions"][0]["name"], body["spec"]["names"]["plural"]
        while time.monotonic() < deadline:
            with contextlib.suppress(Exception):
                client.call_api(
                    f"/apis/{group}/{version}/{plural}", "GET", auth_settings=["BearerToken"], response_type="object"
                )
                break
            time.sleep(0.2)


def _drop_empty_defaults(schema: Any) -> None:
    """Take away `default: ""`, which Kubernetes 1.20 reads as null and refuses."""
    if isinstance(schema, dict):
        if schema.get("default") == "":
            del schema["default"]
        for inner in schema.values():
            _drop_empty_defaults(inner)
    elif isinstance(schema, list):
        for inner in schema:
            _drop_empty_defaults(inner)
