"""Drives the server's own REST code in this process, with connections but no sockets, and tells what a request costs, as JSON.

    python -m benchmarks.serving.drive PACKAGE BODY CONNECTIONS [LOG_STORE]

In every turn of the loop each connection hands one whole HTTP request to its parser, and they are answered together, as they
are on a busy server. First the processor time of a request is measured with nothing in the way, every thread included;
then its stages are timed.
"""

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvloop

from benchmarks.serving.models import SERVED_AS
from benchmarks.serving.requests import REST_PATH
from benchmarks.serving.stopwatch import Stopwatch
from tidegate.clock import open_clock
from tidegate.packaging.labels import Labels
from tidegate.packaging.running.session import GraphSession
from tidegate.serving.inference_log.log import InferenceLog
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.model.batching import Batcher
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.feeds import Feeder
from tidegate.serving.model.loading import ModelLoader
from tidegate.serving.model.reading import RequestReader
from tidegate.serving.model.served import ServedModel
from tidegate.serving.protocol import codec_json
from tidegate.serving.rest.application import RestApplication
from tidegate.serving.rest.connection import Connection
from tidegate.serving.rest.listener import RestListener
from tidegate.serving.settings import ServeSettings

PARSE, ROUTE, DECODE, VALIDATE = "parse HTTP", "route", "decode JSON", "read and validate"
SUBMIT, BATCH, ASSEMBLE, RUN, LABEL = "submit", "queue and batch", "assemble the feeds", "run the graph", "label"
RECORD, LOG, METRICS, ENCODE, WRITE = "log: make the record", "log: queue it", "metrics", "encode JSON", "write HTTP"
_COUNTS = ("count_request", "count_probabilities", "count_predictions", "count_batch", "set_batch_queue")
PLACES = (
    (Connection, "data_received", PARSE),
    (RestApplication, "handle", ROUTE),
    (codec_json, "decode", DECODE),
    (ServedModel, "submit", SUBMIT),
    (RequestReader, "read", VALIDATE),
    (Batcher, "add", BATCH),
    (Batcher, "_turn", BATCH),
    (Feeder, "feeds", ASSEMBLE),
    (GraphSession, "run_feeds", RUN),
    (Labels, "of", LABEL),
    (ServedModel, "_record", RECORD),
    (InferenceLog, "add", LOG),
    *((WorkerMetrics, name, METRICS) for name in _COUNTS),
    (codec_json, "encode", ENCODE),
    (Connection, "send", WRITE),
)
_LAPS, _TURNS, _WARM_TURNS = 1_500, 4, 400  # short laps: most of them nothing interrupts
_UNTIMED_SECONDS = 2.0
_SWITCH_SECONDS = 0.0005  # as the worker's


@dataclass(slots=True)
class _Transport:
    """A transport that throws away what is written, and counts it."""

    written: int = 0
    closing: bool = False

    def write(self, _data: bytes) -> None:
        self.written += 1

    def is_closing(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class _Traffic:
    """A served model and its connections: `turn` asks once on each, and waits until all are answered."""

    connections: list[Connection]
    transports: list[_Transport]
    request: bytes

    async def turn(self) -> None:
        wanted = self.transports[-1].written + 1
        for connection in self.connections:
            connection.data_received(self.request)
        while self.transports[-1].written < wanted:
            await asyncio.sleep(0)


async def drive(package: Path, body: bytes, connections: int, log_store: str | None) -> dict[str, Any]:
    """Return microseconds of processor time a request, and of each stage of it."""
    async with _traffic(package, body, connections, log_store) as traffic:
        untimed = await _processor_time(traffic)
    watch = Stopwatch()
    with watch.timing(*PLACES):  # before the model is opened, whose parts hold on to functions of each other
        async with _traffic(package, body, connections, log_store) as traffic:
            watch.lap()
            watch.forget()
            for _ in range(_LAPS):
                for _ in range(_TURNS):
                    await traffic.turn()
                watch.lap()
    return {"cpu_us": untimed, "stages": watch.medians(_TURNS * connections)}


@asynccontextmanager
async def _traffic(package: Path, body: bytes, connections: int, log_store: str | None) -> AsyncIterator[_Traffic]:
    settings = ServeSettings(package=str(package), name=SERVED_AS, log_store=log_store, grpc_port=0)
    head = f"POST {REST_PATH} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\ncontent-type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with tempfile.TemporaryDirectory() as metrics:
        loader = ModelLoader(settings, SERVED_AS, clock=open_clock("wall"), metrics=Path(metrics), worker=0)
        endpoint = Endpoint(SERVED_AS)
        endpoint.swap(model := loader.open(package, "1"))
        listener = RestListener(
            RestApplication(endpoint, settings, lambda: b"").handle,
            max_body_bytes=settings.max_body_bytes,
            max_connections=settings.max_connections,
            read_seconds=settings.read_seconds,
            idle_seconds=settings.idle_seconds,
        )
        traffic = _Traffic(
            [Connection(listener) for _ in range(connections)], [_Transport() for _ in range(connections)], request
        )
        for connection, transport in zip(traffic.connections, traffic.transports, strict=True):
            connection.connection_made(cast("asyncio.Transport", transport))
        for _ in range(_WARM_TURNS):
            await traffic.turn()
        gc.collect()
        gc.freeze()
        yield traffic
        await asyncio.to_thread(model.close)


async def _processor_time(traffic: _Traffic) -> float:
    """Return microseconds a request, of all threads."""
    turns, end = 0, time.monotonic() + _UNTIMED_SECONDS
    before = time.process_time_ns()
    while time.monotonic() < end:
        await traffic.turn()
        turns += 1
    return (time.process_time_ns() - before) / (turns * len(traffic.connections)) / 1e3


def _main() -> None:
    package, body, connections, *store = sys.argv[1:]
    sys.setswitchinterval(_SWITCH_SECONDS)
    measured = uvloop.run(drive(Path(package), Path(body).read_bytes(), int(connections), store[0] if store else None))
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    _main()
