"""Where every microsecond of a request goes: one row of JSON for the trees, 8 in flight, and what each feature costs.

Three measures of processor time a request, each in turn with the others over the rounds: of the whole server under load; of its
own code in a process without sockets, stage by stage (`drive.py`), with as many requests a turn of the loop as the server was
seen to join; and of a server that answers with ready bytes, for what event loop and transports take. The kernel's part is that
of the server itself: waking a client that waits costs much of it, and the client of a server that does nothing never waits. The
sum of the parts is held against the whole; what it lacks is shown. What the log takes is the difference that it makes, its
thread included.
"""

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving import clients, drive
from benchmarks.serving.contestants import Contestant, Ports, tidegate_command
from benchmarks.serving.models import Case
from benchmarks.serving.processes import Server, cores, on_core
from benchmarks.serving.requests import Load, Request, answer, open_inference_request

_ROOT = Path(__file__).resolve().parents[2]
_CONNECTIONS = 8
_LOAD = Load("json", 1)
_WITH_LOG, _WITHOUT_LOG, _NULL = "with-log", "without-log", "null"
_LOG_STAGES = (drive.RECORD, drive.LOG)
_MOST = {"log": 0.05, "metrics": 0.02, "validation": 0.05}
_UNEXPLAINED = 0.10
_ANSWER_BYTES = 200  # about as long as the trees' answer


@dataclass(frozen=True, slots=True)
class _Whole:
    """What one turn of load showed of a server: µs of processor time a request, and the kernel's part of them."""

    cpu_us: float
    kernel_us: float
    requests_per_second: float


def measure(case: Case, rounds: int, seconds: int, folder: Path) -> dict[str, Any]:
    """Return the parts of a request's processor time, their sum, the whole, and each feature's share."""
    request = open_inference_request(case, _LOAD)
    wholes: dict[str, list[_Whole]] = {}
    driven: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for contestant in _contestants(request):
            servers[contestant.name] = server = stack.enter_context(contestant.started(case, folder))
            if contestant.name != _NULL:
                answer(request, server.http_port)
            _loaded(server, request, 1, folder)  # warm
            server.pause()
        joined = _requests_joined(servers[_WITH_LOG], request, seconds, folder)
        for number in range(rounds):
            for name in (*servers,) if number % 2 else (*reversed(servers),):
                servers[name].resume()
                wholes.setdefault(name, []).append(_loaded(servers[name], request, seconds, folder))
                servers[name].pause()
            for name, store in ((_WITH_LOG, str(folder / f"driven-{number}")), (_WITHOUT_LOG, "")):
                driven.setdefault(name, []).append(_driven(case, request.body, round(joined), store, folder))
        for server in servers.values():
            server.resume()
    return _summary(wholes, driven, joined)


def _summary(wholes: dict[str, list[_Whole]], driven: dict[str, list[dict[str, Any]]], joined: float) -> dict[str, Any]:
    whole = {name: statistics.median(one.cpu_us for one in seen) for name, seen in wholes.items()}
    kernel = {name: statistics.median(one.kernel_us for one in seen) for name, seen in wholes.items()}
    alone = {name: statistics.median(one["cpu_us"] for one in seen) for name, seen in driven.items()}
    stages = {
        stage: statistics.median(one["stages"][stage] for one in driven[_WITH_LOG]) for stage in driven[_WITH_LOG][0]["stages"]
    }
    log_seen = sum(stages[stage] for stage in _LOG_STAGES)
    log = alone[_WITH_LOG] - alone[_WITHOUT_LOG]
    parts = {
        "kernel: sockets, waking the client": kernel[_WITHOUT_LOG],
        "event loop and transports": whole[_NULL] - kernel[_NULL],
        **stages,
        "log: columns, Parquet and store": max(0.0, log - log_seen),
        "between the stages": max(0.0, alone[_WITHOUT_LOG] - (sum(stages.values()) - log_seen)),
    }
    features = {"log": log, "metrics": stages[drive.METRICS], "validation": stages[drive.VALIDATE]}
    server = whole[_WITH_LOG]
    return {
        "connections": _CONNECTIONS,
        "requests_joined": joined,
        "parts_us": parts,
        "sum_us": sum(parts.values()),
        "server_us": server,
        "server_kernel_us": kernel[_WITH_LOG],
        "server_without_log_us": whole[_WITHOUT_LOG],
        "unexplained_share": 1 - sum(parts.values()) / server,
        "requests_per_second": {
            name: statistics.median(one.requests_per_second for one in seen) for name, seen in wholes.items()
        },
        "features_us": features,
        "asked": [
            *(
                _asked(f"share of a request's processor time: {name}", cost / server, _MOST[name])
                for name, cost in features.items()
            ),
            _asked(
                "share of a request's processor time that the profile does not explain", _distance(parts, server), _UNEXPLAINED
            ),
        ],
    }


