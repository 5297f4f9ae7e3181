"""Conducts the benchmark: in each round every variant makes its calls in turn while the others' processes are idle.

The order rotates from round to round, so that what slows the machine down for a while slows all of them, and ratios of one
round's medians are free of it: the rounds are the blocks of a block design. A turn is shortened where the whole would take
longer than the gate allows.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tidegate.optimization.benchmark.timings import Load, Timings, Turn
from tidegate.optimization.isolation.workers import Limits, Worker, WorkerLost, Workers
from tidegate.project import BenchmarkGate

SUBJECT = "tidegate.optimization.benchmark.subject:Subject"
_FEWEST_CALLS = 3


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The timings of all that were timed to the end, and why the others were lost."""

    timings: Timings
    lost: dict[str, str]


def run_benchmark(
    workers: Workers,
    packages: Mapping[str, Path],
    rows: Path,
    gate: BenchmarkGate,
    *,
    seed: int,
    limits: Limits,
    after_round: Callable[[], None] = lambda: None,
) -> Benchmark:
    """Time every package on the same real rows.

    Args:
        workers: Start the subjects' processes.
        packages: By variant name.
        rows: Arrow file of real rows with every package's inputs (`write_rows`); batches are drawn from it with the seed.
        gate: Batch sizes, callers, rounds, calls a round, and seconds for all of it.
        seed: Of the draw.
        limits: Of each call to a subject's process.
        after_round: Called after each round.
    """
    loads = loads_of(gate)
    benchmark = Benchmark(Timings(loads), {})
    with ExitStack() as stack:
        subjects = {
            name: stack.enter_context(workers.start(SUBJECT, package, rows, seed, limits=limits))
            for name, package in packages.items()
        }
        stage = _Stage(subjects, benchmark)
        calls = stage.open(gate)
        for turn in range(gate.rounds):
            for load in loads:
                for name in rotated(list(stage.subjects), turn):
                    stage.turn(name, load, calls[name, load])
            after_round()
    return benchmark


def loads_of(gate: BenchmarkGate) -> tuple[Load, ...]:
    """Return every batch size by one caller, one row among them, and the largest by each number of callers."""
    batches = sorted({1, *gate.batch_sizes})
    return tuple(sorted({*(Load(batch) for batch in batches), *(Load(batches[-1], callers) for callers in gate.concurrencies)}))


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names with another one first in each turn."""
    shift = turn % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


class _Stage:
    """The subjects that are still there; one whose process is lost leaves, and takes its timings with it."""

    def __init__(self, subjects: dict[str, Worker], benchmark: Benchmark) -> None:
        self.subjects = subjects
        self._benchmark = benchmark

    def open(self, gate: BenchmarkGate) -> dict[tuple[str, Load], int]:
        """Open and warm up every subject; return how many calls each is to make in a turn."""
        loads, calls = self._benchmark.timings.loads, {}
        budget = gate.max_seconds / (gate.rounds * len(loads) * max(1, len(self.subjects)))
        for name, worker in list(self.subjects.items()):
            try:
                worker.call("open", max(load.batch for load in loads))
                for load in loads:
                    seconds = worker.call("warm_up", load)
                    calls[name, load] = min(gate.calls_per_round, max(_FEWEST_CALLS, int(budget / seconds)))
            except WorkerLost as lost:
                self._leave(name, f"{lost}, when it was opened for the benchmark")
        return calls

    def turn(self, name: str, load: Load, calls: int) -> None:
        turns = self._benchmark.timings.turns
        try:
            turn: Turn = self.subjects[name].call("turn", load, calls)
        except WorkerLost as lost:
            self._leave(name, f"{lost}, in the benchmark")
        else:
            turns.setdefault((name, load), []).append(turn)

    def _leave(self, name: str, reason: str) -> None:
        self._benchmark.lost[name] = reason
        self.subjects.pop(name).end()
        for key in [key for key in self._benchmark.timings.turns if key[0] == name]:
            del self._benchmark.timings.turns[key]
