"""What can go wrong between us and Kubeflow Pipelines, each as one clear line."""

import re
from typing import Any
from urllib.parse import urlsplit

import requests

from pipelines.kubeflow.answer import Answer
from pipelines.kubeflow.authentication import Credentials
from tidegate.errors import PipelineError

_SHOWN_CHARACTERS = 400
_LOGIN_PATH = re.compile(r"/(dex|oauth2|authservice|login|auth|signin|sign_in|sso|realms|saml\w*)(/|$)", re.IGNORECASE)


class ApiRefusal(PipelineError):
    """Kubeflow Pipelines answered, and refused; `status` is HTTP's."""

    def __init__(self, message: str, *, status: int, unauthenticated: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unauthenticated = unauthenticated


class Unreachable(PipelineError):
    """The request did not reach Kubeflow Pipelines; `passing` failures are worth another try."""

    retry_after_seconds = 0.0

    def __init__(self, message: str, *, passing: bool = True) -> None:
        super().__init__(message)
        self.passing = passing


class LostReply(PipelineError):
    """Whether the request came about is not known: the connection broke, or the server failed on the way."""

    passing = True

    def __init__(self, message: str, *, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


def is_login(answer: Answer) -> bool:
    """Say whether an answer is a way to a login, or a page of one, where JSON was asked for."""
    return bool(answer.redirect) or ((answer.ok or answer.status == 403) and answer.is_page)


def explain_refusal(host: str, answer: Answer, credentials: Credentials) -> str:
    """Say in one line what an answer that is not the one asked for means, and what to do."""
    line = credentials.redact(_explain(host, answer, credentials.described))
    return _printable(line)


def explain_transport(
    host: str, error: requests.RequestException, timeout_seconds: float, credentials: Credentials
) -> Unreachable | LostReply:
    """Return the failure that a broken exchange is, with one line that says why."""
    reason = _printable(credentials.redact(_innermost(error)))
    if isinstance(error, requests.exceptions.SSLError):
        return Unreachable(
            f"{host}: its TLS certificate is not trusted ({reason}); "
            "set REQUESTS_CA_BUNDLE to the file of the certificate authority that signed it",
            passing=False,
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"{host}: the proxy does not let us through ({reason}); see HTTPS_PROXY and NO_PROXY")
    if isinstance(error, requests.ConnectTimeout):
        return Unreachable(
            f"{host}: no connection within {timeout_seconds:g} s; is the address right, and reachable from here?"
        )
    if isinstance(error, requests.Timeout):
        return LostReply(f"{host}: no answer within {timeout_seconds:g} s")
    if isinstance(error, requests.ConnectionError) and _was_never_connected(error):
        return Unreachable(f"{host}: cannot be reached ({reason}); is the address right, and Kubeflow Pipelines up?")
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return LostReply(f"{host}: the connection broke ({reason})")
    return Unreachable(f"{host}: {reason}", passing=False)


def _explain(host: str, answer: Answer, credentials: str) -> str:
    if answer.redirect:
        return _explain_redirect(host, answer, credentials)
    if is_login(answer):
        return (
            f"{host}: answers with a web page where the API was asked for ({credentials} sent); "
            "a login is needed, or the address lacks a path such as /pipeline"
        )
    if answer.ok:
        return f"{host}: answers with something that is not JSON; is this Kubeflow Pipelines?"
    told = _told_by_server(answer)
    if answer.status == 401:
        return f"{host}: not authenticated ({credentials} sent): {told}; see docs/kubeflow-pipelines.md, 'Authentication'"
    if answer.status == 403:
        return f"{host}: not allowed ({credentials} sent): {told}"
    return f"{host}: {told} (HTTP {answer.status})"


def _explain_redirect(host: str, answer: Answer, credentials: str) -> str:
    before = urlsplit(answer.url)
    try:
        after = urlsplit(answer.redirect)
    except ValueError:
        return f"{host}: redirects to something that is no address; is this Kubeflow Pipelines?"
    if (before.scheme, after.scheme) == ("http", "https") and before.hostname == after.hostname and before.path == after.path:
        return f"{host}: redirects to https; give --host with https://"
    if _LOGIN_PATH.search(after.path):
        return f"{host}: asks for a login ({credentials} sent); see docs/kubeflow-pipelines.md, 'Authentication'"
    return f"{host}: redirects to {_short(answer.redirect.split('?')[0])!r}; is that the address to give as --host?"


def _told_by_server(answer: Answer) -> str:
    """Return the words meant for people: grpc-gateway's `details`, else `message`; the upload server's `error_message`.

    Shapes: kubeflow/pipelines 2.17, backend/src/common/util/error.go `GRPCStatus` and
    backend/src/apiserver/server/pipeline_upload_server.go `writeErrorToResponse`.
    """
    document = answer.document
    if document is not None:
        details = document.get("details")
        sources = [*(details if isinstance(details, list) else ()), document]
        for source in (source for source in sources if isinstance(source, dict)):
            for field in ("error_message", "message", "error", "error_details"):
                if isinstance(text := source.get(field), str) and text.strip():
                    return _short(text)
    if answer.is_page:
        return answer.reason or "a web page came back"
    return _short(answer.text) or answer.reason or "no reason was given"


def error_text(error: Any) -> str:
    """Return the message of a `google.rpc.Status` in an answer, on one line; empty if there is none."""
    message = error.get("message", "") if isinstance(error, dict) else ""
    return _printable(_short(message)) if isinstance(message, str) else ""


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else f"{flat[:_SHOWN_CHARACTERS]}…"


def _was_never_connected(error: BaseException) -> bool:
    return any(
        type(cause).__name__ in ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError") for cause in _causes(error)
    )


def _innermost(error: BaseException) -> str:
    causes = [cause for cause in _causes(error) if str(cause)]
    deepest = causes[-1] if causes else error
    text = getattr(deepest, "strerror", None) or str(deepest)
    return _short(re.sub(r"<[^>]* object at 0x[0-9a-f]+>:? ?", "", text)) or type(error).__name__


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: object = error
    while isinstance(following, BaseException) and following not in found:
        found.append(following)
        nested = [argument for argument in following.args if isinstance(argument, BaseException)]
        following = getattr(following, "reason", None) or (nested[0] if nested else None)
        following = following if isinstance(following, BaseException) else found[-1].__cause__ or found[-1].__context__
    return found


def _printable(text: str) -> str:
    flat = " ".join(text.split())
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in flat)
