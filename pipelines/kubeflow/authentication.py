"""Who asks: credentials for Kubeflow Pipelines, from environment variables and files only, never from the command line.

| what is set | what is sent |
| --- | --- |
| `KF_PIPELINES_TOKEN` | that bearer token |
| `KF_PIPELINES_TOKEN_FILE` | the bearer token in that file, read anew for every request |
| `KF_PIPELINES_COOKIE` | that `name=value` cookie of a browser session |
| `KF_PIPELINES_USERNAME`, `KF_PIPELINES_PASSWORD` (or `…_PASSWORD_FILE`) | the session of a login through Dex |
| `KF_PIPELINES_SA_TOKEN_PATH`, or a token where Kubeflow mounts it | the pod's service-account token, read anew |

A secret's value is in no message of ours: an error names the variable or the file, and what a server echoes is blotted out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tidegate.errors import PipelineError

# Where Kubeflow mounts the token with audience pipelines.kubeflow.org: kfp 2.17, kfp/client/client.py.
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")
_BLOT = "***"


class Credentials(Protocol):
    """What a request carries to say who asks."""

    def headers(self) -> dict[str, str]:
        """Return the headers of the next request; raises PipelineError if a secret cannot be read."""

    def renew(self) -> bool:
        """Try to get fresher credentials after a refusal; say whether asking again is worth it."""

    def redact(self, text: str) -> str:
        """Blot every secret out of a text."""

    @property
    def described(self) -> str:
        """What they are and where they come from, without any secret."""


class Nobody:
    """No credentials: for a port-forward, or Kubeflow Pipelines without authentication."""

    described = "no credentials"

    def headers(self) -> dict[str, str]:
        """Return none; see `Credentials.headers`."""
        return {}

    def renew(self) -> bool:
        """Nothing can be renewed; see `Credentials.renew`."""
        return False

    def redact(self, text: str) -> str:
        """Return the text; see `Credentials.redact`."""
        return text


class FixedHeader:
    """A token or a cookie that does not change."""

    def __init__(self, header: str, value: str, *, source: str, secret: str) -> None:
        """Send `header: value`; `source` names where `secret` comes from."""
        self._headers = {header: value}
        self._secret = secret
        self.described = source

    def headers(self) -> dict[str, str]:
        """Return the header; see `Credentials.headers`."""
        return dict(self._headers)

    def renew(self) -> bool:
        """It does not change; see `Credentials.renew`."""
        return False

    def redact(self, text: str) -> str:
        """Blot the secret out; see `Credentials.redact`."""
        return text.replace(self._secret, _BLOT)


class TokenFile:
    """A bearer token in a file that somebody else keeps fresh, such as the kubelet."""

    def __init__(self, path: Path, *, source: str) -> None:
        """Read the token from `path` for every request; `source` names the variable that gave the path."""
        self._path = path
        self._source = source
        self._last = ""
        self.described = f"the token in {path}"

    def headers(self) -> dict[str, str]:
        """Return the bearer token as it is now; see `Credentials.headers`."""
        self._last = _secret_in(self._path, self._source)
        return {"Authorization": f"Bearer {self._last}"}

    def renew(self) -> bool:
        """Say whether the file holds another token by now; see `Credentials.renew`."""
        return _secret_in(self._path, self._source) != self._last

    def redact(self, text: str) -> str:
        """Blot the token out; see `Credentials.redact`."""
        return text.replace(self._last, _BLOT) if self._last else text


def credentials_of(environment: Mapping[str, str], *, host: str, timeout_seconds: float) -> Credentials:
    """Return the credentials that the environment gives for `host`; see the table of this module.

    Raises:
        PipelineError: Two kinds are given at once, one is given by half, or a secret is malformed or cannot be read.
    """
    given = [
        kind
        for kind in ("KF_PIPELINES_TOKEN", "KF_PIPELINES_TOKEN_FILE", "KF_PIPELINES_COOKIE", "KF_PIPELINES_USERNAME")
        if environment.get(kind)
    ]
    if len(given) > 1:
        raise PipelineError(f"{' and '.join(given)} are set, but one kind of credentials is used at a time; unset the others")
    match given:
        case ["KF_PIPELINES_TOKEN"]:
            token = _sendable(environment["KF_PIPELINES_TOKEN"], "KF_PIPELINES_TOKEN")
            return FixedHeader("Authorization", f"Bearer {token}", source="the token in KF_PIPELINES_TOKEN", secret=token)
        case ["KF_PIPELINES_TOKEN_FILE"]:
            return TokenFile(Path(environment["KF_PIPELINES_TOKEN_FILE"]), source="KF_PIPELINES_TOKEN_FILE")
        case ["KF_PIPELINES_COOKIE"]:
            cookie = _sendable(environment["KF_PIPELINES_COOKIE"], "KF_PIPELINES_COOKIE")
            name, equals, value = cookie.partition("=")
            if not (name and equals and value):
                raise PipelineError("KF_PIPELINES_COOKIE: expected NAME=VALUE, as a browser sends it")
            return FixedHeader("Cookie", cookie, source="the cookie in KF_PIPELINES_COOKIE", secret=value)
        case ["KF_PIPELINES_USERNAME"]:
            from pipelines.kubeflow.dex_login import DexLogin

            return DexLogin(host, environment["KF_PIPELINES_USERNAME"], _password(environment), timeout_seconds=timeout_seconds)
    mounted = environment.get("KF_PIPELINES_SA_TOKEN_PATH")
    if mounted:
        return TokenFile(Path(mounted), source="KF_PIPELINES_SA_TOKEN_PATH")
    if SERVICE_ACCOUNT_TOKEN.exists():
        return TokenFile(SERVICE_ACCOUNT_TOKEN, source="the pod's service-account token")
    return Nobody()


def _password(environment: Mapping[str, str]) -> str:
    if password := environment.get("KF_PIPELINES_PASSWORD"):
        return password
    if file := environment.get("KF_PIPELINES_PASSWORD_FILE"):
        return _secret_in(Path(file), "KF_PIPELINES_PASSWORD_FILE")
    raise PipelineError("KF_PIPELINES_USERNAME is set without a password; set KF_PIPELINES_PASSWORD or …_PASSWORD_FILE")


def _secret_in(path: Path, source: str) -> str:
    try:
        return _sendable(path.read_text(encoding="utf-8"), f"{source} ({path})")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise PipelineError(f"{source}: file {path} cannot be read: {reason}") from None


def _sendable(secret: str, source: str) -> str:
    stripped = secret.strip()
    if not stripped:
        raise PipelineError(f"{source}: is empty")
    if not stripped.isascii() or not stripped.isprintable():
        raise PipelineError(f"{source}: holds a character that no HTTP header can; is it the right file?")
    return stripped


def from_environment(host: str, *, timeout_seconds: float) -> Credentials:
    """Return the credentials of this process's environment; see `credentials_of`."""
    return credentials_of(os.environ, host=host, timeout_seconds=timeout_seconds)
