"""What the judge compares: counts since the step and since the rollout began, taken from counters that may restart at zero."""

import msgspec

from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters

NOTHING = RevisionCounters(requests=0, errors=0, latency=LatencyHistogram(bounds=(), counts=()))


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One revision's counts. `seen` are its counters as last observed, None before the first time."""

    seen: RevisionCounters | None = None
    in_step: RevisionCounters = NOTHING
    in_rollout: RevisionCounters = NOTHING

    def begin_rollout(self, counters: RevisionCounters, *, with_past: bool) -> "Tally":
        """Return the tally at the first step; `with_past` takes over what was counted before it."""
        return Tally(seen=counters, in_rollout=counters if with_past else NOTHING)

    def begin_step(self, counters: RevisionCounters) -> "Tally":
        """Return the tally at the start of a later step: requests on the way from one step to the next belong to neither."""
        return Tally(seen=counters, in_rollout=_plus(self.in_rollout, self._growth(counters)))

    def add(self, counters: RevisionCounters) -> "Tally":
        """Return the tally after a look."""
        growth = self._growth(counters)
        return Tally(seen=counters, in_step=_plus(self.in_step, growth), in_rollout=_plus(self.in_rollout, growth))

    def _growth(self, counters: RevisionCounters) -> RevisionCounters:
        return counters if self.seen is None else _growth(self.seen, counters)


def _growth(before: RevisionCounters, now: RevisionCounters) -> RevisionCounters:
    """Return what was counted in between; a counter that fell has restarted at zero, so all of it is new."""
    proxied = (now.requests - before.requests, now.errors - before.errors)
    if min(proxied) < 0:
        proxied = (now.requests, now.errors)
    return RevisionCounters(requests=proxied[0], errors=proxied[1], latency=_latency_growth(before.latency, now.latency))


def _latency_growth(before: LatencyHistogram, now: LatencyHistogram) -> LatencyHistogram:
    if before.bounds != now.bounds:
        return now
    counts = tuple(after - earlier for after, earlier in zip(now.counts, before.counts, strict=True))
    return LatencyHistogram(now.bounds, counts) if min(counts, default=0) >= 0 else now


def _plus(one: RevisionCounters, other: RevisionCounters) -> RevisionCounters:
    return RevisionCounters(
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        latency=_latency_plus(one.latency, other.latency),
    )


def _latency_plus(one: LatencyHistogram, other: LatencyHistogram) -> LatencyHistogram:
    """Return both together; where the buckets differ (the server was replaced), only the later one is known."""
    if one.bounds != other.bounds:
        return other if other.bounds else one
    counts = tuple(first + second for first, second in zip(one.counts, other.counts, strict=True))
    return LatencyHistogram(one.bounds, counts)
