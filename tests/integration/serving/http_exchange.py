"""Sends HTTP requests byte by byte as they are given, and reads the responses."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of a refusal, which must be shaped as the protocol says: `{"error": …}`, one line."""
        assert self.status >= 400
        assert self.headers["content-type"] == "application/json"
        document = json.loads(self.body)
        assert list(document) == ["error"]
        said = document["error"]
        assert isinstance(said, str)
        assert said
        assert "\n" not in said
        assert "Traceback" not in said
        return said


def ask(port: int, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Response:
    """Send one request on a connection of its own; `Host` and `Content-Length` are added where they are not given."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": "model.example"} | (headers or {})
        if body is not None:
            sent.setdefault("Content-Length", str(len(body)))
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Response(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()