def show(measured: dict[str, Any], console: Console) -> None:
    """Print the parts, their sum and the whole."""
    table = Table("part", "µs", "share", box=None)
    for part, cost in measured["parts_us"].items():
        table.add_row(part, f"{cost:.2f}", f"{cost / measured['server_us']:.1%}")
    table.add_row("sum", f"{measured['sum_us']:.2f}", f"{measured['sum_us'] / measured['server_us']:.1%}")
    table.add_row("the server, under load", f"{measured['server_us']:.2f}", "100.0%")
    table.add_row("the server without its log", f"{measured['server_without_log_us']:.2f}", "")
    console.print(table)
    console.print(f"{measured['requests_joined']:.1f} requests were joined to a run of the graph")


def _distance(parts: dict[str, float], server: float) -> float:
    return abs(1 - sum(parts.values()) / server)


def _asked(what: str, share: float, most: float) -> dict[str, Any]:
    worst = (share, share, share)
    return {
        "what": what,
        "bound": most,
        "is_least": False,
        "worst": worst,
        "at": "trees, 1 row",
        "met": int(share <= most),
        "of": 1,
    }


def _contestants(request: Request) -> list[Contestant]:
    def null(_case: Case, ports: Ports, _folder: Path) -> list[str]:
        script = Path(__file__).with_name("peers") / "null_server.py"
        return [sys.executable, str(script), str(ports.http), str(len(request.body)), str(_ANSWER_BYTES)]

    def without_log(case: Case, ports: Ports, folder: Path) -> list[str]:
        command = tidegate_command(case, ports, folder)
        at = command.index("--log-store")
        return command[:at] + command[at + 2 :]

    made: list[tuple[str, Callable[[Case, Ports, Path], list[str]]]] = [
        (_WITH_LOG, partial(tidegate_command)),
        (_WITHOUT_LOG, without_log),
        (_NULL, null),
    ]
    return [Contestant(name, command, open_inference_request) for name, command in made]


def _loaded(server: Server, request: Request, seconds: int, folder: Path) -> _Whole:
    cpu, kernel = server.cpu_seconds(), server.system_seconds()
    seen = clients.load(
        request, server.http_port, connections=_CONNECTIONS, seconds=seconds, core=cores()[1], folder=folder, answer_bytes=0
    )
    per_request = 1e6 / seen.requests
    return _Whole(
        (server.cpu_seconds() - cpu) * per_request, (server.system_seconds() - kernel) * per_request, seen.requests_per_second
    )


def _requests_joined(server: Server, request: Request, seconds: int, folder: Path) -> float:
    """Return how many requests a run of the graph answered on average under the load."""
    server.resume()
    runs, joined = _batches(server)
    _loaded(server, request, seconds, folder)
    more_runs, more_joined = _batches(server)
    server.pause()
    return (more_joined - joined) / (more_runs - runs)


def _batches(server: Server) -> tuple[float, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return _value(lines, "tidegate_batch_requests_count"), _value(lines, "tidegate_batch_requests_sum")


def _value(lines: list[str], name: str) -> float:
    return float(next(line for line in lines if line.startswith((f"{name}{{", f"{name} "))).split()[-1])


def _driven(case: Case, body: bytes, connections: int, store: str, folder: Path) -> dict[str, Any]:
    (folder / "driven-body").write_bytes(body)
    if store:
        Path(store).mkdir()
    arguments = [str(case.package), str(folder / "driven-body"), str(connections), *((store,) if store else ())]
    with on_core(cores()[0]):
        said = subprocess.run(
            [sys.executable, "-m", "benchmarks.serving.drive", *arguments],
            cwd=_ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found
