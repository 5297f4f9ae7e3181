"""The metrics source of the local target: first attempts from Envoy's counters, latency from the model servers themselves.

A first attempt is a request that Envoy drew for a revision. It failed if its answer was an error, if only a retry could answer
it, or if it went straight to the fallback since the revision was known to be down. What the stable answers as the fallback of
the canary counts for neither of its numbers.
"""

import re
import urllib.request
from collections.abc import Iterable, Sequence

from tidegate.deployment.local.envoy_admin import EnvoyAdmin
from tidegate.deployment.local.envoy_config import stat_name
from tidegate.deployment.local.target import LocalTarget
from tidegate.errors import DeploymentError, RolloutError
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS

_TIMEOUT = 2.0
_BUCKETS = len(LATENCY_BOUNDS) + 1
_BUCKET_LINE = re.compile(rf"^{LATENCY}_bucket\{{.*\}} (\d+)$", re.MULTILINE)


class ScrapeMetricsSource:
    """Observes the services of a local target.

    Counters only grow while the object lives, whatever restarts meanwhile: Envoy, a model server, or the supervisor. Another
    object may start from lower counts, since Envoy and the model servers keep theirs in memory.
    """

    def __init__(self, target: LocalTarget) -> None:
        """Observe `target`."""
        self._target = target
        self._counters: dict[str, _Growing] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._histograms: dict[tuple[str, str, int], tuple[int, ...]] = {}

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        """Return the counters of every revision of `service`; raises RolloutError if Envoy or the service is not there."""
        try:
            admin = EnvoyAdmin(self._target.admin_port())
            servers = self._target.servers(service)
            # In this order a retry made meanwhile is seen at most once: as a retry, never as a lost first attempt too.
            fallbacks = self._grown(admin.counters(rf"^cluster\.{service}\..*\.fallback\..*\.upstream_rq_total$"))
            routes = self._grown(admin.counters(rf"^vhost\.{service}\.route\..*\.upstream_rq_(completed|5xx|retry.*)$"))
        except DeploymentError as error:
            raise RolloutError(f"service {service} cannot be observed: {error}") from error
        observed = {}
        for server in servers:
            requests, errors = _first_attempts(service, server.revision, routes, fallbacks)
            latency = self._latency(service, server.revision, server.pid, server.http_port)
            observed[server.revision] = RevisionCounters(requests, self._most(service, server.revision, errors), latency)
        return observed

    def _most(self, service: str, revision: str, errors: int) -> int:
        self._errors[service, revision] = max(errors, self._errors.get((service, revision), 0))
        return self._errors[service, revision]

    def _grown(self, counters: dict[str, int]) -> dict[str, int]:
        for name, value in counters.items():
            self._counters.setdefault(name, _Growing()).see(value)
        return {name: growing.total for name, growing in self._counters.items()}

    def _latency(self, service: str, revision: str, pid: int | None, port: int) -> LatencyHistogram:
        counts = _scrape(port) if pid is not None else None
        if pid is not None and counts is not None:
            process = (service, revision, pid)
            seen = self._histograms.get(process, ())
            # Fewer than before: the process was replaced, and its successor's pid is not known yet.
            if sum(counts) >= sum(seen):
                self._histograms[process] = counts
        processes = [kept for key, kept in self._histograms.items() if key[:2] == (service, revision)]
        return LatencyHistogram(LATENCY_BOUNDS, _sum(processes))


class _Growing:
    """A counter that goes on where it was when its source starts again from zero."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def see(self, value: int) -> None:
        self.total += value - self._last if value >= self._last else value
        self._last = value


def _first_attempts(service: str, revision: str, routes: dict[str, int], fallbacks: dict[str, int]) -> tuple[int, int]:
    def routed(role: str, counter: str) -> int:
        return routes.get(f"vhost.{service}.route.{revision}.{role}.upstream_rq_{counter}", 0)

    roles = ("stable", "canary")
    requests = sum(routed(role, "completed") for role in roles)
    failed = sum(routed(role, "5xx") + routed(role, "retry_success") for role in roles)
    protocols = ("http", "grpc")
    fallback_attempts = sum(
        fallbacks.get(f"cluster.{stat_name(service, revision, 'fallback', protocol)}.upstream_rq_total", 0)
        for protocol in protocols
    )
    diverted = max(0, fallback_attempts - routed("canary", "retry"))
    return requests, min(requests, failed + diverted)


def _scrape(port: int) -> tuple[int, ...] | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT) as response:
            text = response.read().decode()
    except OSError:
        return None
    lines = [int(count) for count in _BUCKET_LINE.findall(text)]
    if not lines or len(lines) % _BUCKETS:
        raise RolloutError(f"the model server on port {port} has {len(lines)} buckets of {LATENCY}, not {_BUCKETS} a version")
    return _sum(_counts(lines[start : start + _BUCKETS]) for start in range(0, len(lines), _BUCKETS))


def _counts(cumulative: Sequence[int]) -> tuple[int, ...]:
    return tuple(after - before for before, after in zip((0, *cumulative), cumulative, strict=False))


def _sum(histograms: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(counts) for counts in zip((0,) * _BUCKETS, *histograms, strict=True))
