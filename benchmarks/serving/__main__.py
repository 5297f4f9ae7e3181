"""Measures the model server beside ONNX Runtime in process and, where it is importable, KServe's Python server.

    python -m benchmarks.serving [--seconds 3] [--rounds 3] [--json results.json]

Gradient-boosted trees on 12 floats, each an input of its own; one row as V2 JSON, 64 rows as JSON and as binary tensors.
Contestants take turns in every round, since a machine's speed drifts; numbers are medians over rounds. The load generator is
one process and shares the machine: with two cores, rates are what both manage together. CPU µs is the server's own time for
one request, the log's thread included, which a busy machine disturbs least.
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import psutil
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from tidegate.packaging.format.manifest import MODEL_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.graph_packing import unpack_graph
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.opening import wrap_model
from tidegate.serving.model.engine import Engine

HERE = Path(__file__).parent
INPUTS = tuple(f"x{index}" for index in range(12))
JSON_HEADERS = "content-type: application/json"


def build_package(out: Path) -> None:
    """Package gradient-boosted trees on 12 seeded floats."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(5)
    values = rng.normal(size=(20_000, len(INPUTS))).astype(np.float32)
    label = (values[:, 0] + values[:, 1] * values[:, 2] + rng.normal(size=len(values)) > 0).astype(np.int8)
    table = pa.table({name: values[:, index] for index, name in enumerate(INPUTS)} | {"label": label})
    import pandas as pd

    frame = pd.DataFrame(values, columns=list(INPUTS))
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(frame, label)
    package_model(
        wrap_model(model, "trees"),
        candidate="trees",
        examples=Examples(training=table.slice(0, 15_000), reference=table.slice(15_000), label_column="label"),
        settings=PackageSettings(name="bench", request_inputs=INPUTS),
        out=out,
    )


def json_body(rows: int) -> bytes:
    """Return a V2 JSON request."""
    rng = np.random.default_rng(rows)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [rows], "data": rng.normal(size=rows).astype(np.float32).tolist()}
        for name in INPUTS
    ]
    return json.dumps({"inputs": inputs}).encode()


def binary_body(rows: int) -> tuple[bytes, str]:
    """Return a V2 request with binary tensors in and out, and its headers."""
    blob = np.random.default_rng(rows).normal(size=(len(INPUTS), rows)).astype(np.float32).tobytes()
    size = {"binary_data_size": 4 * rows}
    inputs = [{"name": name, "datatype": "FP32", "shape": [rows], "parameters": size} for name in INPUTS]
    outputs = [{"name": "probability", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    return header + blob, f"content-type: application/octet-stream|inference-header-content-length: {len(header)}"


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], port: int) -> Iterator[tuple[psutil.Process, float]]:
    """Run a server until it is ready, and yield it with the seconds that took; stop it at the end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1):
                    break
            except OSError:
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise SystemExit(f"{command[:3]} did not get ready") from None
                time.sleep(0.005)
        yield psutil.Process(process.pid), time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def loaded(process: psutil.Process, port: int, body: bytes, headers: str, connections: int, seconds: float) -> dict[str, Any]:
    """Load a server from another process, and return what that saw."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        arguments = [str(port), "/v2/models/bench/infer", file.name, headers, str(connections), str(seconds)]
        before = sum(process.cpu_times()[:2])
        output = subprocess.run([sys.executable, str(HERE / "load.py"), *arguments], check=True, capture_output=True).stdout
    seen: dict[str, Any] = json.loads(output)
    if set(seen["statuses"]) != {"200"}:
        raise SystemExit(f"not every request was answered: {seen['statuses']}")
    spent = sum(process.cpu_times()[:2]) - before
    return seen | {"cpu_us": round(spent / seen["statuses"]["200"] * 1e6, 1)}


