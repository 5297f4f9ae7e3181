"""Clients that know nothing of inference: curl, httpx, aiohttp, a health probe, and Envoy in front of all of it."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import httpx
import pytest

from tests import small_packages
from tests.integration.serving.http_exchange import ask
from tests.ports import free_port
from tidegate.deployment.local.envoy import envoy_binary

NAMES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
INFER = "/v2/models/iris/infer"
CALLERS = 32

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def iris(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of a classifier of three classes on four columns."""
    return launch_once(small_packages.multiclass(tmp_path_factory.mktemp("iris") / "package"))


def body(number: int = 0, rows: int = 1) -> dict[str, Any]:
    inputs = [{"name": name, "datatype": "FP32", "shape": [rows], "data": [float(number)] * rows} for name in NAMES]
    return {"id": str(number), "inputs": inputs}


def curl(server: Any, *arguments: str, target: str = INFER) -> subprocess.CompletedProcess[str]:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        *arguments,
        f"http://127.0.0.1:{server.http_port}{target}",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@needs_curl
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--data",), id="as curl sends it by itself"),
        pytest.param(("--json",), id="as JSON"),
        pytest.param(("--http1.0", "--json"), id="HTTP 1.0"),
        pytest.param(("--http1.0", "--header", "Connection: keep-alive", "--json"), id="HTTP 1.0, kept alive"),
        pytest.param(("--http2", "--json"), id="an upgrade to HTTP 2 is passed over"),
        pytest.param(
            ("--http1.0", "--header", "Connection: Upgrade", "--header", "Upgrade: h2c", "--json"), id="an upgrade of HTTP 1.0"
        ),
        pytest.param(("--header", "Transfer-Encoding: chunked", "--json"), id="chunked"),
        pytest.param(("--compressed", "--json"), id="a compressed answer would do"),
        pytest.param(("--header", "Connection: close", "--json"), id="closed after it"),
    ],
)
def test_curl(iris: Any, arguments: tuple[str, ...]) -> None:
    answer = json.loads(curl(iris, *arguments, json.dumps(body(3))).stdout)
    assert (answer["id"], answer["model_name"]) == ("3", "iris")


@needs_curl
@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_curl_is_told_to_go_on_with_a_large_body(iris: Any, tmp_path: Path, chunked: bool) -> None:
    large = tmp_path / "body.json"
    large.write_text(json.dumps(body(4)) + " " * 2_000_000)
    extra = ("--header", "Transfer-Encoding: chunked") if chunked else ()
    sent = curl(iris, "--verbose", "--header", "Expect: 100-continue", *extra, "--data-binary", f"@{large}")
    assert "< HTTP/1.1 100 Continue" in sent.stderr
    assert json.loads(sent.stdout)["id"] == "4"


@needs_curl
def test_curl_is_told_at_once_that_a_body_is_too_large(iris: Any, tmp_path: Path) -> None:
    large = tmp_path / "body.json"
    large.write_bytes(b" " * 5_000_000)
    sent = curl(iris, "--verbose", "--header", "Expect: 100-continue", "--data-binary", f"@{large}")
    assert "100 Continue" not in sent.stderr
    assert "at most 4194304 are allowed" in json.loads(sent.stdout)["error"]


@needs_curl
def test_curl_uses_its_connection_again(iris: Any) -> None:
    url = f"http://127.0.0.1:{iris.http_port}/v2/health/live"
    sent = curl(iris, "--verbose", "--write-out", "%{num_connects} ", url, url, target="/v2")
    assert sent.stdout.count('{"live":true}') == 2
    assert "1 " in sent.stdout
    assert sent.stderr.count("Re-using existing connection") == 2
    head = curl(iris, "--head", url, target="/v2/models/iris")
    assert head.stdout.count("HTTP/1.1 200 OK") == 2


@needs_curl
def test_curl_that_assumes_http_2_is_refused_and_not_kept_waiting(iris: Any) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        curl(iris, "--http2-prior-knowledge", target="/v2")
    timed_out = 28
    assert refusal.value.returncode != timed_out


def test_httpx_and_its_pool(iris: Any) -> None:
    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=4)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{iris.http_port}", limits=limits) as client:
            return await asyncio.gather(*(client.post(INFER, json=body(number)) for number in range(CALLERS)))

    responses = asyncio.run(ask_all())
    assert [response.json()["id"] for response in responses] == [str(number) for number in range(CALLERS)]


