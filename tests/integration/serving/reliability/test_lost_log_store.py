"""Serving goes on while the inference log cannot be written, says what is lost, and writes again when it can."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import ECHO, echo_document
from tidegate.serving.metrics.names import LOG_DROPPED_ROWS, LOG_FAILURES, LOG_QUEUE_ROWS, LOG_ROWS


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.every_type(tmp_path_factory.mktemp("packages") / "echo")


@contextmanager
def full_disk(server: Any) -> Iterator[None]:
    """Let no file of the server grow, as on a disk that is full."""
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def ask(server: Any, request_ids: list[str]) -> None:
    for request_id in request_ids:
        assert server.request(ECHO, echo_document() | {"id": request_id})[0] == 200


def logged(server: Any) -> list[str]:
    files = server.store.rglob("*.parquet")
    return sorted(value for file in files for value in pq.ParquetFile(file).read().column("request_id").to_pylist())


def test_a_full_disk_delays_the_log_and_nothing_else(
    launch_once: Callable[..., Any], package: Path, eventually: Callable[..., None]
) -> None:
    server = launch_once(package, log_rotate_seconds=0.05)
    first, second, third = ([f"{part}{number:03}" for number in range(20)] for part in "abc")
    ask(server, first)
    eventually(lambda: server.metric(LOG_ROWS) == 20, "rows in the log")
    with full_disk(server):
        ask(server, second)
        eventually(lambda: server.metric(LOG_FAILURES) > 0, "a failed write")
        ask(server, third)
        eventually(lambda: server.metric(LOG_QUEUE_ROWS) == 40, "waiting rows")
    eventually(lambda: server.metric(LOG_ROWS) == 60, "the rest of the rows in the log")
    assert server.stop() == 0
    assert logged(server) == first + second + third


def test_what_does_not_fit_into_memory_while_the_disk_is_full_is_dropped_and_counted(
    launch_once: Callable[..., Any], package: Path, eventually: Callable[..., None]
) -> None:
    server = launch_once(package, log_rotate_seconds=0.05, log_queue_rows=30)
    with full_disk(server):
        ask(server, [str(number) for number in range(50)])
        eventually(lambda: server.metric(LOG_FAILURES) > 0, "a failed write")
        assert server.metric(LOG_DROPPED_ROWS, 'reason="queue-full"') == 20
    eventually(lambda: server.metric(LOG_ROWS) == 30, "what was kept in the log")
    ask(server, ["after"])
    assert server.stop() == 0
    assert logged(server) == sorted([*(str(number) for number in range(30)), "after"])


def test_an_object_store_that_never_answers_keeps_neither_callers_nor_the_end_waiting(
    launch_once: Callable[..., Any], package: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as hole:
        credentials = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{hole.getsockname()[1]}"}
        server = launch_once(
            package, log_store="s3://logs/", log_rotate_seconds=0.05, drain_seconds=1, process={"env": credentials | endpoint}
        )
        ask(server, [str(number) for number in range(50)])
        time.sleep(0.5)
        ask(server, [str(number) for number in range(50)])
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 15
    assert "inference log lost rows" in server.stderr
