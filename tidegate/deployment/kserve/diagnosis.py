"""Why a revision is not ready: what its pods, its Deployment or Knative Revision, and KServe's modelStatus say, in one line."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidegate.deployment.kserve.applied import template_of
from tidegate.deployment.kserve.connection import PODS, Connection, Document, Forbidden
from tidegate.deployment.kserve.view import Backend

_HOPELESS_RESTARTS = 3
_LOG_LINES = 5
_LONGEST = 400
_INIT = "storage-initializer"
_NEVER_PULLED = ("not found", "manifest unknown", "does not exist", "unauthorized", "denied", "invalid reference")
_PULLS = ("ErrImagePull", "ImagePullBackOff")
_NEVER_STARTS = ("InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError")
_HOPELESS_FAILURES = ("NoSupportingRuntime", "RuntimeNotRecognized", "RuntimeDisabled", "InvalidPredictorSpec")
_SECRET = re.compile(
    r"(?P<name>[\w.-]*(?:password|passwd|secret|token|credential|access_?key|api_?key|authorization)[\w.-]*[\"']?\s*[=:]\s*)"
    r"(?:bearer\s+|basic\s+)?[^\s,;\"']+|(?P<scheme>\w+://)[^/\s@]+@",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not ready; `hopeless` says that waiting will not help."""

    text: str
    hopeless: bool = False


def diagnose(connection: Connection, live: Document, backend: Backend | None) -> Cause:
    """Return why the revision that `backend` serves is not ready.

    Args:
        connection: To the cluster.
        live: The InferenceService.
        backend: What should serve it; None if KServe has not made it.
    """
    refused = _model_status(live)
    if refused is not None:
        return refused
    if backend is None:
        return Cause(_stuck(live) or "KServe has not taken it up yet; does its controller run?")
    try:
        pods = connection.list(PODS, live["metadata"]["namespace"], dict(backend.pods))
    except Forbidden:
        return Cause(f"{backend.reason} (its pods cannot be read: the account may not list pods)")
    causes = [cause for pod in pods if template_of(pod) in ("", backend.template) for cause in _of_pod(connection, pod)]
    hopeless = next((cause for cause in causes if cause.hopeless), None)
    return hopeless or next(iter(causes), None) or Cause(_shown(backend.reason))


def _of_pod(connection: Connection, pod: Document) -> Iterator[Cause]:
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Cause(f"pod {name} cannot be scheduled: {_shown(condition.get('message', ''))}")
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        yield from _of_container(connection, pod, container)
    running = [container for container in status.get("containerStatuses") or () if "running" in (container.get("state") or {})]
    for container in running:
        if not container.get("ready"):
            yield Cause(
                f"container {container['name']} of pod {name} runs, but its readiness probe fails"
                f"{_last_words(connection, pod, container['name'], previous=False)}"
            )


def _of_container(connection: Connection, pod: Document, container: Document) -> Iterator[Cause]:
    state, restarts = container.get("state") or {}, container.get("restartCount", 0)
    waiting, what = state.get("waiting") or {}, f"container {container['name']} of pod {pod['metadata']['name']}"
    reason, message = waiting.get("reason", ""), _shown(waiting.get("message", ""))
    if reason in _PULLS:
        never = any(word in message.lower() for word in _NEVER_PULLED)
        yield Cause(f"{what} cannot pull its image {container.get('image', '')}: {reason}: {message}", hopeless=never)
    elif reason in _NEVER_STARTS:
        yield Cause(f"{what} cannot start: {reason}: {message}", hopeless=reason != "CreateContainerConfigError")
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    if ended and (ended.get("exitCode") or 0) != 0:
        previous = "terminated" not in state
        why = _exit(ended, container["name"])
        words = _last_words(connection, pod, container["name"], previous=previous)
        yield Cause(f"{what} {why}, {restarts} restarts{words}", hopeless=restarts >= _HOPELESS_RESTARTS)


def _exit(ended: Document, container: str) -> str:
    if ended.get("reason") == "OOMKilled":
        return "was killed for memory (OOMKilled); raise cluster.serving.memory"
    if container == _INIT:
        return f"cannot fetch the model package (exit code {ended['exitCode']})"
    return f"ends with exit code {ended['exitCode']}"


def _last_words(connection: Connection, pod: Document, container: str, *, previous: bool) -> str:
    metadata = pod["metadata"]
    log = connection.log(metadata["namespace"], metadata["name"], container, previous=previous, lines=_LOG_LINES)
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return f"; its last words: {_shown(' | '.join(lines[-_LOG_LINES:]))}" if lines else ""


def _model_status(live: Document) -> Cause | None:
    status = (live.get("status") or {}).get("modelStatus") or {}
    failure = status.get("lastFailureInfo") or {}
    if status.get("transitionStatus") != "InvalidSpec" and failure.get("reason") not in _HOPELESS_FAILURES:
        return None
    return Cause(
        f"KServe refuses it: {failure.get('reason', 'InvalidSpec')}: {_shown(failure.get('message', ''))}", hopeless=True
    )


def _stuck(live: Document) -> str:
    """Return what KServe says of its own trouble, such as a Deployment that it may not make."""
    for condition in (live.get("status") or {}).get("conditions") or ():
        if condition.get("status") == "False" and condition.get("message"):
            return f"{condition['type']}: {_shown(condition['message'])}"
    return ""


def _shown(text: str) -> str:
    """Return a message on one line, without what looks like a secret, and not too long; the end tells most."""
    line = _SECRET.sub(_masked, " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"...{line[-_LONGEST:]}"


_masked: Callable[[re.Match[str]], str] = lambda match: f"{match['name'] or match['scheme']}***"  # noqa: E731
