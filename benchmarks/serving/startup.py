"""From start to ready, and the memory of a worker: everyone on the trees, and Tidegate on the flights, with feature lookups.

The flights are those of a workspace that the demo made (`make demo`): its newest registered version, online store and clock.
Import caches of the operating system are warm after the first start, and nothing here can cool them.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import clients
from benchmarks.serving.contestants import Contestant, free_ports
from benchmarks.serving.models import SERVED_AS, Case
from benchmarks.serving.processes import Server, cores, running
from benchmarks.serving.requests import REST_PATH, Request, answer, read_json
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.package import read_manifest

STARTS = 5
_READY_SECONDS, _MEMORY_MB = 1.0, 150.0
_LOAD_SECONDS = 2
_UNKNOWN_KEY = "N00000"  # of an aircraft that no store holds: its features are looked up, and found missing


def measure(case: Case, found: Sequence[Contestant], workspace: Path, folder: Path) -> dict[str, Any]:
    """Return seconds to ready and megabytes of every contestant's server on a case, and of Tidegate's on the flights."""
    measured: dict[str, Any] = {}
    for number in range(STARTS):
        for contestant in (one for one in found if not one.peer):  # another configuration starts as the first does
            with contestant.started(case, folder / f"start-{number}") as server:
                _note(measured, f"{contestant.name}, {case.name}", server)
    versions = sorted((workspace / "store" / "models" / "flights-late" / "versions").glob("*"), key=lambda path: int(path.name))
    if not versions:
        return measured | {"flights": f"absent: {workspace} holds no registered flights-late; `make demo` makes one"}
    request = _flights_request(versions[-1])
    for number in range(STARTS):
        with _flights_server(versions[-1], workspace, folder / f"flights-{number}") as server:
            _note(measured, "tidegate, flights", server)
            answer(request, server.http_port)
            clients.load(
                request,
                server.http_port,
                connections=8,
                seconds=_LOAD_SECONDS,
                core=cores()[1],
                folder=folder,
                answer_bytes=0,
            )
            measured["tidegate, flights"].setdefault("loaded_mb", []).append(server.resident_mb())
    return measured


def summary(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a server: medians over the starts."""
    return [
        {"server": name} | {what: statistics.median(values) for what, values in seen.items()}
        for name, seen in measured.items()
        if isinstance(seen, dict)
    ]


def asked(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is asked of starts and memory on the flights."""
    seen = measured.get("tidegate, flights")
    if seen is None:
        return []
    return [
        _bounded("start to ready, flights, seconds", seen["ready_seconds"], _READY_SECONDS),
        _bounded("memory of a worker after load, flights, MB", seen["loaded_mb"], _MEMORY_MB),
    ]


def _bounded(what: str, values: Sequence[float], most: float) -> dict[str, Any]:
    met = sum(value < most for value in values)
    worst = (statistics.median(values), min(values), max(values))
    return {"what": what, "bound": most, "is_least": False, "worst": worst, "at": "flights", "met": met, "of": len(values)}


def _note(measured: dict[str, Any], name: str, server: Server) -> None:
    seen = measured.setdefault(name, {})
    seen.setdefault("ready_seconds", []).append(server.ready_after)
    seen.setdefault("ready_mb", []).append(server.resident_mb())


@contextmanager
def _flights_server(package: Path, workspace: Path, folder: Path) -> Iterator[Server]:
    folder.mkdir(parents=True)
    http_port, grpc_port = free_ports(2)
    clock = workspace / "clock"
    command = [
        *(sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve", str(package.resolve())),
        *("--name", SERVED_AS, "--http-port", str(http_port), "--grpc-port", str(grpc_port)),
        *("--log-store", str(folder / "store"), "--online-store", f"sqlite:///{workspace.resolve()}/features/online.db"),
        *(("--clock", f"replay:{clock.resolve()}") if clock.exists() else ()),
    ]
    with running(
        "flights",
        command,
        http_port=http_port,
        grpc_port=grpc_port,
        core=cores()[0],
        health="/v2/health/ready",
        folder=folder,
    ) as server:
        yield server


def _flights_request(package: Path) -> Request:
    """Return one row as its callers send it: what the golden sample's first row holds, and the keys of its features."""
    manifest, golden = read_manifest(package), read_golden(package / "golden.npz")
    inputs = [
        {"name": spec.name, "datatype": spec.datatype, "shape": [1, 1], "data": golden.inputs[spec.name][0].ravel().tolist()}
        for spec in manifest.signature.inputs
        if spec.source == "request"
    ]
    named = {tensor["name"] for tensor in inputs}
    inputs += [
        {"name": key, "datatype": "BYTES", "shape": [1], "data": [_UNKNOWN_KEY]} for key in _keys(manifest) if key not in named
    ]
    body = json.dumps({"id": "benchmark-request", "inputs": inputs}).encode()

    def read(raw: bytes, _headers: object) -> np.ndarray[Any, np.dtype[Any]]:
        return read_json("probability", raw)

    return Request(REST_PATH, body, {"content-type": "application/json"}, read)


def _keys(manifest: Manifest) -> tuple[str, ...]:
    return tuple(manifest.features.join_keys) if manifest.features else ()
