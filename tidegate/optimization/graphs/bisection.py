"""Finds, among many nodes, those that can be changed without harm, by halving what fails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bisection:
    """Which items were accepted and which were not, each in the order given, and how many trials that took."""

    accepted: tuple[str, ...]
    rejected: tuple[str, ...]
    trials: int


def largest_accepted(items: Sequence[str], accepts: Callable[[Sequence[str]], bool], *, max_trials: int) -> Bisection:
    """Return a large subset of `items` that `accepts`: every step of the way there was tried.

    All items are tried at once first. A part that is not accepted, beside what was accepted before, is halved, down to single
    items: with k of n items at fault that takes about 2k·log2(n/k) trials. The search is greedy, so there may be a larger
    subset. Items not yet tried when `max_trials` are spent are rejected. It is the adding half of delta debugging: Zeller and
    Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE Transactions on Software Engineering 28(2), 2002.
    """
    accepted: set[str] = set()
    trials = 0
    parts = [tuple(items)] if items else []
    while parts and trials < max_trials:
        part = parts.pop()
        trials += 1
        if accepts([item for item in items if item in accepted or item in part]):
            accepted.update(part)
        elif len(part) > 1:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
    return Bisection(
        accepted=tuple(item for item in items if item in accepted),
        rejected=tuple(item for item in items if item not in accepted),
        trials=trials,
    )


def named_briefly(nodes: Sequence[str], *, most: int = 8) -> str:
    """Return nodes' names for a note or a parameter, the first `most` of them and how many more there are."""
    more = f" and {len(nodes) - most} more" if len(nodes) > most else ""
    return ", ".join(nodes[:most]) + more
