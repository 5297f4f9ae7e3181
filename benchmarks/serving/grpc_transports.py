"""The server's own gRPC beside grpc.aio: the same messages, the same codec, and no model behind either.

    python -m benchmarks.serving.grpc_transports [--rounds 6] [--seconds 1] [--json results.json]

Loaded with h2load, in turns, the other one stopped meanwhile. The processor time of a call says more than calls a second do on
a machine that others use too. `python -m benchmarks.serving.grpc_transports serve own|grpc.aio PORT` is one of the servers.
"""

import argparse
import asyncio
import json
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.contestants import free_ports
from benchmarks.serving.processes import Server, cores, on_core
from tidegate.serving.grpc_v2 import codec
from tidegate.serving.grpc_v2.listener import open_grpc
from tidegate.serving.grpc_v2.messages import message_class
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.served import Identity
from tidegate.serving.protocol.request import InferAnswer, InferRequest, Reply
from tidegate.serving.settings import ServeSettings

TRANSPORTS = ("own", "grpc.aio")
MESSAGES = {"12 columns of one value": (12, 1), "one tensor of 12 values": (1, 12)}
CONCURRENCY = {"1 call": (1, 1), "8 connections": (8, 1), "32 calls on one connection": (1, 32)}
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_ANSWER = {"probability": np.array([0.5], np.float32)}
_DATATYPES = {"probability": "FP32"}


class _NoModel:
    identity = Identity("model", "1", "v1")
    output_datatypes = _DATATYPES
    metrics: Any = type("Uncounted", (), {"count_request": lambda *_: None})()

    def submit(self, request: InferRequest, reply: Reply) -> None:
        reply(InferAnswer(request.id, _ANSWER))


async def _serve_own(port: int) -> None:
    endpoint = Endpoint("model")
    endpoint.swap(_NoModel())  # type: ignore[arg-type]
    await open_grpc(endpoint, ServeSettings(package="none", grpc_port=port))
    await asyncio.Event().wait()


async def _serve_aio(port: int) -> None:
    import grpc

    async def infer(message: bytes, _context: object) -> bytes:
        _, _, request = codec.decode(message)
        return codec.encode(InferAnswer(request.id, _ANSWER), "model", "1", _DATATYPES)

    service, method = _METHOD[1:].split("/")
    server = grpc.aio.server()
    handlers = {method: grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _start(transport: str, port: int, core: int) -> Server:
    begun = time.perf_counter()
    with on_core(core):
        command = [sys.executable, "-m", "benchmarks.serving.grpc_transports", "serve", transport, str(port)]
        process = subprocess.Popen(command, process_group=0)  # a session of its own would be scheduled apart from its client
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.perf_counter() - begun > 60:
                raise SystemExit(f"{transport} did not get ready") from None
            time.sleep(0.01)
        else:
            return Server(transport, 0, port, process, time.perf_counter() - begun)


def _body(tensors: int, values: int) -> bytes:
    message = message_class("inference.ModelInferRequest")(model_name="model", id="0123456789")
    for index in range(tensors):
        message.inputs.add(name=f"column_{index}", datatype="FP32", shape=[1, values])
        message.raw_input_contents.append(struct.pack(f"<{values}f", *range(values)))
    encoded: bytes = message.SerializeToString()
    return struct.pack(">BI", 0, len(encoded)) + encoded


def _turn(server: Server, body: Path, concurrency: tuple[int, int], seconds: int) -> tuple[float, float]:
    """Return calls a second, and the microseconds of processor time of each."""
    connections, streams = map(str, concurrency)
    before = server.cpu_seconds()
    with on_core(cores()[1]):
        command = ["h2load", "-D", str(seconds), "-c", connections, "-m", streams, "-d", str(body)]
        headers = ["-H", "te: trailers", "-H", "content-type: application/grpc"]
        url = f"http://127.0.0.1:{server.grpc_port}{_METHOD}"
        said = subprocess.run([*command, *headers, url], check=True, capture_output=True, text=True).stdout
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", said)
    if found is None or found[2] != "0" or found[3] != "0":
        raise SystemExit(f"{server.name} failed calls: {said}")
    return int(found[1]) / seconds, (server.cpu_seconds() - before) / int(found[1]) * 1e6


def _measure(rounds: int, seconds: int) -> list[dict[str, Any]]:
    servers = [_start(name, port, cores()[0]) for name, port in zip(TRANSPORTS, free_ports(2), strict=True)]
    turns: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            body = Path(folder) / "body"
            for _ in range(rounds):
                for message, shape in MESSAGES.items():
                    body.write_bytes(_body(*shape))
                    for load, concurrency in CONCURRENCY.items():
                        for server, other in zip(servers, reversed(servers), strict=True):
                            other.pause()
                            turns.setdefault((message, load, server.name), []).append(_turn(server, body, concurrency, seconds))
                            other.resume()
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    return [_row(message, load, turns) for message in MESSAGES for load in CONCURRENCY]


def _row(message: str, load: str, turns: dict[tuple[str, str, str], list[tuple[float, float]]]) -> dict[str, Any]:
    own, other = (turns[message, load, name] for name in TRANSPORTS)
    return {
        "message": message,
        "load": load,
        "own_us": round(statistics.median(us for _, us in own), 1),
        "grpc_aio_us": round(statistics.median(us for _, us in other), 1),
        "times_less": round(statistics.median(theirs / ours for (_, ours), (_, theirs) in zip(own, other, strict=True)), 1),
        "own_per_second": round(statistics.median(rate for rate, _ in own)),
        "grpc_aio_per_second": round(statistics.median(rate for rate, _ in other)),
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)


def _main() -> None:
    if sys.argv[1:2] == ["serve"]:
        port = int(sys.argv[3])
        if sys.argv[2] == "own":
            uvloop.run(_serve_own(port))
        else:
            asyncio.run(_serve_aio(port))  # which is faster for grpc.aio than uvloop
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=1, help="of a turn")
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args()
    rows = _measure(options.rounds, options.seconds)
    _show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    _main()
