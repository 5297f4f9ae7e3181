"""HTTP/1.1 as bytes on a socket, for requests that no client library would send."""

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def request(path: str, body: bytes | None = None, *headers: str, method: str | None = None) -> bytes:
    """Return a well-formed request: a GET, or a POST of a JSON body unless `headers` say otherwise."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "host: test", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Wire:
    """One connection to a server."""

    def __init__(self, port: int, *, seconds: float = 10, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(seconds)
        self.socket.connect(("127.0.0.1", port))
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        """Send what the server takes of `data`; it may read no more before the end, or hang up, and have answered."""
        with suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            self.socket.sendall(data)
        return self

    def answer(self) -> Answer | None:
        """Return the next answer, or None if the server has closed the connection instead."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        status = int(status_line.split(" ")[1])
        if status == 100:
            return Answer(status, headers, b"")
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            more = self._receive()
            assert more, f"the body ended after {len(self._received)} of {length} bytes"
            self._received += more
        body, self._received = self._received[:length], self._received[length:]
        return Answer(status, headers, body)

    def answers(self) -> list[Answer]:
        """Return all answers up to the end of the connection; fails if the server keeps it open."""
        found = []
        while (answer := self.answer()) is not None:
            found.append(answer)
        return found

    def reset(self) -> None:
        """Hang up without a word: what is in flight is lost on either side."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._received:
            more = self._receive()
            if not more:
                assert not self._received, f"half an answer: {self._received[:200]!r}"
                return None
            self._received += more
        found, _, self._received = self._received.partition(end)
        return found

    def _receive(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""
