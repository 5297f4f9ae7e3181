"""A small Kubeflow Pipelines API server for tests, over real HTTP, with the authentication modes and outages of `KfpApi`."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kfp_api.api import KfpApi, Outage, Refusal

GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP for one `KfpApi`."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: without this, each takes 40 ms for a delayed acknowledgement
    disable_nagle_algorithm = True
    api: KfpApi

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self, method: str) -> None:
        api = self.api
        address = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        with api.lock:
            api.requests.append(f"{method} {address.path}")
            api.seen_headers.append(dict(self.headers))
            outage = self._outage(method, address.path)
        if outage is not None and outage.kind == "slow":
            api.stopped.wait(outage.seconds)
        elif outage is not None and isinstance(outage.kind, int):
            self._send(outage.kind, {"code": 13, "message": "made to fail", "details": []}, headers=outage.headers)
            return
        elif outage is not None and outage.kind == "drop":
            self.close_connection = True
            return
        if not self._is_known():
            return
        try:
            with api.lock:
                answer = json.loads(
                    json.dumps(api.answer(method, address.path, query, body, self.headers.get("Content-Type", "")))
                )
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if outage is not None and outage.kind == "lose":
            self.close_connection = True
            return
        self._send(200, answer)

    def _outage(self, method: str, path: str) -> Outage | None:
        for outage in self.api.outages:
            if outage.times > 0 and outage.when(method, path):
                outage.times -= 1
                return outage
        return None

    def _is_known(self) -> bool:
        """Answer whoever is not authenticated."""
        api = self.api
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if api.tokens is not None and token not in api.tokens:
            echoed = f": {self.headers.get('Authorization')}" if api.echo_credentials else ""
            self._refuse(Refusal(401, f"Request header error: there is no user identity header.{echoed}"))
            return False
        if api.cookie is not None and "=".join(api.cookie) not in self.headers.get("Cookie", ""):
            if api.login_page is None:
                self._send(200, "<html>Sign in</html>", content_type="text/html; charset=utf-8")
            else:
                self._send(302, "", headers={"Location": api.login_page})
            return False
        return True

    def _refuse(self, refusal: Refusal) -> None:
        message = str(refusal)
        if refusal.upload:
            self._send(refusal.status, {"error_message": message, "error_details": f"{message}\nstack"})
            return
        code = GRPC.get(refusal.status, 2)
        detail = {"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": message}
        stack = f"Failed: InvalidInputError: {message}\n\tgithub.com/kubeflow/pipelines/backend/src/…"
        self._send(refusal.status, {"code": code, "message": stack, "details": [detail]})

    def _send(self, status: int, answer: Any, *, content_type: str = "", headers: dict[str, str] | None = None) -> None:
        payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type or ("text/plain" if isinstance(answer, str) else "application/json"))
        self.send_header("Content-Length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)


@contextmanager
def serving(api: KfpApi, handler: type[BaseHTTPRequestHandler] = Handler) -> Iterator[str]:
    """Serve on loopback while the context lasts, and give the address."""
    bound = type("Bound", (handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        api.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
