"""Selects among variants that met every gate: the best by the objective; of those equally good within noise, the simplest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate.optimization.benchmark.timings import Floats, median_interval
from tidegate.optimization.records import Objective, variant_of
from tidegate.optimization.variants import simplicity

# A smaller advantage is a tie even if it is no noise: it is not worth the more involved variant.
MATERIAL_ADVANTAGE = 0.02


@dataclass(frozen=True, slots=True)
class Contender:
    """A variant that met every gate.

    Attributes:
        name: "candidate/variant".
        by_round: What the objective minimizes, in each round of the benchmark; rounds of all contenders go together.
        quality: Its accuracy, the higher the better; None without labels.
    """

    name: str
    by_round: Floats
    quality: float | None = None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How many times the leader's a contender's number is, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def is_tie(self) -> bool:
        return self.low <= 1 or self.ratio <= 1 + MATERIAL_ADVANTAGE

    def __str__(self) -> str:
        interval = f" ({self.low:.2f} to {self.high:.2f})" if self.low < self.high else ""
        return f"{self.ratio:.2f} times{interval}"


_MEASURED = {
    "latency": "the time of one row",
    "throughput": "the time per row of full batches",
    "cost": "the price of a million rows",
    "size": "the size",
}


def choose(contenders: Sequence[Contender], objective: Objective) -> tuple[str | None, dict[str, str]]:
    """Return the winner's name (None without contenders), and for each contender why it won or lost."""
    if not contenders:
        return None, {}
    leader = min(contenders, key=lambda contender: float(np.median(contender.by_round)))
    against_leader = {contender.name: _compare(contender, leader) for contender in contenders}
    tied = [contender for contender in contenders if against_leader[contender.name].is_tie]
    winner = min(tied, key=_simplest_then_best)
    reasons: Mapping[str, str] = {
        contender.name: _why_lost(contender, against_leader[contender.name], winner, leader, objective)
        for contender in contenders
    }
    return winner.name, {**reasons, winner.name: _why_won(winner, leader, len(tied), len(contenders), objective)}


def _compare(contender: Contender, leader: Contender) -> _Comparison:
    return _Comparison(*median_interval(contender.by_round / leader.by_round))


def _simplest_then_best(contender: Contender) -> tuple[int, float, float, str]:
    quality = -(contender.quality or 0.0)
    return simplicity(variant_of(contender.name)), quality, float(np.median(contender.by_round)), contender.name


def _why_won(winner: Contender, leader: Contender, tied: int, contenders: int, objective: Objective) -> str:
    if winner is not leader:
        return f"simplest of {tied} within noise of the best {objective} ({leader.name}), of {contenders} that met every gate"
    if tied > 1:
        return f"best {objective}, and simplest of {tied} within noise of it, of {contenders} that met every gate"
    return f"best {objective} of {contenders} that met every gate"


def _why_lost(contender: Contender, comparison: _Comparison, winner: Contender, leader: Contender, objective: Objective) -> str:
    if contender is leader:
        return f"best {objective}, but {winner.name} is as good within noise, and simpler or better in accuracy"
    if comparison.is_tie:
        return f"as good as {leader.name} in {objective} within noise ({comparison}), but not the simplest and most accurate"
    return f"{_MEASURED[objective]} is {comparison} that of {leader.name}"
