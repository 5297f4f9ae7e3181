"""Speaks to the Kubeflow Pipelines API (v2beta1) over HTTP: every request has a timeout, every failure is one clear line.

    api = KubeflowPipelines("https://kubeflow.example.com/pipeline", Nobody())
    api.get("/apis/v2beta1/runs/0b5c…")["state"]

Not `kfp.Client`, as kfp 2.17.0 and kfp-server-api 2.17.3 are: it sets no timeout, and drops one that is a float; without a host
it loads a kubeconfig, and in a pod it writes `~/.config/kfp/context.json`; the page of a missing login passes for an empty
run; `wait_for_run_completion` waits for ever for a run that was terminated, and ends when one poll fails; an error is a stack
trace of the server. It is the oracle of our tests' API server instead.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from pipelines.kubeflow.answer import Answer, read_answer
from pipelines.kubeflow.api_errors import ApiRefusal, LostReply, Unreachable, explain_refusal, explain_transport, is_login
from pipelines.kubeflow.authentication import Credentials
from tidegate.errors import PipelineError

API = "/apis/v2beta1"
_PAGE_SIZE = 100
_TRANSIENT = frozenset({429, 500, 502, 503, 504})
_LONGEST_PAUSE_SECONDS = 10.0
_FIRST_ANSWER_SECONDS = 5.0  # an address that never answered is more likely wrong than out of order
_MAKING_ATTEMPTS = 3
_LOOKING_AGAIN_SECONDS = (0.5, 1.0, 2.0)  # a server that broke off may still be at it


class KubeflowPipelines:
    """A client of one Kubeflow Pipelines; the credentials say who asks.

    What only reads, or may safely be repeated, is repeated after a lost connection or a passing refusal for up to
    `patience_seconds`; anything else raises `LostReply`, and the caller looks whether it came about.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials,
        *,
        timeout_seconds: float = 30.0,
        patience_seconds: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Speak to `host`.

        Args:
            host: Its address, `http://…` or `https://…`, as in a browser: with `/pipeline` behind a Kubeflow gateway.
            credentials: Who asks.
            timeout_seconds: Of one connection, of waiting for an answer, and of reading it.
            patience_seconds: How long a request that may be repeated is repeated; five seconds until a first answer came.
            sleep: Waits; for tests.

        Raises:
            PipelineError: The address is malformed, or holds credentials.
        """
        self.host = checked_host(host)
        self._credentials = credentials
        self._timeout = (min(timeout_seconds, 10.0), timeout_seconds)
        self._patience = patience_seconds
        self._answered = False
        self._sleep = sleep
        self._session = requests.Session()
        self._session.auth = _no_netrc

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Return the JSON at `path`; raises ApiRefusal or Unreachable."""
        return self._repeated("GET", path, query=query)

    def pages(self, path: str, items: str, **query: object) -> Iterator[dict[str, Any]]:
        """Yield the members of the list `items` of every page at `path`; raises as `get` does."""
        token = ""
        while True:
            page = self.get(path, page_size=_PAGE_SIZE, page_token=token, **query)
            yield from page.get(items) or ()
            following = page.get("next_page_token", "")
            if not following:
                return
            if following == token:
                raise PipelineError(f"{self.host}: its pages of {items} never end; the same page token came twice")
            token = following

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post `body` once; raises ApiRefusal, Unreachable if it was not received, or LostReply if that is not known."""
        return self._once("POST", path, json=body)

    def upload(self, path: str, content: bytes, filename: str, **query: object) -> dict[str, Any]:
        """Post a file once; raises as `create` does."""
        return self._once("POST", path, query=query, files={"uploadfile": (filename, content, "application/yaml")})

    def act(self, path: str) -> None:
        """Post an action that may be repeated, such as `…:enable`; raises ApiRefusal or Unreachable."""
        self._repeated("POST", path)

    def delete(self, path: str, **query: object) -> None:
        """Delete what is at `path`, or find it gone; raises ApiRefusal or Unreachable."""
        try:
            self._repeated("DELETE", path, query=query)
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise

    def text(self, path: str) -> str:
        """Return the text at `path`, asked for once; raises as `create` does."""
        return str(self._answer("GET", path).text)

    def ensure(
        self, find: Callable[[], dict[str, Any] | None], make: Callable[[], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Find something, else make it, such that a lost reply makes it once only.

        Returns:
            It, and whether it was made now.

        Raises:
            PipelineError: It could be neither found nor made.
        """
        found = find()
        if found is not None:
            return found, False
        failure: PipelineError | None = None
        for _ in range(_MAKING_ATTEMPTS):
            try:
                return make(), True
            except LostReply as lost:
                failure = lost
            except ApiRefusal as refusal:
                if refusal.status != 409:
                    raise
                failure = refusal  # somebody else made it just now
            for pause in _LOOKING_AGAIN_SECONDS:
                self._sleep(pause)
                if (found := find()) is not None:
                    return found, isinstance(failure, LostReply)
        raise PipelineError(str(failure)) from failure

    def _repeated(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        began = time.monotonic()
        pause = 0.5
        while True:
            try:
                return self._once(method, path, **request)
            except (LostReply, Unreachable) as failure:
                wait = min(max(pause, failure.retry_after_seconds), _LONGEST_PAUSE_SECONDS)
                patience = self._patience if self._answered else min(self._patience, _FIRST_ANSWER_SECONDS)
                if time.monotonic() + wait > began + patience or not failure.passing:
                    raise Unreachable(str(failure)) from failure
                self._sleep(wait)
                pause *= 2

    def _once(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self._answer(method, path, **request)
        if answer.document is None:
            raise ApiRefusal(explain_refusal(self.host, answer, self._credentials), status=answer.status)
        return answer.document

    def _answer(self, method: str, path: str, *, again: bool = True, **request: Any) -> Answer:
        answer = self._asked(method, path, **request)
        if answer.ok and not is_login(answer):
            return answer
        unauthenticated = answer.status == 401 or is_login(answer)
        if unauthenticated and again and self._credentials.renew():
            return self._answer(method, path, again=False, **request)
        message = explain_refusal(self.host, answer, self._credentials)
        if answer.status in _TRANSIENT:
            raise LostReply(message, retry_after_seconds=_retry_after(answer))
        raise ApiRefusal(message, status=answer.status, unauthenticated=unauthenticated)

    def _asked(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        json: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
    ) -> Answer:
        try:
            response = self._session.request(
                method,
                self.host + path,
                params={name: value for name, value in (query or {}).items() if value not in ("", None)},
                json=json,
                files=files,
                headers={"Accept": "application/json", **self._credentials.headers()},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            self._answered = True
            return read_answer(response, seconds=self._timeout[1])
        except requests.RequestException as error:
            raise explain_transport(self.host, error, self._timeout[1], self._credentials) from None


def where(key: str, value: str) -> str:
    """Return the API's filter for what has this value, such as a `display_name`."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


def checked_host(host: str) -> str:
    """Return an address without its trailing slash; raises PipelineError if it is none, or holds credentials."""
    try:
        parts = urlsplit(host.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if valid and "@" in parts.netloc:
        raise PipelineError("--host: holds credentials; give them by environment variable, see docs/kubeflow-pipelines.md")
    if not valid or parts.query or parts.fragment:
        raise PipelineError(f"--host {host!r}: expected the address of Kubeflow Pipelines, such as https://host/pipeline")
    return host.strip().rstrip("/")


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep the headers as they are: without this, requests replaces the token by what ~/.netrc holds for the host."""
    return request


def _retry_after(answer: Answer) -> float:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0
