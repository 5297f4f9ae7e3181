"""What a swap costs: one version after another is loaded while requests of one row come, against the same load without."""

import json
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import clients
from benchmarks.serving.contestants import Contestant, Ports
from benchmarks.serving.models import SERVED_AS, Case
from benchmarks.serving.processes import Server, cores
from benchmarks.serving.requests import Load, answer, open_inference_request
from tidegate.optimization.benchmark.timings import median_interval
from tidegate.registry.registry import ModelRegistry
from tidegate.storage import open_store

_CONNECTIONS = 8


def measure(case: Case, successor: Path, rounds: int, seconds: int, folder: Path) -> dict[str, Any]:
    """Return how long a load takes under load, and what it takes from throughput and p99 meanwhile.

    Args:
        case: What is served first, and asked.
        successor: The package of another version of it.
        rounds: How often each is measured.
        seconds: How long a turn takes.
        folder: For files.
    """
    request = open_inference_request(case, Load("json", 1))
    store = folder / "registry"
    store.mkdir(parents=True)
    registry = ModelRegistry(open_store(str(store)))
    for package in (case.package, successor):
        registry.register(package, reason="benchmark")
    quiet: list[clients.Seen] = []
    swapping: list[clients.Seen] = []
    loads: list[float] = []
    with ExitStack() as stack:
        contestant = Contestant("swapped", partial(_command, store), open_inference_request)
        server = stack.enter_context(contestant.started(case, folder))
        answer(request, server.http_port)
        load = partial(
            clients.load,
            request,
            server.http_port,
            connections=_CONNECTIONS,
            seconds=seconds,
            core=cores()[1],
            folder=folder,
            answer_bytes=0,
        )
        load()
        for _ in range(rounds):
            quiet.append(load())
            with _Swaps(server) as swaps:
                swapping.append(load())
            loads += swaps.seconds
    ratios = [with_.requests_per_second / without.requests_per_second for with_, without in zip(swapping, quiet, strict=True)]
    return {
        "case": case.name,
        "connections": _CONNECTIONS,
        "swaps": len(loads),
        "load_seconds": float(np.median(loads)),
        "throughput": median_interval(np.array(ratios)),
        "p99_ms_with": float(np.median([seen.p99_us for seen in swapping])) / 1e3,
        "p99_ms_without": float(np.median([seen.p99_us for seen in quiet])) / 1e3,
    }


class _Swaps:
    """Loads one version and the other in turn, until the end of the block."""

    def __init__(self, server: Server) -> None:
        self.seconds: list[float] = []
        self._url = f"http://127.0.0.1:{server.http_port}/v2/repository/models/{SERVED_AS}/load"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._swap)
        self._failure: OSError | None = None

    def __enter__(self) -> "_Swaps":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise SystemExit(f"a version could not be loaded: {self._failure}")

    def _swap(self) -> None:
        while not self._over.is_set():
            for version in ("2", "1"):
                body = json.dumps({"parameters": {"version": version}}).encode()
                begun = time.perf_counter()
                try:
                    with urllib.request.urlopen(self._url, body, timeout=30):  # noqa: S310 - the address is made here
                        self.seconds.append(time.perf_counter() - begun)
                except OSError as error:
                    self._failure = error
                    return


def _command(store: Path, case: Case, ports: Ports, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-c", "from tidegate.cli.main import run; run()", "serve"),
        *(f"{store}/models/{SERVED_AS}/versions/1", "--name", SERVED_AS, "--repository", str(store)),
        *("--http-port", str(ports.http), "--grpc-port", str(ports.grpc), "--log-store", str(folder / "store")),
    ]
