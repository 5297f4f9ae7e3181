"""Loads one HTTP endpoint from a process of its own and prints what it saw as JSON.

    python load.py PORT PATH BODY_FILE HEADERS CONNECTIONS SECONDS

HEADERS are separated by `|`. One request is in flight on each connection, which is kept alive. Written on asyncio's
protocols, since the usual Python clients cost more than the server under test.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import uvloop

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, latencies: list[float], statuses: dict[str, int]) -> None:
        self._request = request
        self._latencies = latencies
        self._statuses = statuses
        self._reply = b""
        self.running = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._reply += data
        head, found, body = self._reply.partition(_HEAD_END)
        if not found:
            return
        length = head.lower().partition(_LENGTH)[2].partition(b"\r")[0]
        if len(body) < int(length):
            return
        self._latencies.append(time.perf_counter() - self._sent_at)
        status = head[9:12].decode()
        self._statuses[status] = self._statuses.get(status, 0) + 1
        if self.running:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.running:
            self._statuses["lost"] = self._statuses.get("lost", 0) + 1

    def _send(self) -> None:
        self._reply = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)


async def load(port: int, path: str, body: bytes, headers: list[str], connections: int, seconds: float) -> dict[str, Any]:
    """Return requests a second, latency percentiles in microseconds, and how often each status came."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
    request = "\r\n".join(lines).encode() + _HEAD_END + body
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    loop = asyncio.get_running_loop()
    protocols = [
        (await loop.create_connection(lambda: _Connection(request, latencies, statuses), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.sleep(min(0.5, seconds / 4))
    latencies.clear()
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    elapsed, measured = time.perf_counter() - begun, sorted(latencies)
    for protocol in protocols:
        protocol.running = False
    await asyncio.sleep(0.2)
    percentiles = {f"p{share}_us": round(measured[len(measured) * share // 100] * 1e6, 1) for share in (50, 95, 99)}
    return {"requests_per_second": round(len(measured) / elapsed, 1), **percentiles, "statuses": statuses}


if __name__ == "__main__":
    _port, _path, _body, _headers, _connections, _seconds = sys.argv[1:]
    _seen = load(int(_port), _path, Path(_body).read_bytes(), _headers.split("|"), int(_connections), float(_seconds))
    print(json.dumps(uvloop.run(_seen)))
