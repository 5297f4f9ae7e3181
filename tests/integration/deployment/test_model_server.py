"""One model server process: its readiness, its restarts, and its end."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tidegate.deployment.local import model_server
from tidegate.deployment.local.envoy_config import Backend
from tidegate.deployment.local.model_server import ModelServer, ServerSpec
from tidegate.deployment.local.ports import Ports
from tidegate.deployment.local.processes import supervised


@pytest.fixture
def server(tmp_path):
    (tmp_path / "mode").write_text("ok")
    ports = Ports(tmp_path / "ports.json")
    backend = Backend("flights", "v1", "v1-0a", ports.server("flights", "v1", "http"), ports.server("flights", "v1", "grpc"))

    def stand_in(spec):
        return [sys.executable, str(Path(__file__).with_name("stand_in_server.py")), spec.storage_uri]

    spec = ServerSpec(backend, f"file://{tmp_path}/")
    return ModelServer(spec, state=tmp_path, log=tmp_path / "log", command=stand_in)


async def until(condition, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def run(server, scenario):
    async def whole():
        server.start()
        try:
            await scenario()
        finally:
            await server.stop()

    asyncio.run(whole())


def test_ready_killed_and_ready_again(server, tmp_path):
    async def scenario():
        assert (server.ready, server.admitted, server.reason) == (False, False, "starting")
        await until(lambda: server.ready)
        first = server.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: not server.ready)
        assert server.reason.startswith("killed by SIGKILL")
        assert (server.failures, server.failed_starts) == (1, 0)
        await until(lambda: server.ready and server.pid != first)

    run(server, scenario)
    assert supervised(tmp_path) == []


def test_pauses_grow_while_it_cannot_start(server, tmp_path):
    (tmp_path / "mode").write_text("exit")
    moments = []

    async def scenario():
        for failures in (1, 2, 3):
            await until(lambda failures=failures: server.failures == failures)
            moments.append(time.monotonic())
            assert server.failed_starts == failures
        await asyncio.sleep(2.1)  # the next process starts: its silence does not hide the reason
        assert server.reason == "ended with status 1: the package is corrupt"

    run(server, scenario)
    assert server.reason == "stopping"
    assert moments[1] - moments[0] >= 0.5
    assert moments[2] - moments[1] >= 1.0


def test_a_command_that_does_not_exist_is_the_reason(server, tmp_path):
    server._command = lambda spec: ["/does/not/exist"]

    async def scenario():
        await until(lambda: server.failures == 1)
        assert "ended with status 1" in server.reason
        assert "No such file or directory" in server.reason

    run(server, scenario)


def test_a_server_that_hangs_is_replaced(server, monkeypatch):
    monkeypatch.setattr(model_server, "_HUNG_SECONDS", 1.0)
    monkeypatch.setattr(model_server, "_CHECK_TIMEOUT", 0.5)

    async def scenario():
        await until(lambda: server.ready)
        first = server.pid
        os.kill(first, signal.SIGSTOP)
        await until(lambda: server.ready and server.pid != first)

    run(server, scenario)


def test_stop_while_it_pauses(server, tmp_path):
    (tmp_path / "mode").write_text("exit")

    async def scenario():
        await until(lambda: server.failures == 2)

    run(server, scenario)
    assert supervised(tmp_path) == []
