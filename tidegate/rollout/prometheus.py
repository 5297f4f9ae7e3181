"""The metrics source of a cluster: first attempts from the gateway's counters, latency from the model servers' histograms.

Both are read from Prometheus as raw samples and added up here, see `growth.py`; how gateways count is in `gateway_counters.py`.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Protocol

from tidegate.deployment.inference_service import Service
from tidegate.errors import DeploymentError, RolloutError
from tidegate.project.cluster import Prometheus
from tidegate.rollout.gateway_counters import Counted, gateway
from tidegate.rollout.growth import Growth
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters
from tidegate.rollout.prometheus_api import PrometheusApi, Series, selector
from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS

_PAST = 3600.0  # seconds that the first look takes in, so that it counts what restarted or vanished in them
_PAST_EVERY = 60.0  # seconds between the values it reads of them: an hour of raw samples of a large service is too much
_RECENT = 300.0  # seconds of raw samples that the first look reads
_OVERLAP = 60.0  # seconds before the last look: samples may be visible later than they were scraped
_MISSED_SCRAPES = 3  # so many scrape intervals without a sample are silence
_LONGEST_INTERVAL = 60.0  # seconds: Prometheus's default, assumed while too few samples tell
_LEAST_PATIENCE = 5.0  # seconds


class Backends(Protocol):
    """What is asked of the target."""

    def get(self, name: str) -> Service | None:
        """Return the desired state of the service called `name`."""

    def backends(self, name: str) -> dict[str, str]:
        """Return the Kubernetes Service that gets the traffic of each revision of the service called `name`."""


class PrometheusMetricsSource:
    """Observes the services of a cluster.

    Counters only grow while the object lives: over restarts of gateways and model servers, when pods vanish, and over an
    outage of Prometheus. Another object takes in the hour before its first look, so it starts from lower counts only if
    something restarted or vanished before that.
    """

    def __init__(self, prometheus: Prometheus, target: Backends) -> None:
        """Observe the services of `target` by the section `cluster.prometheus`.

        Raises:
            RolloutError: The variable that is to hold the bearer token is not set.
        """
        self._api = PrometheusApi(prometheus)
        self._gateway = gateway(prometheus.gateway)
        self._target = target
        self._services: dict[str, _Observed] = {}

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        """Return the counters of every revision of `service` that had traffic while it was observed.

        Raises:
            RolloutError: Prometheus cannot be reached or refuses; the gateway or the model servers are not scraped, or were
                not scraped lately; the service is not there.
        """
        namespace, backends = self._backends(service)
        now = self._api.now()
        observed = self._services.get(service) or _Observed(service, namespace, now - _RECENT)
        observed.add(backends)
        if service not in self._services:
            self._take_in_the_past(observed)
            self._services[service] = observed
        seconds = min(_PAST, max(0.0, now - observed.until) + _OVERLAP)
        proxied = self._api.samples(self._gateway.of(observed.backends, namespace), at=now, seconds=seconds)
        self._check_fresh(proxied, now, observed)
        self._check_scraped_once(proxied, now)
        served = self._api.samples(observed.latency, at=now, seconds=seconds)
        self._check_scraped_once(served, now)
        observed.proxied.see(proxied)
        observed.served.see(served)
        observed.until = now
        counted, latency = self._counted(observed), self._latency(observed)
        if not observed.served.totals() and any(one.requests for one in counted.values()):
            self._api.refuse(f"holds no {observed.latency}: are the model servers scraped, as by kserve/monitoring?")
        return {
            revision: RevisionCounters(counted[revision].requests, counted[revision].errors, latency[revision])
            for revision in observed.revisions
        }

    def _take_in_the_past(self, observed: "_Observed") -> None:
        past = {"at": observed.until, "seconds": _PAST - _RECENT, "every": _PAST_EVERY}
        observed.proxied.see(self._api.history(self._gateway.of(observed.backends, observed.namespace), **past))
        observed.served.see(self._api.history(observed.latency, **past))

    def _backends(self, name: str) -> tuple[str, dict[str, str]]:
        try:
            service = self._target.get(name)
            if service is None:
                raise RolloutError(f"service {name} cannot be observed: there is none")
            backends = self._target.backends(name)
        except DeploymentError as error:
            raise RolloutError(f"service {name} cannot be observed: {error}") from error
        if not backends and name not in self._services:
            raise RolloutError(f"service {name} cannot be observed: none of its revisions gets traffic")
        return service.namespace, backends

    def _counted(self, observed: "_Observed") -> dict[str, Counted]:
        counted = {revision: Counted() for revision in observed.revisions}
        for labels, totals in observed.proxied.totals():
            backend = self._gateway.backend(labels, observed.backends, observed.namespace)
            if backend is not None:
                counted[observed.backends[backend]] += self._gateway.count(labels, totals[""])
        # Two counters of one proxy are not scraped at the same instant.
        return {revision: Counted(one.requests, min(one.errors, one.requests)) for revision, one in counted.items()}

    def _latency(self, observed: "_Observed") -> dict[str, LatencyHistogram]:
        counts = {revision: [0] * (len(LATENCY_BOUNDS) + 1) for revision in observed.revisions}
        for labels, cumulative in observed.served.totals():
            for index, count in enumerate(self._buckets(labels, cumulative)):
                counts[labels["revision"]][index] += count
        return {revision: LatencyHistogram(LATENCY_BOUNDS, tuple(buckets)) for revision, buckets in counts.items()}

    def _buckets(self, labels: Mapping[str, str], cumulative: Mapping[str, int]) -> list[int]:
        ordered = [cumulative[le] for le in sorted(cumulative, key=float)]
        bounds = sorted(float(le) for le in cumulative)
        if tuple(bounds) != (*LATENCY_BOUNDS, float("inf")):
            self._api.refuse(
                f"has other buckets of {LATENCY} from {_process_of(labels)} than this version of Tidegate; "
                "serve and judge with the same one"
            )
        return [max(0, after - before) for before, after in zip((0, *ordered), ordered, strict=False)]

    def _check_fresh(self, proxied: Sequence[Series], now: float, observed: "_Observed") -> None:
        patience = _patience(proxied)
        newest = max((one.samples[-1][0] for one in proxied if one.samples), default=None)
        if newest is not None and now - newest <= patience:
            return
        # A gateway that had no request for these backends yet, or not since it started, is scraped all the same.
        current = self._api.newest(self._gateway.any, at=now)
        if current is not None and now - current <= patience:
            problem = None if newest is not None else self._gateway.absent(observed.backends, observed.namespace)
            if problem is not None:
                self._api.refuse(problem)
            return
        last = max((at for at in (newest, current) if at is not None), default=None)
        if last is None:
            self._api.refuse(f"holds no {self._gateway.any}: is the gateway scraped? See docs/monitoring.md")
        self._api.refuse(f"has scraped no {self._gateway.any} for {now - last:.0f} s: is the gateway up, and still a target?")

    def _check_scraped_once(self, series: Sequence[Series], now: float) -> None:
        jobs: dict[str, set[str]] = {}
        patience = _patience(series)
        for one in series:
            if one.samples and now - one.samples[-1][0] <= patience:
                jobs.setdefault(_process_of(one.labels), set()).add(one.labels.get("job", ""))
        for process, named in jobs.items():
            if len(named) > 1:
                self._api.refuse(
                    f"scrapes {process} more than once, as jobs {', '.join(sorted(named))}, so its requests would count more "
                    "than once; keep one"
                )


class _Observed:
    """What was observed of one service, until when.

    Every backend that ever got traffic is observed: a canary that fails its readiness checks loses its traffic, but not the
    errors from before.
    """

    def __init__(self, service: str, namespace: str, until: float) -> None:
        self.service = service
        self.namespace = namespace
        self.until = until
        self.backends: dict[str, str] = {}  # which revision a Kubernetes Service leads to
        self.proxied = Growth()
        self.served = Growth()

    def add(self, backends: Mapping[str, str]) -> None:
        self.backends |= {backend: revision for revision, backend in backends.items()}

    @property
    def revisions(self) -> list[str]:
        return sorted(set(self.backends.values()))

    @property
    def latency(self) -> str:
        return selector(f"{LATENCY}_bucket", namespace=self.namespace, model=self.service, revision=self.revisions)


def _patience(series: Sequence[Series]) -> float:
    """Return for how long there may be no sample, in seconds, by the time between samples so far."""
    gaps = [later[0] - earlier[0] for one in series for earlier, later in zip(one.samples, one.samples[1:], strict=False)] or [
        _LONGEST_INTERVAL
    ]
    return max(_LEAST_PATIENCE, _MISSED_SCRAPES * median(gaps))


def _process_of(labels: Mapping[str, str]) -> str:
    """Return whose samples these are: a pod may be scraped on more than one port."""
    return labels.get("pod") or labels.get("instance", "?")
