"""Answers every request with the same bytes and reads nothing: `python null_server.py PORT BODY_BYTES ANSWER_BYTES`.

What a server on uvloop cannot be cheaper than, and what the client can do at most. A GET is answered as a health check.
"""

import asyncio
import sys
from typing import cast

import uvloop

_PORT, _BODY, _ANSWER = map(int, sys.argv[1:])
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\ndate: Sun, 22 Nov 2026 10:00:00 GMT\r\n\r\n"
)
_RESPONSE = _HEAD % _ANSWER + b" " * _ANSWER


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._awaited = 0

    def data_received(self, data: bytes) -> None:
        if not self._awaited:
            body = 0 if data.startswith(b"GET") else _BODY
            self._awaited = data.index(b"\r\n\r\n") + 4 + body
        self._awaited -= len(data)
        if self._awaited <= 0:
            self._awaited = 0
            self._transport.write(_RESPONSE)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", _PORT)
    await server.serve_forever()


uvloop.run(_serve())
