"""The comparison: all servers of a case are started, and take turns under each load; the others stand still meanwhile.

A round gives every contestant one turn a load, in an order that rotates, so that what slows the machine down for a while slows
all. Before it, all must give the same answers; a request that fails ends the benchmark.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.serving import clients
from benchmarks.serving.contestants import Contestant
from benchmarks.serving.models import Case
from benchmarks.serving.processes import Server, cores, on_core
from benchmarks.serving.requests import LOADS, Load, Request, answer

CONCURRENCIES = (1, 8, 64)
LIMIT = "onnxruntime"
_TOLERANCE = 1e-5
_LIMIT_SECONDS = 0.3
_PATIENCE = 20.0

Turn = dict[str, Any]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """A load, and how many requests are in flight."""

    load: Load
    connections: int

    def __str__(self) -> str:
        return f"{self.load}, {self.connections} in flight"


@dataclass(frozen=True, slots=True)
class Plan:
    """How long it is measured.

    Attributes:
        points: What is measured of each case.
        rounds: How often.
        seconds: How long a turn takes.
    """

    points: Mapping[str, Sequence[Point]]
    rounds: int
    seconds: int


@dataclass(slots=True)
class Measured:
    """What was seen of one case: every turn by point and contestant, in the order of the rounds."""

    turns: dict[tuple[Point, str], list[Turn]] = field(default_factory=dict)
    limit: dict[int, list[float]] = field(default_factory=dict)  # seconds of a call in process, by rows
    servers: dict[str, dict[str, float]] = field(default_factory=dict)


def every_point() -> list[Point]:
    """Return all loads with all concurrencies."""
    return [Point(load, connections) for load in LOADS for connections in CONCURRENCIES]


def measure(case: Case, found: Sequence[Contestant], plan: Plan, folder: Path, say: Say) -> Measured:
    """Return every turn of a case's rounds."""
    measured = Measured()
    points = plan.points[case.name]
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for contestant in found:
            servers[contestant.name] = stack.enter_context(contestant.started(case, folder))
            _answers_by_itself(contestant, case, servers[contestant.name], plan.seconds, folder)
            servers[contestant.name].pause()
        requests = _agreed_requests(case, found, servers, {point.load for point in points})
        for number in range(plan.rounds):
            say(f"{case.name}: round {number + 1} of {plan.rounds}")
            _limit(case, measured, {point.load.rows for point in points})
            for point in points:
                able = [one for one in found if (point.load, one.name) in requests and one.suits(point.connections)]
                start = number % len(able)
                for contestant in able[start:] + able[:start]:
                    request, size = requests[point.load, contestant.name]
                    turn = _turn(servers[contestant.name], request, size, point.connections, plan.seconds, folder)
                    measured.turns.setdefault((point, contestant.peer or contestant.name), []).append(turn)
        _agreed_requests(case, found, servers, {point.load for point in points})
        for contestant in found:
            server = servers[contestant.name]
            memory = {"ready_seconds": server.ready_after, "memory_mb": server.memory_mb()}
            measured.servers[contestant.name] = memory
            server.resume()
    return measured


def _turn(server: Server, request: Request, size: int, connections: int, seconds: int, folder: Path) -> Turn:
    port = server.grpc_port if request.is_grpc else server.http_port
    server.resume()
    before = server.cpu_seconds()
    seen = clients.load(
        request, port, connections=connections, seconds=seconds, core=cores()[1], folder=folder, answer_bytes=size
    )
    server.pause()
    return seen.as_dict() | {"cpu_us": (server.cpu_seconds() - before) / seen.requests * 1e6}


def _answers_by_itself(contestant: Contestant, case: Case, server: Server, seconds: int, folder: Path) -> None:
    """Wait until the server answers, and warm it up with one row of each protocol that it speaks."""
    for load in (load for load in LOADS if load.rows == 1):
        request = contestant.request(case, load)
        if request is None or not clients.can_load(request):
            continue
        port = server.grpc_port if request.is_grpc else server.http_port
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                _, size = answer(request, port)
                break
            except OSError:  # mosec's front is there before its worker
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        clients.load(request, port, connections=8, seconds=min(seconds, 1), core=cores()[1], folder=folder, answer_bytes=size)


def _agreed_requests(
    case: Case, found: Sequence[Contestant], servers: Mapping[str, Server], loads: set[Load]
) -> dict[tuple[Load, str], tuple[Request, int]]:
    """Return every contestant's request of every load, and how long its answer is; all must answer what the graph does."""
    session = _session(case)
    requests: dict[tuple[Load, str], tuple[Request, int]] = {}
    for contestant in found:
        server = servers[contestant.name]
        server.resume()
        for load in loads:
            request = contestant.request(case, load)
            if request is None or not clients.can_load(request):
                continue
            got, size = answer(request, server.grpc_port if request.is_grpc else server.http_port)
            expected = session.run([case.output], case.feeds(load.rows))[0].ravel()
            if got.shape != expected.shape or not np.allclose(got, expected, atol=_TOLERANCE):
                raise SystemExit(f"{contestant.name} answers {case.name}, {load}, otherwise than ONNX Runtime in process")
            requests[load, contestant.name] = request, size
        server.pause()
    return requests


def _limit(case: Case, measured: Measured, rows: set[int]) -> None:
    """Call the graph in this process, on the servers' core, with feeds that are ready: what no server can be faster than."""
    session = _session(case)
    with on_core(cores()[0]):
        for count in rows:
            feeds, calls = case.feeds(count), []
            end = time.perf_counter() + _LIMIT_SECONDS
            while (begun := time.perf_counter()) < end:
                session.run([case.output], feeds)
                calls.append(time.perf_counter() - begun)
            measured.limit.setdefault(count, []).append(float(np.median(calls)))


def _session(case: Case) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(case.graph), options)


def machine() -> dict[str, Any]:
    """Return what it was measured on."""
    server_core, client_core = cores()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "server_core": server_core,
        "client_core": client_core,
        "load_average": os.getloadavg()[0],
        "kernel": os.uname().release,
    }
