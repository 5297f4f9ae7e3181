"""What batching gains: Tidegate on the CNN, one row of JSON, 64 in flight, with and without joining requests, in turn."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import clients
from benchmarks.serving.contestants import TIDEGATE, Contestant, Ports, tidegate_command
from benchmarks.serving.models import Case
from benchmarks.serving.processes import cores
from benchmarks.serving.requests import Load, answer, open_inference_request
from tidegate.optimization.benchmark.timings import median_interval

_CONNECTIONS = 64
_CONFIGURATIONS: Mapping[str, tuple[str, ...]] = {
    "one by one": ("--batch-rows", "1"),
    "joined to 64 rows": ("--batch-rows", "64"),
}


def measure(case: Case, rounds: int, seconds: int, folder: Path) -> dict[str, Any]:
    """Return requests a second and p99 of both, and the ratio by round with its interval."""
    request = open_inference_request(case, Load("json", 1))
    turns: dict[str, list[clients.Seen]] = {name: [] for name in _CONFIGURATIONS}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(_contestant(name, options).started(case, folder))
            for name, options in _CONFIGURATIONS.items()
        }
        for server in servers.values():
            answer(request, server.http_port)
            server.pause()
        for number in range(rounds):
            for name in list(servers) if number % 2 else list(servers)[::-1]:
                servers[name].resume()
                seen = clients.load(
                    request,
                    servers[name].http_port,
                    connections=_CONNECTIONS,
                    seconds=seconds,
                    core=cores()[1],
                    folder=folder,
                    answer_bytes=0,
                )
                servers[name].pause()
                turns[name].append(seen)
        for server in servers.values():
            server.resume()
    alone, joined = ([seen.requests_per_second for seen in turns[name]] for name in _CONFIGURATIONS)
    return {
        "case": case.name,
        "connections": _CONNECTIONS,
        "configurations": {
            name: {
                "requests_per_second": float(np.median([turn.requests_per_second for turn in seen])),
                "p99_us": float(np.median([turn.p99_us for turn in seen])),
            }
            for name, seen in turns.items()
        },
        "gain": median_interval(np.array(joined) / np.array(alone)),
    }


def _contestant(name: str, options: tuple[str, ...]) -> Contestant:
    return Contestant(name.replace(" ", "-"), partial(_command, options), open_inference_request, peer=TIDEGATE)


def _command(options: tuple[str, ...], case: Case, ports: Ports, folder: Path) -> list[str]:
    return tidegate_command(case, ports, folder, *options)
