"""An HTTP/1.1 connection of the model server (RFC 9112), on httptools' parser and asyncio's transports.

A connection is one object; its requests are answered in their order, one at a time, by plain calls: no task, no future and no
copy of the body for a request. Whoever sends too slowly, too much, or reads too slowly is cut off; `sweep` looks for them.

What the parser lets pass and RFC 9112 does not, or where it would take one request's body for the next request ("smuggling"),
is refused here: a missing or second Host, a transfer coding other than chunked, other versions. An offer to upgrade the
protocol is declined by ignoring it (RFC 9110, 7.8), as Java's client expects, which offers HTTP/2 with every first request.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from tidegate.serving.protocol.codec_json import encode_error
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.rest.exchange import JSON, Exchange, response_head

_MOST_HEAD_BYTES = 64 * 1024  # also of what frames a body in chunks, beyond the body's own size
_MOST_HEADERS = 128
_MOST_WAITING = 16  # requests sent ahead on one connection, beyond which no more is read
_LINGER_SECONDS = 2.0  # so that a caller who is still sending gets to read why it was refused
_SMALL_BODY = 64 * 1024  # smaller ones are not counted among what all connections hold
_FRESH_SECONDS = 0.25  # how long a new connection may take to its first request while the server drains
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Listener(Protocol):
    """What a connection needs of the listener that accepted it."""

    handle: Callable[[Exchange], None]
    max_body_bytes: int
    now: float
    date: bytes
    is_draining: bool

    def hold(self, change: int) -> bool:
        """Take note of so many more (or fewer) bytes of large bodies; False if all connections hold too many."""

    def opened(self, connection: "Connection") -> bool:
        """Take note of a new connection; False if there are too many."""

    def closed(self, connection: "Connection") -> None:
        """Take note that a connection is gone."""


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_advancing",
        "_at_end",
        "_body",
        "_exchange",
        "_framing_bytes",
        "_head_bytes",
        "_header_count",
        "_headers",
        "_held",
        "_in_body",
        "_in_message",
        "_is_discarding",
        "_is_fresh",
        "_is_write_paused",
        "_last_words",
        "_left",
        "_listener",
        "_parser",
        "_refusal",
        "_since",
        "_size",
        "_target",
        "_transport",
        "_unread",
        "_waiting",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._exchange: Exchange | None = None
        self._refusal: RequestError | None = None
        self._last_words: RequestError | None = None
        self._since = listener.now
        self._framing_bytes = 0
        self._left = 0  # of a body that the parser does not read
        self._held = 0
        self._is_fresh = True
        self._unread = 0
        self._in_message = self._in_body = False
        self._is_discarding = self._is_write_paused = self._advancing = self._at_end = False

    @property
    def is_busy(self) -> bool:
        """Whether a request is being received or answered."""
        return self._in_message or self._exchange is not None or bool(self._waiting)

    def close_if_idle(self) -> None:
        """Close the connection unless a request is under way on it, or its first may be."""
        if not self.is_busy and not self._is_fresh:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection whatever is under way."""
        self._transport.abort()

    def sweep(self, now: float, read_seconds: float, idle_seconds: float) -> None:
        """Cut off a caller that has been too slow by `now`, in the listener's time."""
        waited = now - self._since
        if self._is_discarding:
            if waited > _LINGER_SECONDS:
                self._transport.abort()
        elif self._is_write_paused:
            unread = self._transport.get_write_buffer_size()
            if unread < self._unread:
                self._since = now
            elif waited > read_seconds:
                self._transport.abort()
            self._unread = unread
        elif self._exchange is not None:
            return
        elif self._in_message:
            if waited > read_seconds:
                self._refuse(RequestError(408, f"the request did not arrive whole within {read_seconds:g} s"))
        elif waited > (_FRESH_SECONDS if self._listener.is_draining else idle_seconds):
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._listener.opened(self):
            self._refuse(RequestError(503, "too many connections; try again later"))

    def data_received(self, data: bytes | memoryview) -> None:
        """Read on."""
        if not self._in_message:
            self._since = self._listener.now
        while data and not self._is_discarding and not self._at_end:
            data = self._read(data)

    def _read(self, data: bytes | memoryview) -> bytes | memoryview:
        """Read what the parser takes in one go; return what is left, which is something only after an offer to upgrade."""
        try:
            if self._left:
                return self._read_plain(memoryview(data))
            self._framing_bytes += len(data)
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade()
            return memoryview(data)[upgrade.args[0] :]
        except RequestError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            self._stumble(error)
        else:
            self._check_framing()
        return b""

    def eof_received(self) -> bool:
        """Answer what was asked before the caller closed its side, and then close."""
        self._at_end = True
        return (self._exchange is not None or bool(self._waiting)) and not self._is_discarding

    def pause_writing(self) -> None:
        """The caller does not read its responses."""
        self._is_write_paused = True
        self._unread = self._transport.get_write_buffer_size()
        self._since = self._listener.now
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The caller has read enough of them."""
        self._is_write_paused = False
        self._since = self._listener.now
        self._transport.resume_reading()
        self._advance()

    def connection_lost(self, _error: Exception | None) -> None:
        """Let go of what nobody waits for."""
        if self._exchange is not None and self._exchange.request is not None:
            self._exchange.request.abandoned = True
        self._waiting.clear()
        self._is_discarding = True
        if self._held:
            self._listener.hold(-self._held)
        self._listener.closed(self)

    # httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_message, self._in_body, self._is_fresh = True, False, False
        self._target = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_count = self._head_bytes = self._framing_bytes = 0
        self._body: bytes | bytearray = b""
        self._size = 0

    def on_url(self, part: bytes) -> None:
        """Part of the request's target."""
        self._target += part
        self._count_head(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; those after a chunked body say nothing that is used."""
        if self._in_body:
            return
        name = name.lower()
        if name == b"host" and name in self._headers:
            raise self._refused(400, "the request has more than one Host header")
        self._headers[name] = value
        self._header_count += 1
        if self._header_count > _MOST_HEADERS:
            raise self._refused(431, f"the request has more than {_MOST_HEADERS} headers")
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """The body follows, if there is one."""
        self._in_body = True
        self._framing_bytes = 0
        headers = self._headers
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise self._refused(505, f"HTTP/{version} is not spoken here; use HTTP/1.1")
        if version == "1.1" and b"host" not in headers:
            raise self._refused(400, "the request has no Host header")
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            raise self._refused(501, f"transfer-encoding {coding[:40].decode('latin-1')!r} is not read here; use chunked")
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._listener.max_body_bytes:
            raise self._too_large(f"{int(length)} bytes")
        if headers.get(b"expect", b"").lower() == b"100-continue" and self._exchange is None:
            self._transport.write(_CONTINUE)

    def on_body(self, part: bytes) -> None:
        """Part of the body."""
        self._size += len(part)
        self._framing_bytes -= len(part)
        if self._size > self._listener.max_body_bytes:
            raise self._too_large(f"more than {self._listener.max_body_bytes} bytes")
        if self._size > _SMALL_BODY:
            self._hold(part)
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytearray):
            self._body += part
        else:
            self._body = bytearray(self._body) + part

    def on_message_complete(self) -> None:
        """The request is whole, unless it offers an upgrade: of such a one the parser reads no body."""
        if not self._parser.should_upgrade():
            self._complete()

    def _complete(self) -> None:
        self._in_message = self._in_body = False
        self._framing_bytes = 0
        parser = self._parser
        body = self._body if isinstance(self._body, bytes) else bytes(self._body)
        exchange = Exchange(self, parser.get_method(), self._target, self._headers, body, parser.should_keep_alive())
        if not exchange.keep_alive:
            self._at_end = True
        if self._exchange is not None or self._waiting or self._is_write_paused:
            self._waiting.append(exchange)
            if len(self._waiting) >= _MOST_WAITING:
                self._transport.pause_reading()
            return
        self._exchange = exchange
        self._listener.handle(exchange)

    def _stumble(self, error: httptools.HttpParserError) -> None:
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif not self._at_end:
            self._refuse(RequestError(400, f"this is no HTTP/1.1 request: {error}"))

    def _check_framing(self) -> None:
        most = _MOST_HEAD_BYTES + (self._size if self._in_body else 0)
        if self._framing_bytes > most:
            self._refuse(RequestError(431, f"more than {most} bytes of headers and framing"))

    def _hold(self, part: bytes) -> None:
        """Count a large body among what all connections hold, until it is answered."""
        more = len(part) if len(self._body) > _SMALL_BODY else self._size
        self._held += more
        if not self._listener.hold(more):
            raise self._refused(503, "too many large requests are being received; try again later")

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MOST_HEAD_BYTES:
            raise self._refused(431, f"the request's head is longer than {_MOST_HEAD_BYTES} bytes")

    def _ignore_upgrade(self) -> None:
        """Go on as if this request had not offered an upgrade; what follows its head is its body."""
        if self._parser.get_method() == b"CONNECT" or b"transfer-encoding" in self._headers:
            self._refuse(RequestError(501, "this server is no proxy, and upgrades no request with a body in chunks"))
            return
        self._left = int(self._headers.get(b"content-length", b"0"))
        if not self._left:
            self._complete()
            self._parser = httptools.HttpRequestParser(self)

    def _read_plain(self, data: memoryview) -> memoryview:
        """Take what belongs to such a body; return what follows it."""
        part = bytes(data[: self._left])
        self._left -= len(part)
        self._framing_bytes += len(part)  # which `on_body` takes off again
        self.on_body(part)
        if not self._left:
            self._complete()
            self._parser = httptools.HttpRequestParser(self)
        return data[len(part) :]

    # Responses

    def send(self, exchange: Exchange, status: int, body: bytes, content_type: bytes, headers: bytes) -> None:
        """Send a response; see `Exchange.respond`."""
        if self._is_discarding:
            return
        is_last = self._at_end and not self._waiting and self._last_words is None
        ends = not exchange.keep_alive or self._listener.is_draining or is_last
        if ends:
            headers += b"connection: close\r\n"
        elif exchange.headers.get(b"connection", b"").lower() == b"keep-alive":
            headers += b"connection: keep-alive\r\n"  # which a caller of HTTP/1.0 waits for
        head = response_head(status, content_type, len(body), self._listener.date, headers)
        self._exchange = None
        self._since = self._listener.now
        if len(exchange.body) > _SMALL_BODY:
            self._held -= len(exchange.body)
            self._listener.hold(-len(exchange.body))
        self._transport.write(head if exchange.method == b"HEAD" else head + body)
        if ends:
            self._is_discarding = True
            self._transport.close()
        elif self._waiting:
            self._advance()
        elif self._last_words is not None:
            self._refuse(self._last_words)

    def _advance(self) -> None:
        """Go on with the requests that were sent ahead."""
        if self._advancing:
            return
        self._advancing = True
        while self._waiting and self._exchange is None and not self._is_write_paused and not self._is_discarding:
            self._exchange = self._waiting.popleft()
            self._listener.handle(self._exchange)
        self._advancing = False
        if self._is_discarding or self._is_write_paused or self._waiting:
            return
        self._transport.resume_reading()
        if self._last_words is not None and self._exchange is None:
            self._refuse(self._last_words)

    def _refuse(self, error: RequestError) -> None:
        """Say what is wrong with what is being received, once all before it is answered, and close; no more is read."""
        if self._is_discarding:
            return
        if self._exchange is not None or self._waiting:
            self._last_words, self._at_end = error, True
            return
        body = encode_error(str(error))
        self._is_discarding = True
        self._since = self._listener.now
        head = response_head(error.status, JSON, len(body), self._listener.date, error.headers + b"connection: close\r\n")
        self._transport.write(head + body)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _refused(self, status: int, message: str) -> RequestError:
        self._refusal = RequestError(status, message)
        return self._refusal

    def _too_large(self, found: str) -> RequestError:
        most = self._listener.max_body_bytes
        return self._refused(413, f"request body: {found}, but at most {most} are allowed; split the request")
