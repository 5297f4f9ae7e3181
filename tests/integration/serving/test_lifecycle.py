"""Starting, stopping and dying: no request lost, no row lost, no process left, one clear error."""

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pyarrow.parquet as pq
import pytest

from tidegate.packaging.format.package import copy_package, read_manifest
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, REQUESTS, WORKERS_READY


def logged_ids(server: Any) -> list[str]:
    files = server.store.rglob("*.parquet")
    return [value for file in files for value in pq.ParquetFile(file).read().column("prediction_id").to_pylist()]


class Caller(threading.Thread):
    """Sends requests over one connection until the server goes away, and remembers which were answered."""

    def __init__(self, port: int, name: str, body: dict[str, Any]) -> None:
        super().__init__()
        self.answered: list[str] = []
        self.refused: list[int] = []
        self.cut = 0
        self._port, self._prefix, self._body = port, name, body
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        for number in range(100_000):
            request_id = f"{self._prefix}-{number}"
            body = json.dumps(self._body | {"id": request_id})
            try:
                connection.request("POST", "/v2/models/tiny/infer", body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
            except (TimeoutError, ConnectionRefusedError):
                return
            except (OSError, http.client.HTTPException):
                self.cut += 1
                connection.close()
                continue
            if response.status == 200:
                self.answered.append(f"{request_id}/0")
            else:
                self.refused.append(response.status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_under_load_loses_no_answered_row(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], number: signal.Signals, workers: int
) -> None:
    server = launch(workers=workers, log_rotate_seconds=30)
    callers = [Caller(server.http_port, f"c{index}", v2_body()) for index in range(4)]
    time.sleep(1)
    assert server.stop(number) == 0
    for caller in callers:
        caller.join()
    answered = [prediction for caller in callers for prediction in caller.answered]
    assert len(answered) > 50
    assert not [status for caller in callers for status in caller.refused]
    logged = logged_ids(server)
    assert len(logged) == len(set(logged))
    assert set(answered) <= set(logged)
    assert [event["event"] for event in server.events][-1] == "stopped"


def test_start_says_what_is_served(launch: Callable[..., Any], eventually: Callable[..., None]) -> None:
    server = launch(version="4")
    eventually(lambda: len(server.events) >= 3, "three lines")
    starting, loaded, ready = server.events[:3]
    assert (starting["event"], starting["model"], starting["version"], starting["revision"]) == ("starting", "tiny", "4", "v4")
    assert loaded["golden_difference"] < 1e-4
    assert (ready["event"], ready["http_port"]) == ("ready", server.http_port)


def test_a_request_in_flight_is_answered_before_the_end(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]]
) -> None:
    server = launch()
    body = json.dumps(v2_body("slow")).encode()
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body[:50])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        connection.sendall(body[50:])
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert server.process.wait(timeout=20) == 0
    assert logged_ids(server) == ["slow/0"]


def test_a_caller_who_never_finishes_does_not_keep_the_server(launch: Callable[..., Any]) -> None:
    server = launch(drain_seconds=0.5)
    with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
        connection.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        time.sleep(0.2)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5
    assert "requests in flight were cut off" in server.stderr


@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_no_worker_outlives_its_parent_and_dead_ones_are_replaced(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], eventually: Callable[..., None], victim: str
) -> None:
    server = launch(workers=2)
    eventually(lambda: server.metric(WORKERS_READY) == 2, "two ready workers")
    workers = psutil.Process(server.process.pid).children()
    assert len(workers) == 2
    for _ in range(10):
        server.request("/v2/models/tiny/infer", v2_body())
    if victim == "parent":
        server.process.kill()
        server.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert not alive
        assert len(logged_ids(server)) == 10
        return
    eventually(lambda: server.metric(REQUESTS, 'status="200"') == 10, "ten requests counted")
    os.kill(workers[0].pid, signal.SIGKILL)
    eventually(lambda: len([event for event in server.events if event["event"] == "ready"]) == 3, "a third worker")
    assert any(event["event"] == "worker died" and event["exit_code"] == -9 for event in server.events)
    assert server.metric(WORKERS_READY) == 2
    assert server.metric(REQUESTS, 'status="200"') == 10
    assert server.stop() == 0