def in_process(package: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Call the graph in this process for a while, without any server."""
    engine = Engine(package, read_manifest(package))
    values = np.random.default_rng(rows).normal(size=(rows, len(INPUTS))).astype(np.float32)
    feeds = {name: values[:, index : index + 1].copy() for index, name in enumerate(INPUTS)}
    times = []
    before = time.process_time()
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        engine.run(feeds)
        times.append(time.perf_counter() - began)
    spent = time.process_time() - before
    times.sort()
    percentiles = {f"p{share}_us": round(times[len(times) * share // 100] * 1e6, 1) for share in (50, 95, 99)}
    return {
        "requests_per_second": round(len(times) / sum(times), 1),
        **percentiles,
        "cpu_us": round(spent / len(times) * 1e6, 1),
    }


def requests() -> dict[str, tuple[bytes, str, int]]:
    """Return each kind of request: its body, headers and how many are in flight."""
    binary, binary_headers = binary_body(64)
    return {
        "1 row, JSON, 1 in flight": (json_body(1), JSON_HEADERS, 1),
        "1 row, JSON, 8 in flight": (json_body(1), JSON_HEADERS, 8),
        "64 rows, JSON, 8 in flight": (json_body(64), JSON_HEADERS, 8),
        "64 rows, binary, 8 in flight": (binary, binary_headers, 8),
    }


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the results of every contestant, its startup and memory."""
    package = folder / "package"
    build_package(package)
    contestants = {
        "tidegate": lambda port: [
            *(sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve", str(package)),
            *("--http-port", str(port), "--grpc-port", "0"),
        ],
        "tidegate, with log": lambda port: [
            *(sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve", str(package)),
            *("--http-port", str(port), "--grpc-port", "0", "--log-store", str(folder / "store")),
        ],
    }
    if importlib.util.find_spec("kserve") is not None and hasattr(importlib.import_module("kserve"), "ModelServer"):
        peer, graph = str(HERE / "kserve_peer.py"), folder / "plain.onnx"
        onnx.save(unpack_graph(onnx.load(package / MODEL_NAME), read_manifest(package).packing), graph)
        contestants["kserve"] = lambda port: [sys.executable, peer, str(graph), str(port)]
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {}
    processes: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for kind, rows in (("1 row, in process", 1), ("64 rows, in process", 64)):
            seen.setdefault("onnxruntime", {}).setdefault(kind, []).append(in_process(package, rows, min(1, seconds)))
        for name, command in contestants.items():
            port = free_port()
            with running(command(port), port) as (process, startup):
                for kind, (body, headers, connections) in requests().items():
                    run = loaded(process, port, body, headers, connections, seconds)
                    seen.setdefault(name, {}).setdefault(kind, []).append(run)
                memory = process.memory_info().rss / 1e6
            processes[name] = {"startup_seconds": round(startup, 3), "rss_mb_after_load": round(memory, 1)}
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_average": os.getloadavg()[0]},
        "kserve": "measured" if "kserve" in contestants else "not importable here, so not measured",
        "processes": processes,
        "results": {name: {kind: _median(runs) for kind, runs in kinds.items()} for name, kinds in seen.items()},
    }


def _median(runs: list[dict[str, Any]]) -> dict[str, float]:
    names = ("requests_per_second", "p50_us", "p95_us", "p99_us", "cpu_us")
    return {name: statistics.median(run[name] for run in runs) for name in names}


def show(measured: dict[str, Any]) -> None:
    """Print the results as a table."""
    table = Table("contestant", "request", "requests/s", "p50 µs", "p95 µs", "p99 µs", "CPU µs")
    for name, kinds in measured["results"].items():
        for kind, result in kinds.items():
            table.add_row(name, kind, *(f"{value:,.0f}" for value in result.values()))
    console = Console()
    console.print(table)
    for name, process in measured["processes"].items():
        console.print(f"{name}: ready after {process['startup_seconds']} s, {process['rss_mb_after_load']} MB after the load")
    console.print(f"KServe's Python server: {measured['kserve']}; load average {measured['machine']['load_average']:.1f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3, help="of load for each kind of request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        measured = measure(Path(folder), arguments.seconds, arguments.rounds)
    show(measured)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
