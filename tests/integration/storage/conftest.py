"""An S3 server with faults: a proxy in front of the real one."""

import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest


@dataclass
class FaultyProxy:
    """Passes requests on to an S3 server. `strip_conditions` drops the headers of conditional writes; `lose_answers` counts
    answers to PUT requests that are thrown away after the server acted; `answer_with` answers itself with that status.
    """

    url: str = ""
    strip_conditions: bool = False
    lose_answers: int = 0
    answer_with: int | None = None
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def faulty_proxy(s3_bucket: str, s3_settings: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that the AWS settings point at, once `s3_bucket` exists."""
    proxy = FaultyProxy()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, urlsplit(s3_settings).netloc))
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield proxy
    server.shutdown()
    thread.join()
    server.server_close()


def _handler(proxy: FaultyProxy, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            proxy.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if proxy.answer_with:
                self._answer(proxy.answer_with, {}, b"")
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "expect")}
            if proxy.strip_conditions:
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
            connection = http.client.HTTPConnection(upstream, timeout=30)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if self.command == "PUT" and proxy.lose_answers:
                proxy.lose_answers -= 1
                self.close_connection = True
                return
            self._answer(answer.status, dict(answer.getheaders()), content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