def corrupt(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"x" * (package / "model.onnx").stat().st_size)


def wrong_golden(package: Path) -> None:
    import hashlib

    from tidegate.packaging.format.golden import Golden, golden_bytes, read_golden

    golden = read_golden(package / "golden.npz")
    raw = golden_bytes(Golden(golden.inputs, {"probability": golden.outputs["probability"] + 0.1}))
    (package / "golden.npz").write_bytes(raw)
    manifest = json.loads((package / "package.json").read_text())
    manifest["files"]["golden.npz"] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (package / "package.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        pytest.param(corrupt, {}, "model.onnx has sha256", id="corrupt package"),
        pytest.param(shutil.rmtree, {}, "not a model package", id="no package"),
        pytest.param(wrong_golden, {}, "golden sample differs by 0.1", id="golden sample does not replay"),
        pytest.param(None, {"online_store": None}, "name the online store with --online-store", id="no online store"),
        pytest.param(None, {"online_store": "redis://x"}, "redis://x", id="unknown online store"),
        pytest.param(None, {"clock": "sundial"}, "'sundial' is not a clock", id="unknown clock"),
        pytest.param(None, {"clock": "replay:/nowhere/clock"}, "cannot open the replay clock", id="no clock"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_ends(
    launch: Callable[..., Any],
    tiny_package: Path,
    tmp_path: Path,
    change: Callable[[Path], None] | None,
    options: dict[str, Any],
    message: str,
    workers: int,
) -> None:
    package = Path(shutil.copytree(tiny_package, tmp_path / "copied"))
    if change is not None:
        change(package)
    server = launch(package, wait=False, workers=workers, **options)
    assert server.process.wait(timeout=30) == 1
    errors = [line for line in server.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("option", ["http_port", "grpc_port"])
def test_a_port_in_use_is_one_error(launch: Callable[..., Any], option: str, workers: int) -> None:
    first = launch(workers=workers)
    port = getattr(first, option)
    second = launch(wait=False, workers=workers, **{option: port})
    assert second.process.wait(timeout=30) == 1
    assert second.stderr.splitlines() == [
        f"error: port {port} on 127.0.0.1 cannot be opened: Address already in use; choose another --{option.replace('_', '-')}"
    ]
    assert first.request("/v2/health/ready")[0] == 200


def test_serving_goes_on_when_the_log_cannot_be_written(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], eventually: Callable[..., None], tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    server = launch(log_store=blocked / "store", log_queue_rows=5, log_rotate_seconds=0.05)
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.write_text("a file where the store's folder should be")
    for _ in range(10):
        assert server.request("/v2/models/tiny/infer", v2_body())[0] == 200
    eventually(lambda: server.metric(LOG_FAILURES) > 0, "failed write")
    assert server.metric(LOG_DROPPED_ROWS, "queue-full") == 5
    assert server.stop() == 0
    assert "inference log lost rows" in server.stderr


def test_grpc_can_be_turned_off(launch: Callable[..., Any]) -> None:
    server = launch(grpc_port=0)
    connections = psutil.net_connections("tcp")
    listening = {each.laddr.port for each in connections if (each.pid, each.status) == (server.process.pid, psutil.CONN_LISTEN)}
    assert listening == {server.http_port}


def test_a_server_that_drains_answers_unready_until_proxies_have_noticed(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], eventually: Callable[..., None]
) -> None:
    server = launch(drain_delay_seconds=60)
    kept = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    kept.request("GET", "/v2/health/ready")
    kept.getresponse().read()
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.request("/v2/health/ready") == (503, {"ready": False}), "unready server")
    assert server.request("/v2/health/live")[0] == 200
    kept.request("POST", "/v2/models/tiny/infer", json.dumps(v2_body("late")), {"content-type": "application/json"})
    response = kept.getresponse()
    assert (response.status, response.headers["connection"]) == (200, "close")
    response.read()
    assert server.stop(signal.SIGQUIT) == 0
    assert logged_ids(server) == ["late/0"]


def test_idle_connections_do_not_keep_a_server_that_stops(launch: Callable[..., Any]) -> None:
    server = launch()
    with ExitStack() as connections:
        for _ in range(5):
            idle = connections.enter_context(socket.create_connection(("127.0.0.1", server.http_port)))
            idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert idle.recv(500).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5
        assert idle.recv(500) == b""


@pytest.mark.parametrize(("workers", "second"), [(1, signal.SIGTERM), (1, signal.SIGQUIT), (2, signal.SIGINT)])
def test_a_second_signal_waits_for_nobody_but_the_log(
    launch: Callable[..., Any],
    v2_body: Callable[..., dict[str, Any]],
    eventually: Callable[..., None],
    workers: int,
    second: signal.Signals,
) -> None:
    server = launch(workers=workers, drain_delay_seconds=60, log_rotate_seconds=60)
    eventually(lambda: server.metric(WORKERS_READY) == workers, "every worker ready")
    assert server.request("/v2/models/tiny/infer", v2_body("logged"))[0] == 200
    server.process.send_signal(signal.SIGTERM)
    eventually(lambda: server.stderr.count('"stopping"') == workers, "every worker stopping")
    assert server.process.poll() is None
    server.process.send_signal(second)
    assert server.process.wait(timeout=10) == 0
    assert logged_ids(server) == ["logged/0"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminals_interrupt_which_all_processes_get_is_one_signal(
    launch: Callable[..., Any], v2_body: Callable[..., dict[str, Any]], eventually: Callable[..., None], workers: int
) -> None:
    server = launch(workers=workers, drain_delay_seconds=60, process={"start_new_session": True})
    eventually(lambda: server.metric(WORKERS_READY) == workers, "every worker ready")
    os.killpg(server.process.pid, signal.SIGINT)
    eventually(lambda: server.stderr.count('"stopping"') == workers, "every worker stopping")
    time.sleep(0.2)
    assert server.request("/v2/models/tiny/infer", v2_body())[0] == 200
    assert server.stop(signal.SIGQUIT) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_server_keeps_on_disk_goes_with_it(
    launch: Callable[..., Any], eventually: Callable[..., None], tmp_path: Path, workers: int
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    stopped = launch(workers=workers, process={"env": {"TMPDIR": str(place)}})
    assert len(list(place.iterdir())) == 1
    assert stopped.stop() == 0
    assert list(place.iterdir()) == []
    if workers == 2:
        killed = launch(workers=workers, process={"env": {"TMPDIR": str(place)}})
        killed.process.kill()
        eventually(lambda: not list(place.iterdir()), "an empty place, though the parent was killed")


def test_a_server_that_is_stopped_while_it_starts_ends_and_leaves_nothing(launch: Callable[..., Any], tmp_path: Path) -> None:
    """Its package comes from a store that never answers."""
    place = tmp_path / "tmp"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        variables = {
            "TMPDIR": str(place),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }
        server = launch("s3://silent/package/", wait=False, process={"env": variables})
        with silent.accept()[0]:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=10) == 128 + signal.SIGTERM
    assert list(place.iterdir()) == []
    assert "Traceback" not in server.stderr


def test_workers_that_would_share_a_gpu_are_refused(launch: Callable[..., Any], tiny_package: Path, tmp_path: Path) -> None:
    manifest = read_manifest(tiny_package)
    runtime = msgspec.structs.replace(manifest.runtime, providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
    copy_package(tiny_package, tmp_path / "gpu", msgspec.structs.replace(manifest, runtime=runtime))
    server = launch(tmp_path / "gpu", wait=False, workers=2)
    assert server.process.wait(timeout=20) == 1
    assert server.stderr.splitlines() == [
        "error: workers: 2: each would load the model on the GPU anew, since it runs on CUDAExecutionProvider; use --workers 1"
    ]
