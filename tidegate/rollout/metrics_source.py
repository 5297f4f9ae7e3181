"""The MetricsSource protocol: what the judge sees of a service's revisions, as counters that only grow."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class LatencyHistogram:
    """Requests by latency: `counts[i]` lie at or below `bounds[i]` seconds (not cumulative); the last count has no bound."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RevisionCounters:
    """Counters of one revision since it was deployed, over all its processes, robust to restarts.

    `requests` and `errors` are first attempts as the proxy saw them (an error is a 5xx, a reset, a refused connection or a
    timeout), so a dead revision is seen to fail; `latency` is what the model servers themselves observed.
    """

    requests: int
    errors: int
    latency: LatencyHistogram


class MetricsSource(Protocol):
    """Observes a service."""

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        """Return the counters of every revision of `service`, by revision name; raises RolloutError if none can be had."""