def test_aiohttp_and_streamed_bodies(iris: Any) -> None:
    async def in_parts(whole: bytes) -> Any:
        for start in range(0, len(whole), 50):
            yield whole[start : start + 50]
            await asyncio.sleep(0)

    async def ask_all() -> list[str]:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{iris.http_port}") as session:

            async def ask_one(number: int) -> str:
                async with session.post(INFER, data=in_parts(json.dumps(body(number)).encode())) as response:
                    assert response.status == 200
                    return str((await response.json())["id"])

            return await asyncio.gather(*(ask_one(number) for number in range(CALLERS)))

    assert asyncio.run(ask_all()) == [str(number) for number in range(CALLERS)]


def test_requests_sent_ahead_are_answered_in_their_order(iris: Any) -> None:
    """Pipelining: all requests at once, each other one a refusal, and then all answers."""
    sent = b""
    for number in range(20):
        document = json.dumps(body(number)).encode() if number % 2 == 0 else b"{}"
        sent += b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (INFER.encode(), len(document), document)
    sent += b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", iris.http_port), timeout=10) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    statuses = re.findall(rb"HTTP/1.1 (\d+) ", received)
    assert statuses == [b"200", b"400"] * 10 + [b"200"]
    places = [received.index(b'"id":"%d"' % number) for number in range(0, 20, 2)]
    assert places == sorted(places)


SERVING, NOT_FOUND = b"\x08\x01", grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService"])
def test_a_health_probe_is_told_that_it_serves(iris: Any, service: str) -> None:
    """As Kubernetes' gRPC probe and grpc_health_probe ask, byte by byte."""
    asked = b"\n" + bytes([len(service)]) + service.encode() if service else b""
    with grpc.insecure_channel(f"127.0.0.1:{iris.grpc_port}") as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(asked, timeout=10) == SERVING
        assert next(channel.unary_stream("/grpc.health.v1.Health/Watch")(asked, timeout=10)) == SERVING


def test_a_health_probe_of_an_unknown_service_is_told_so(iris: Any) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{iris.grpc_port}") as channel, pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"\n\x05other", timeout=10)
    assert refusal.value.code() == NOT_FOUND


@pytest.fixture(scope="module")
def envoy(iris: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an Envoy in front of the server: gRPC goes to its gRPC port, all else to its HTTP port."""
    port, folder = free_port(), tmp_path_factory.mktemp("envoy")
    (folder / "envoy.json").write_text(json.dumps(envoy_config(port, iris.http_port, iris.grpc_port)))
    with (folder / "log").open("wb") as log:
        command = [str(envoy_binary()), "-c", str(folder / "envoy.json"), "--concurrency", "1", "--use-dynamic-base-id"]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def envoy_config(port: int, http_port: int, grpc_port: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions"

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    def cluster(name: str, number: int, **options: Any) -> dict[str, Any]:
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(number)}}]}]
        return {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **options}

    http_2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    routes = [
        {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "grpc", "timeout": "5s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "rest", "timeout": "5s"}},
    ]
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {
        "static_resources": {
            "listeners": [{"name": "all", "address": address(port), "filter_chains": [chain]}],
            "clusters": [cluster("rest", http_port), cluster("grpc", grpc_port, **http_2)],
        }
    }


def test_rest_through_envoy(envoy: int) -> None:
    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{envoy}") as client:
            return await asyncio.gather(*(client.post(INFER, json=body(number)) for number in range(CALLERS)))

    assert [response.json()["id"] for response in asyncio.run(ask_all())] == [str(number) for number in range(CALLERS)]


@pytest.mark.parametrize(
    ("method", "target", "sent", "status"),
    [
        pytest.param("POST", INFER, b"{}", 400, id="malformed"),
        pytest.param("GET", INFER, None, 405, id="method"),
        pytest.param("GET", "/v2/models/other", None, 404, id="model"),
    ],
)
def test_refusals_pass_through_envoy(envoy: int, method: str, target: str, sent: bytes | None, status: int) -> None:
    response = ask(envoy, method, target, sent)
    assert response.status == status
    assert response.error


def infer_by_grpc(address: str) -> list[tuple[str, list[int]]]:
    import numpy as np
    from tritonclient import grpc as triton

    answers = []
    with triton.InferenceServerClient(address) as client:
        for number in range(8):
            row = np.full((1, 1), number, np.float32)
            inputs = [triton.InferInput(name, [1, 1], "FP32").set_data_from_numpy(row) for name in NAMES]
            result = client.infer("iris", inputs, request_id=str(number))
            answers.append((result.get_response().id, list(result.as_numpy("probabilities").shape)))
    return answers


def test_grpc_through_envoy(envoy: int, in_own_process: Callable[..., Any]) -> None:
    assert in_own_process(infer_by_grpc, f"127.0.0.1:{envoy}") == [(str(number), [1, 3]) for number in range(8)]
