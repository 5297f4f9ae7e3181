"""The flights example's real data and feature repository, collected once; and real Redis servers."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.flights.collect import collect
from tests.ports import free_port
from tidegate.features.repository import FeatureRepository

FEATURE_REPO = Path(__file__).parents[3] / "feature_repo"


@pytest.fixture(scope="session")
def flights_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("flights")
    collect(workspace / "data")
    return workspace


@pytest.fixture(scope="session")
def flights_repository(flights_workspace: Path) -> FeatureRepository:
    repository = FeatureRepository(FEATURE_REPO, flights_workspace)
    repository.apply()
    return repository


class RedisServer:
    """A Redis process on a free port of loopback; what it acknowledged survives its being killed."""

    def __init__(self, program: str, folder: Path, *options: str) -> None:
        self.port = free_port()
        tls = "--tls-cert-file" in options
        self.uri = f"rediss://localhost:{self.port}/0" if tls else f"redis://127.0.0.1:{self.port}/0"
        ports = ["--port", "0", "--tls-port", str(self.port)] if tls else ["--port", str(self.port)]
        self._command = [program, *ports, "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._command += ["--appendonly", "yes", "--appendfsync", "always", *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while wait and not self._listens():
            assert time.monotonic() < deadline, "Redis did not start within 20 s"
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


StartRedis = Callable[..., RedisServer]


@pytest.fixture(scope="module")
def start_redis(
    program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RedisServer]]:
    """Start Redis servers, with further options of theirs: `start_redis("--requirepass", "secret")`."""
    running: list[RedisServer] = []
    redis_server = program("redis-server")

    def start(*options: str) -> RedisServer:
        server = RedisServer(redis_server, tmp_path_factory.mktemp("redis"), *options)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.kill()


@pytest.fixture(scope="module")
def redis(start_redis: StartRedis) -> RedisServer:
    """One Redis for the tests of a file."""
    return start_redis()
