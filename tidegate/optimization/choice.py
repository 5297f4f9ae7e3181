"""Selects among variants that met every gate: the best by the objective; of those equally good within noise, the simplest."""

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.optimization.benchmark import Timings
from tidegate.optimization.records import Objective
from tidegate.optimization.variants import simplicity

# A smaller advantage is a tie even if it is no noise: it is not worth the more involved variant.
MATERIAL_ADVANTAGE = 0.02


@dataclass(frozen=True, slots=True)
class Contender:
    """A variant that met every gate; `auc` is None if there were no labels."""

    name: str
    size_bytes: int
    auc: float | None


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How many times the leader's cost a contender's is, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def is_tie(self) -> bool:
        return self.low <= 1 or self.ratio <= 1 + MATERIAL_ADVANTAGE

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times ({self.low:.2f} to {self.high:.2f})"


def choose(contenders: Sequence[Contender], timings: Timings, objective: Objective) -> tuple[str | None, dict[str, str]]:
    """Return the winner's name (None without contenders), and for each contender why it won or lost.

    The objective `latency` is the p50 of one row, `throughput` the p50 of the largest batch, `size` the graph's bytes.
    """
    if not contenders:
        return None, {}
    leader = min(contenders, key=lambda contender: _cost(contender, timings, objective))
    against_leader = {contender.name: _compare(contender, leader, timings, objective) for contender in contenders}
    tied = [contender for contender in contenders if against_leader[contender.name].is_tie]
    winner = min(tied, key=_simplest_then_best)
    reasons = {
        contender.name: _why_lost(contender, against_leader[contender.name], winner, leader, objective)
        for contender in contenders
    }
    reasons[winner.name] = _why_won(winner, leader, len(tied), len(contenders), objective)
    return winner.name, reasons


def _cost(contender: Contender, timings: Timings, objective: Objective) -> float:
    if objective == "size":
        return contender.size_bytes
    return timings.percentile(contender.name, _batch(timings, objective), 50)


def _compare(contender: Contender, leader: Contender, timings: Timings, objective: Objective) -> _Comparison:
    if objective == "size":
        ratio = contender.size_bytes / leader.size_bytes
        return _Comparison(ratio, ratio, ratio)
    return _Comparison(*timings.ratio(contender.name, leader.name, _batch(timings, objective)))


def _batch(timings: Timings, objective: Objective) -> int:
    return max(timings.batch_sizes) if objective == "throughput" else min(timings.batch_sizes)


def _simplest_then_best(contender: Contender) -> tuple[int, float, str]:
    return simplicity(contender.name.rpartition("/")[2]), -(contender.auc or 0.0), contender.name


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
    return f"{objective} cost is {comparison} that of {leader.name}"
