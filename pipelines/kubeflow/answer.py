"""One answer of an HTTP server, read to its end within a deadline: a server that drips bytes does not keep us for ever."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests
import urllib3

_PIECE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `url` is what was asked."""

    url: str
    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def ok(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    @property
    def redirect(self) -> str:
        """Where the server sends us; empty if it does not."""
        return self.headers.get("Location", "") if self.status in (301, 302, 303, 307, 308) else ""

    @property
    def is_page(self) -> bool:
        """Whether it is a web page."""
        return "text/html" in self.headers.get("Content-Type", "")

    @property
    def text(self) -> str:
        """Its text; what is not UTF-8 is replaced."""
        return self.content.decode("utf-8", errors="replace")

    @property
    def document(self) -> dict[str, Any] | None:
        """Its JSON object, if it is one."""
        try:
            document = json.loads(self.content)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None


def read_answer(response: requests.Response, *, seconds: float) -> Answer:
    """Read a streamed response to its end.

    Raises:
        requests.ReadTimeout: It did not end within `seconds`.
        requests.ConnectionError: The connection broke.
    """
    try:
        content = b"".join(_pieces(response, time.monotonic() + seconds))
    except (TimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
        response.close()
        raise requests.ReadTimeout(error) from error
    except urllib3.exceptions.HTTPError as error:
        response.close()
        raise requests.ConnectionError(error) from error
    response.raw.release_conn()
    return Answer(
        url=response.url,
        status=response.status_code,
        reason=response.reason or "",
        headers=response.headers,
        content=content,
    )


def _pieces(response: requests.Response, deadline: float) -> Iterator[bytes]:
    while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
        yield piece
        if time.monotonic() > deadline:
            raise TimeoutError
