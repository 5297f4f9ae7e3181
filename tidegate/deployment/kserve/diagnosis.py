"""Why a revision is not ready: what its pods, its Deployment or Knative Revision, and KServe's modelStatus say, in one line."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tidegate.deployment.kserve.applied import template_of
from tidegate.deployment.kserve.connection import EVENTS, PODS, Connection, Document, Forbidden
from tidegate.deployment.kserve.view import Backend

_HOPELESS_RESTARTS = 3
_STATUS_LAG = 5.0  # KServe's status may still be about the spec before
_LOG_LINES = 5
_LONGEST = 400
_INIT = "storage-initializer"
_NEVER_PULLED = ("not found", "manifest unknown", "does not exist", "unauthorized", "denied", "invalid reference")
_PULLS = ("ErrImagePull", "ImagePullBackOff")
_NEVER_STARTS = ("InvalidImageName", "ErrImageNeverPull")
_MAY_START = ("CreateContainerConfigError", "CreateContainerError")  # such as a Secret that is not there yet
_SECRET = re.compile(
    r"(?P<name>[\w.-]*(?:password|passwd|secret|token|credential|access_?key|api_?key|authorization)[\w.-]*[\"']?\s*[=:]\s*[\"']?)"
    r"(?:bearer\s+|basic\s+)?[^\s,;\"']+|(?P<scheme>\w+://)[^/\s@]+@",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is not ready; if it stays the same for `hopeless_after` seconds, waiting will not help."""

    text: str
    hopeless_after: float = math.inf


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
        return Cause(_told(connection, live) or "KServe has not taken it up yet; does its controller run?")
    try:
        pods = connection.list(PODS, live["metadata"]["namespace"], dict(backend.pods))
    except Forbidden:
        return Cause(f"{backend.reason} (its pods cannot be read: the account may not list pods)")
    causes = [cause for pod in pods if template_of(pod) in ("", backend.template) for cause in _of_pod(connection, pod)]
    return min(causes, key=lambda cause: cause.hopeless_after, default=Cause(shown(backend.reason)))


def _of_pod(connection: Connection, pod: Document) -> Iterator[Cause]:
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Cause(f"pod {name} cannot be scheduled: {shown(condition.get('message', ''))}")
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
    reason, message = waiting.get("reason", ""), shown(waiting.get("message", ""))
    if reason in _PULLS:
        never = any(word in message.lower() for word in _NEVER_PULLED)
        yield Cause(
            f"{what} cannot pull its image {container.get('image', '')}: {reason}: {message}",
            hopeless_after=0.0 if never else math.inf,
        )
    elif reason in (*_NEVER_STARTS, *_MAY_START):
        yield Cause(f"{what} cannot start: {reason}: {message}", 0.0 if reason in _NEVER_STARTS else math.inf)
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
    if ended and (ended.get("exitCode") or 0) != 0:
        previous = "terminated" not in state
        why = _exit(ended, container["name"])
        words = _last_words(connection, pod, container["name"], previous=previous)
        yield Cause(f"{what} {why}, {restarts} restarts{words}", 0.0 if restarts >= _HOPELESS_RESTARTS else math.inf)


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
    return f"; its last words: {shown(' | '.join(lines[-_LOG_LINES:]))}" if lines else ""


def _model_status(live: Document) -> Cause | None:
    status = (live.get("status") or {}).get("modelStatus") or {}
    failure = status.get("lastFailureInfo") or {}
    if status.get("transitionStatus") != "InvalidSpec":
        return None
    runtime = (live["spec"]["predictor"].get("model") or {}).get("runtime", "")
    reason, message = failure.get("reason", "InvalidSpec"), shown(failure.get("message", ""))
    return Cause(f"KServe refuses it: {reason}: {message} (runtime {runtime})", hopeless_after=_STATUS_LAG)


def _told(connection: Connection, live: Document) -> str:
    """Return what KServe says of its own trouble, such as a Deployment that it may not make: its last warning."""
    metadata = live["metadata"]
    about = {"involvedObject.kind": "InferenceService", "involvedObject.name": metadata["name"], "type": "Warning"}
    try:
        events = connection.list(EVENTS, metadata["namespace"], {}, fields=about)
    except Forbidden:
        return ""
    events = [event for event in events if event.get("involvedObject", {}).get("uid", metadata["uid"]) == metadata["uid"]]
    newest = max(events, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""), default=None)
    return "" if newest is None else f"KServe warns: {newest.get('reason', '')}: {shown(newest.get('message', ''))}"


def shown(text: str) -> str:
    """Return a message on one line, without what looks like a secret, and not too long; the end tells most."""
    line = _SECRET.sub(_masked, " ".join(text.split()))
    return line if len(line) <= _LONGEST else f"...{line[-_LONGEST:]}"


_masked: Callable[[re.Match[str]], str] = lambda match: f"{match['name'] or match['scheme']}***"  # noqa: E731
