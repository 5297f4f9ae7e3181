"""A model server on features in a real Redis: it answers as from a file, and quickly while the Redis is away."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidegate.features.online_file import online_uri
from tidegate.features.online_opening import open_row_writer
from tidegate.features.packed_row import pack_key, pack_row, view_prefix
from tidegate.features.redis_address import PASSWORD_VARIABLE, RedisAddress
from tidegate.features.redis_connection import RedisConnection

COMMAND = [sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve"]
TEMPERATURES = {"EWR": 31.0, "JFK": -12.5}
DELAYS = {"SFO": 80.0, "ORD": 1.0}


class Server:
    """A model server process on the tiny package."""

    def __init__(self, package, online_store, stderr, environment=None):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        arguments = ["--http-port", str(self.port), "--grpc-port", "0", "--online-store", online_store]
        self.stderr = stderr
        with stderr.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, str(package), *arguments], stderr=file, env=inherited | (environment or {})
            )

    def wait_until_ready(self):
        deadline = time.monotonic() + 30
        while self.status("/v2/health/ready") != 200:
            assert self.process.poll() is None, self.stderr.read_text()
            assert time.monotonic() < deadline, "not ready within 30 s"
            time.sleep(0.05)

    def events(self):
        """Return every line it wrote; each is a JSON document."""
        return [json.loads(line) for line in self.stderr.read_text().splitlines()]

    def ask(self, path, body=None):
        """Return status and JSON answer; None for a status if there is no answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())
        except OSError:
            return None, None

    def status(self, path):
        return self.ask(path)[0]

    def predict(self, origin="EWR", dest="SFO"):
        values = [("carrier", "BYTES", "UA"), ("origin", "BYTES", origin), ("dest", "BYTES", dest)]
        values += [("distance", "FP32", 500.0), ("hour", "FP32", 9.0)]
        inputs = [{"name": name, "datatype": kind, "shape": [1], "data": [value]} for name, kind, value in values]
        return self.ask("/v2/models/tiny/infer", {"inputs": inputs})


@pytest.fixture
def serve(tiny_package, tmp_path):
    running = []

    def start(online_store, environment=None):
        server = Server(tiny_package, online_store, tmp_path / f"stderr-{len(running)}", environment)
        running.append(server)
        return server

    yield start
    for server in running:
        server.process.kill()
        server.process.wait()


def fill(uri):
    now_us = time.time_ns() // 1000
    rows = [
        (pack_key(view_prefix("tiny", "weather"), (origin,)), now_us, 0, pack_row({"temp": temperature}))
        for origin, temperature in TEMPERATURES.items()
    ] + [
        (pack_key(view_prefix("tiny", "route"), (dest, origin)), now_us, 0, pack_row({"delay": delay}))
        for origin in TEMPERATURES
        for dest, delay in DELAYS.items()
    ]
    writer = open_row_writer(uri)
    writer.write(rows, [])
    writer.close()


@pytest.fixture
def store(start_redis):
    redis = start_redis()
    fill(redis.uri)
    return redis


def connections_received(store):
    connection = RedisConnection(RedisAddress.parse(store.uri), connect_seconds=5, call_seconds=5)
    (stats,) = connection.pipeline([["INFO", "stats"]])
    connection.close()
    return int(stats.partition(b"total_connections_received:")[2].partition(b"\r")[0])


def probabilities(answer):
    status, document = answer
    assert status == 200, document
    return {output["name"]: output["data"] for output in document["outputs"]}["probability"]


def test_answers_are_those_from_a_file(serve, store, tmp_path):
    file = online_uri(tmp_path / "online.db")
    fill(file)
    servers = [serve(store.uri), serve(file)]
    for server in servers:
        server.wait_until_ready()

    for origin in (*TEMPERATURES, "LGA"):
        for dest in (*DELAYS, "BOS"):
            from_redis, from_file = (probabilities(server.predict(origin, dest)) for server in servers)
            assert from_redis == from_file, (origin, dest)
    assert probabilities(servers[0].predict("EWR", "SFO")) != probabilities(servers[0].predict("LGA", "BOS"))


def wait_for_answers(server, seconds=10):
    """Return how long it takes until a prediction is answered again."""
    began = time.monotonic()
    while server.predict()[0] != 200:
        assert time.monotonic() - began < seconds, server.predict()
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_killed_redis_costs_503s_and_the_server_recovers_by_itself(serve, store):
    server = serve(store.uri)
    server.wait_until_ready()
    seen = Counter()

    def ask_for(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen[server.predict()[0]] += 1

    with ThreadPoolExecutor(4) as callers:
        asking = [callers.submit(ask_for, 3.0) for _ in range(4)]
        time.sleep(0.5)
        store.kill()
        time.sleep(1.0)
        status, document = server.predict()
        store.start()
        recovered_after = wait_for_answers(server)
        for asked in asking:
            asked.result()

    assert status == 503
    assert "features could not be looked up: online store redis://127.0.0.1:" in document["error"]
    assert "cannot be reached: connection refused" in document["error"]
    assert recovered_after < 3
    assert set(seen) == {200, 503}
    told = [event for event in server.events() if event.get("source") == "tidegate.features.online_redis_reader"]
    assert [event["level"] for event in told] == ["warning", "warning"]
    assert told[0]["event"].endswith("connecting again")
    assert "is back after" in told[1]["event"]


@pytest.mark.parametrize("away", [False, True])
def test_a_server_stops_in_order_whether_its_redis_is_there_or_not(serve, store, away):
    server = serve(store.uri)
    server.wait_until_ready()
    assert server.predict()[0] == 200
    if away:
        store.kill()
        assert server.predict()[0] == 503

    server.process.terminate()

    assert server.process.wait(20) == 0
    assert server.events()[-1]["event"] == "stopped"


def test_a_redis_that_hangs_holds_nobody_up_for_long(serve, store):
    server = serve(store.uri)
    server.wait_until_ready()
    assert server.predict()[0] == 200
    before = connections_received(store)
    store.send(signal.SIGSTOP)
    try:
        waits, health = [], []
        for _ in range(40):
            began = time.monotonic()
            assert server.predict()[0] == 503
            answered = time.monotonic()
            assert server.status("/v2/health/live") == 200
            waits.append(answered - began)
            health.append(time.monotonic() - answered)
            time.sleep(0.03)
    finally:
        store.send(signal.SIGCONT)
    wait_for_answers(server)

    assert waits[0] < 2
    assert sorted(waits)[20] < 0.15  # after the first few, nobody waits
    assert sorted(health)[20] < 0.15
    assert connections_received(store) - before < 12


def test_a_connection_that_redis_closed_costs_no_request(serve, store):
    server = serve(store.uri)
    server.wait_until_ready()
    connection = RedisConnection(RedisAddress.parse(store.uri), connect_seconds=5, call_seconds=5)
    for _ in range(5):
        assert server.predict()[0] == 200
        connection.pipeline([["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]])
        assert server.predict()[0] == 200
    connection.close()


@pytest.mark.parametrize(
    ("password", "message"),
    [
        pytest.param("wrong", "invalid username-password pair", id="wrong"),
        pytest.param("", "Authentication required", id="none"),
    ],
)
def test_a_server_with_a_wrong_password_does_not_start(serve, start_redis, password, message):
    store = start_redis("--requirepass", "right")

    server = serve(store.uri, {PASSWORD_VARIABLE: password})

    assert server.process.wait(30) == 1
    last = server.stderr.read_text().splitlines()[-1]
    assert message in last
    assert PASSWORD_VARIABLE in last
    assert "Traceback" not in server.stderr.read_text()
