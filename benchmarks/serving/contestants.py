"""Who is measured: Tidegate, KServe's Python server, MLServer and mosec; how each is started, and which requests it speaks."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.models import SERVED_AS, Case
from benchmarks.serving.processes import Server, cores, running
from benchmarks.serving.requests import Load, Request, json_body, open_inference_request, read_json

PEERS = Path(__file__).parent / "peers"
TIDEGATE, KSERVE, MLSERVER, MOSEC = "tidegate", "kserve", "mlserver", "mosec"
_HEALTH = "/v2/health/ready"
_BATCH = 64
# Tried with trees and CNN under all loads: with its shortest wait of 1 ms, mosec's batching more than doubles its throughput
# with 64 in flight, and halves it with 8. MLServer's never gained anything, and so is off.
_BATCHING_PAYS_FROM = 64


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports that were free a moment ago."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that can be measured.

    Attributes:
        name: What it is called in the results.
        command: How it is started on a case: its arguments; it may write files to the given folder first.
        request: Its request of a kind, or None where it does not speak that.
        health: The path that answers 200 when it is ready.
        peer: The name it competes under, where it is one of several configurations.
        suits: With how many in flight this configuration is the best of its peer, and so is measured.
    """

    name: str
    command: Callable[[Case, Ports, Path], list[str]]
    request: Callable[[Case, Load], Request | None]
    health: str = _HEALTH
    peer: str = ""
    suits: Callable[[int], bool] = lambda _connections: True

    @contextmanager
    def started(self, case: Case, folder: Path) -> Iterator[Server]:
        """Run it on the servers' core until the end of the block."""
        own = folder / f"{case.name}-{self.name.replace(', ', '-')}"
        own.mkdir(parents=True)
        ports = Ports(*free_ports(3))
        with running(
            self.name,
            self.command(case, ports, own),
            http_port=ports.http,
            grpc_port=ports.grpc,
            core=cores()[0],
            health=self.health,
            folder=own,
        ) as server:
            yield server


def contestants(mlserver: Path | None, mosec: Path | None) -> tuple[list[Contestant], dict[str, str]]:
    """Return who can be measured here, and by name the version of each, or why it is absent.

    Args:
        mlserver: The interpreter of MLServer's environment.
        mosec: The interpreter of mosec's environment.
    """
    found = [Contestant(TIDEGATE, tidegate_command, open_inference_request)]
    state = {TIDEGATE: "this checkout"}
    if _is_installed("kserve"):
        state[KSERVE] = _version(Path(sys.executable), "kserve")
        found.append(Contestant(KSERVE, _kserve_command, open_inference_request))
    else:
        state[KSERVE] = "absent: the SDK is not installed beside Tidegate"
    for name, python in ((MLSERVER, mlserver), (MOSEC, mosec)):
        if python is None:
            state[name] = f"absent: give --{name} PYTHON, the interpreter of an environment that has it"
            continue
        state[name] = _version(python, name)
        found += [_mlserver(python)] if name == MLSERVER else [_mosec(python), _batching_mosec(python)]
    return found, state


def tidegate_command(case: Case, ports: Ports, folder: Path, *options: str) -> list[str]:
    """Return how Tidegate is started: with its log, metrics and validation, as always."""
    return [
        *(sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve", str(case.package)),
        *("--name", SERVED_AS, "--http-port", str(ports.http), "--grpc-port", str(ports.grpc)),
        *("--log-store", str(folder / "store"), *options),
    ]


def free_ports(count: int) -> list[int]:
    """Return ports that are free now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _kserve_command(case: Case, ports: Ports, _folder: Path) -> list[str]:
    arguments = (str(case.graph), case.output, SERVED_AS, str(ports.http), str(ports.grpc))
    return [sys.executable, str(PEERS / "kserve_peer.py"), *arguments]


def _mlserver(python: Path) -> Contestant:
    def command(case: Case, ports: Ports, folder: Path) -> list[str]:
        settings = {
            "debug": False,
            "host": "127.0.0.1",
            "http_port": ports.http,
            "grpc_port": ports.grpc,
            "metrics_port": ports.metrics,
            "parallel_workers": 0,
        }
        model = {
            "name": SERVED_AS,
            "implementation": "mlserver_peer.Peer",
            "parameters": {"uri": str(case.graph), "extra": {"output": case.output}},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return ["env", f"PYTHONPATH={PEERS}", str(python.with_name("mlserver")), "start", str(folder)]

    def request(case: Case, load: Load) -> Request | None:
        return None if load.kind == "binary" else open_inference_request(case, load)  # not over REST

    return Contestant(MLSERVER, command, request)


def _mosec(python: Path) -> Contestant:
    return Contestant(
        MOSEC, partial(_mosec_command, python, 1), _mosec_request, health="/", suits=lambda count: count < _BATCHING_PAYS_FROM
    )


def _batching_mosec(python: Path) -> Contestant:
    return Contestant(
        f"{MOSEC}, batching",
        partial(_mosec_command, python, _BATCH),
        _mosec_request,
        health="/",
        peer=MOSEC,
        suits=lambda count: count >= _BATCHING_PAYS_FROM,
    )


def _mosec_command(python: Path, batch: int, case: Case, ports: Ports, folder: Path) -> list[str]:
    own = (f"MOSEC_PORT={ports.http}", "MOSEC_ADDRESS=127.0.0.1", f"MOSEC_PATH={folder / 's'}", "MOSEC_LOG_LEVEL=warning")
    worker = (f"BENCH_GRAPH={case.graph}", f"BENCH_OUTPUT={case.output}", f"BENCH_BATCH={batch}")
    return ["env", *own, *worker, str(python), str(PEERS / "mosec_peer.py")]


def _mosec_request(case: Case, load: Load) -> Request | None:
    if load.kind == "grpc":
        return None
    if load.kind == "json":
        headers = {"content-type": "application/json"}
        return Request("/inference", json_body(case, load.rows), headers, partial(read_json, case.output))
    import msgspec

    inputs = [
        {"name": name, "datatype": "FP32", "shape": array.shape, "data": array.tobytes()}
        for name, array in case.tensors(load.rows).items()
    ]
    body = msgspec.msgpack.encode({"id": "benchmark-request", "inputs": inputs})

    def read(answer: bytes, _headers: object) -> np.ndarray[Any, np.dtype[Any]]:
        return np.frombuffer(msgspec.msgpack.decode(answer)["outputs"][0]["data"], np.float32)

    return Request("/inference", body, {"content-type": "application/msgpack"}, read)


def _is_installed(package: str) -> bool:
    """Return whether a package is installed here, without importing it: its protobuf messages clash with other clients'."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _version(python: Path, package: str) -> str:
    if shutil.which(str(python)) is None:
        raise SystemExit(f"{python}: no such interpreter; --{package} names the one of {package}'s environment")
    code = f"from importlib.metadata import version; print(version('{package}'), version('onnxruntime'))"
    asked = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SystemExit(f"{python}: {package} or onnxruntime is not installed there")
    own, runtime = asked.stdout.split()
    return f"{own} with ONNX Runtime {runtime}"
