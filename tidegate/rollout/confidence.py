"""Confidence sequences: bounds on a rate or a quantile that hold at every look at once, however often one looks.

Both rest on one fact. For a rate p and any prior on rates, the ratio of the prior-averaged likelihood of the data to its
likelihood under p is a martingale when p is the truth, so it ever reaches 1/alpha with probability at most alpha (Ville).
The rates it has not refuted are therefore an interval that covers the truth at all looks together with probability
1 - alpha; no correction for the number of looks is needed, and one may stop whenever one likes.

Sources: Robbins, *Statistical methods related to the law of the iterated logarithm* (1970), for the mixture; Lindon and
Malek, arXiv 2011.03567, for counts in software experiments; Howard and Ramdas, arXiv 1906.09712, for quantiles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.rollout.metrics_source import LatencyHistogram

_PRIOR_OF_RATES = (0.5, 10.0)  # most weight on small rates, as of errors; the bounds hold whatever the truth is
_PRIOR_SIZE_OF_QUANTILE = 60.0  # tightest after some hundreds of requests
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`, both included."""

    low: float
    high: float


def rate_interval(events: int, trials: int, alpha: float) -> Interval:
    """Bound the probability of an event.

    Args:
        events: How many of the trials were events.
        trials: Trials so far; outcomes are Bernoulli with one unknown probability.
        alpha: Chance that the interval ever, at any look, misses that probability.
    """
    if trials == 0:
        return Interval(0.0, 1.0)
    estimate = events / trials
    a, b = _PRIOR_OF_RATES
    log_evidence = _log_beta(a + events, b + trials - events) - _log_beta(a, b)
    limit = log_evidence - math.log(1 / alpha)  # a rate with a smaller log-likelihood is refuted

    def refuted(rate: float) -> bool:
        return _log_likelihood(events, trials, rate) <= limit

    return Interval(_last_refuted(0.0, estimate, refuted), _last_refuted(1.0, estimate, refuted))


def quantile_interval(histogram: LatencyHistogram, quantile: float, alpha: float) -> Interval:
    """Bound a quantile of the latency, in seconds, at the resolution of the histogram's buckets.

    The interval runs from a bucket's bound that the quantile is shown to exceed (0 if none) to one that it is shown not to
    exceed (infinity if none). It holds at all looks together with probability 1 - alpha.
    """
    trials = sum(histogram.counts)
    a, b = _PRIOR_SIZE_OF_QUANTILE * quantile, _PRIOR_SIZE_OF_QUANTILE * (1 - quantile)
    threshold = math.log(1 / alpha) + _log_beta(a, b)
    low, below = 0.0, 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        below += count
        evidence = _log_beta(a + below, b + trials - below) - _log_likelihood(below, trials, quantile)
        if evidence >= threshold:
            if below > quantile * trials:
                return Interval(low, bound)
            low = bound
    return Interval(low, math.inf)


def quantile_estimate(histogram: LatencyHistogram, quantile: float) -> float | None:
    """Return the upper bound, in seconds, of the bucket that holds the quantile of the sample; None without a sample."""
    trials = sum(histogram.counts)
    if trials == 0:
        return None
    below = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        below += count
        if below >= quantile * trials:
            return bound
    return math.inf


def _last_refuted(end: float, estimate: float, refuted: Callable[[float], bool]) -> float:
    """Search between `end` and the estimate, which never is refuted, for the refuted rate nearest to the estimate."""
    if end == estimate or not refuted(end):
        return end
    outside, inside = end, estimate
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return outside


def _log_likelihood(events: int, trials: int, rate: float) -> float:
    likelihood = 0.0
    for count, chance in ((events, rate), (trials - events, 1 - rate)):
        if count:
            if chance <= 0:
                return -math.inf
            likelihood += count * math.log(chance)
    return likelihood


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
