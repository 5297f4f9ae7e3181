"""Prometheus's query API, as far as the judge needs it: raw samples, as whole numbers, or one clear line on why there are none.

Raw samples are asked for, never `rate` or `increase`: those extrapolate, and the judge counts requests.
"""

import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Never

from tidegate.errors import RolloutError
from tidegate.project.cluster import Prometheus

_TIMEOUT = 5.0  # seconds, of one request
_PATIENCE = 20.0  # seconds, for what may pass: a Prometheus that is restarted, a proxy that has lost it
_PAUSE = 1.0  # seconds, between two attempts
_TRY_AGAIN = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_EXACT = 2**53  # samples are floats: whole numbers beyond this are not exact
_SHOWN = 200  # characters of somebody else's answer in a message


@dataclass(frozen=True, slots=True)
class Series:
    """One time series: its labels, and its samples as (seconds since the epoch, value), the oldest first."""

    labels: Mapping[str, str]
    samples: tuple[tuple[float, int], ...]


class PrometheusApi:
    """Asks one Prometheus, or what speaks its API.

    Every method raises RolloutError, one line, if there is no answer within seconds or the answer is not to be trusted.
    """

    def __init__(self, section: Prometheus) -> None:
        """Ask the Prometheus of the project file's `cluster.prometheus`.

        Raises:
            RolloutError: The variable that is to hold the bearer token is not set.
        """
        self._url = section.url
        self._headers = {"Accept": "application/json"}
        if section.token is not None:
            token = os.environ.get(section.token, "").strip()
            if not token:
                raise RolloutError(
                    f"cluster.prometheus.token: the variable {section.token} is not set; put the bearer token there"
                )
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise RolloutError(f"cluster.prometheus.token: the variable {section.token} holds no bearer token")
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(_NoRedirects)

    def now(self) -> float:
        """Return Prometheus's own time, in seconds since the epoch."""
        answer = self._result("time()", None, "scalar")
        return self._number(answer[1])

    def samples(self, selector: str, *, at: float, seconds: float) -> list[Series]:
        """Return the raw samples of the counters that `selector` chooses, of the `seconds` before `at`."""
        found = self._result(f"{selector}[{_milliseconds(seconds)}]", at, "matrix")
        return [self._series(entry) for entry in found]

    def history(self, selector: str, *, at: float, seconds: float, every: float) -> list[Series]:
        """Return the values of the same counters as they stood `every` so many of the `seconds` before `at`."""
        found = self._result(f"{selector}[{_milliseconds(seconds)}:{_milliseconds(every)}]", at, "matrix")
        return [self._series(entry) for entry in found]

    def newest(self, selector: str, *, at: float) -> float | None:
        """Return when the newest current sample of `selector` was scraped, None if there is none."""
        found = self._result(f"max(timestamp({selector}))", at, "vector")
        return self._number(found[0]["value"][1]) if found else None

    def refuse(self, why: str) -> Never:
        """Raise RolloutError, saying which Prometheus it is about."""
        raise RolloutError(f"Prometheus at {self._url} {why}")

    def _series(self, entry: Any) -> Series:
        try:
            labels = {str(name): str(value) for name, value in entry["metric"].items()}
            samples = tuple((float(seconds), self._count(value)) for seconds, value in entry["values"])
        except (KeyError, TypeError, ValueError, AttributeError):
            self.refuse(f"answers with a malformed series: {_shortened(json.dumps(entry))}")
        return Series(labels, samples)

    def _count(self, text: str) -> int:
        value = float(text)
        if not (value.is_integer() and 0 <= value <= _EXACT):
            self.refuse(f"holds {text} for a counter of requests, which is no whole number between 0 and 2**53")
        return int(value)

    def _number(self, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError):
            self.refuse(f"answers with {_shortened(str(value))} where a number is due")

    def _result(self, query: str, at: float | None, kind: str) -> Any:
        answer = self._ask(query, at)
        try:
            status, data = answer["status"], answer.get("data", {})
            if status != "success":
                self.refuse(f"answers with an error: {_shortened(str(answer.get('error', status)))}")
            if answer.get("warnings"):
                self.refuse(f"warns that its answer is not whole: {_shortened('; '.join(map(str, answer['warnings'])))}")
            if data["resultType"] != kind:
                self.refuse(f"answers with a {_shortened(str(data['resultType']))} where a {kind} is due")
            return data["result"]
        except (KeyError, TypeError, AttributeError):
            self.refuse(f"answers with something else than query results: {_shortened(json.dumps(answer))}")

    def _ask(self, query: str, at: float | None) -> Any:
        parameters = {"query": query, "timeout": f"{_TIMEOUT:g}s"} | ({} if at is None else {"time": repr(at)})
        url = f"{self._url}/api/v1/query?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 - the project file admits HTTP only
        until = time.monotonic() + _PATIENCE
        while True:
            is_last = time.monotonic() + _PAUSE > until
            try:
                with self._opener.open(request, timeout=_TIMEOUT) as response:
                    body: bytes = response.read()
                break
            except urllib.error.HTTPError as error:
                if error.code not in _TRY_AGAIN or is_last:
                    self._explain(error)
            except (OSError, HTTPException) as error:
                if is_last:
                    reason = getattr(error, "reason", error)
                    self.refuse(f"cannot be reached: {reason or type(error).__name__}")
            time.sleep(_PAUSE)
        try:
            return json.loads(body)
        except ValueError:
            self.refuse(f"answers with something that is not JSON: {_shortened(body.decode(errors='replace'))}")

    def _explain(self, error: urllib.error.HTTPError) -> Never:
        try:
            body = error.read().decode(errors="replace")
        except (OSError, HTTPException):
            body = ""
        if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            self.refuse(
                f"refuses the query with {error.code}: name the variable with a bearer token that may read it under "
                "cluster.prometheus.token"
            )
        if HTTPStatus.MULTIPLE_CHOICES <= error.code < HTTPStatus.BAD_REQUEST:
            target = _shortened(error.headers.get("location") or "elsewhere")
            self.refuse(f"redirects to {target}: give the address of the API itself as cluster.prometheus.url")
        try:
            said = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            said = body
        self.refuse(f"answers {error.code}: {_shortened(said) or error.reason}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect leads to a login page at best, and would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def selector(name: str, **matchers: str | Iterable[str]) -> str:
    """Return the selector of series called `name` whose labels equal a text, or one of several texts.

    Whatever a text holds, it stays a text: a quote ends no string, and a dot matches only a dot.
    """
    parts = [
        f"{label}={_quoted(wanted)}" if isinstance(wanted, str) else f"{label}=~{_quoted('|'.join(map(literal, wanted)))}"
        for label, wanted in matchers.items()
    ]
    return f"{name}{{{','.join(parts)}}}"


def literal(text: str) -> str:
    """Return the RE2 pattern that matches `text` alone."""
    return re.sub(r"[][\\^$.|?*+(){}]", r"\\\g<0>", text)


def matching(pattern: str) -> str:
    """Return the PromQL string that holds the RE2 `pattern`."""
    return _quoted(pattern)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} …"
