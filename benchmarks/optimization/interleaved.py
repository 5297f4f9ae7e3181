"""Times contestants in turn, each in a process of its own: while one is timed, the others wait on a pipe and run nothing.

In every round each contestant makes its calls in an order that rotates, so that what slows the machine down for a while slows
all of them. Ratios are of round medians, with a distribution-free 95 % interval over rounds.
"""

import gc
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks.optimization.cases.case import read_rows
from benchmarks.optimization.contestants import Contestant
from tidegate.optimization.benchmark.timings import median_interval

_BATCHES_IN_TURN = 8
_TURN_SECONDS = 0.05
_LEAST_CALLS, _MOST_CALLS = 3, 400
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of every call, by round."""

    rounds: list[np.ndarray]

    def percentile(self, percent: float) -> float:
        """Return a percentile over all calls, in seconds."""
        return float(np.percentile(np.concatenate(self.rounds), percent))

    def ratio(self, other: "Times") -> tuple[float, float, float]:
        """Return how many times the other's round medians these are: median, and the ends of its 95 % interval."""
        mine, others = ([float(np.median(calls)) for calls in times.rounds] for times in (self, other))
        return median_interval(np.array(mine) / np.array(others))


def time_in_turn(
    contestants: Mapping[str, Contestant], folder: Path, batches: tuple[int, ...], rounds: int
) -> dict[tuple[str, int], Times]:
    """Time every contestant on the rows in `folder`, by name and batch size."""
    times: dict[tuple[str, int], Times] = {(name, batch): Times([]) for name in contestants for batch in batches}
    with _processes(contestants, folder) as pipes:
        calls = {(name, batch): _calls_of_a_turn(pipes[name], batch) for name in contestants for batch in batches}
        names = list(contestants)
        for turn in range(rounds):
            for batch in batches:
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    times[name, batch].rounds.append(_ask(pipes[name], (batch, calls[name, batch])))
    return times


def _calls_of_a_turn(pipe: Connection, batch: int) -> int:
    """Warm up, and return how many calls fit into a turn."""
    _ask(pipe, (batch, _LEAST_CALLS))
    seconds = float(np.median(_ask(pipe, (batch, _LEAST_CALLS * 5))))
    return int(np.clip(_TURN_SECONDS / seconds, _LEAST_CALLS, _MOST_CALLS))


@contextmanager
def _processes(contestants: Mapping[str, Contestant], folder: Path) -> Iterator[dict[str, Connection]]:
    spawning = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, contestant in contestants.items():
            pipes[name], theirs = spawning.Pipe()
            process = spawning.Process(target=_answer, args=(contestant, folder, theirs), daemon=True)
            process.start()
            processes.append(process)
            theirs.close()
            _ask(pipes[name], None)
        yield pipes
    finally:
        for pipe in pipes.values():
            pipe.close()
        for process in processes:
            process.join(timeout=5)
            process.kill()


def _ask(pipe: Connection, command: tuple[int, int] | None) -> np.ndarray:
    pipe.send(command)
    if not pipe.poll(_PATIENCE):
        raise TimeoutError(f"a contestant did not answer within {_PATIENCE:g} s")
    seconds: np.ndarray = pipe.recv()
    return seconds


def _answer(contestant: Contestant, folder: Path, pipe: Connection) -> None:
    """Run in the contestant's process: for every (batch, calls) send back the seconds of each call, until the pipe closes."""
    ready, rows = contestant.open(), read_rows(folder)
    made: dict[int, list] = {}
    gc.disable()
    try:
        while True:
            command = pipe.recv()
            if command is None:
                pipe.send(np.empty(0))
                continue
            batch, calls = command
            if batch not in made:
                starts = range(0, batch * _BATCHES_IN_TURN, batch)
                made[batch] = [ready(_part(rows, start, batch)) for start in starts]
            pipe.send(_timed(made[batch], calls))
    except EOFError:
        return


def _part(rows: Mapping[str, np.ndarray], start: int, batch: int) -> dict[str, np.ndarray]:
    count = len(next(iter(rows.values())))
    wanted = np.arange(start, start + batch) % count
    return {name: np.ascontiguousarray(array[wanted]) for name, array in rows.items()}


def _timed(made: list, calls: int) -> np.ndarray:
    taken, clock = np.empty(calls), time.perf_counter
    for number in range(calls):
        call = made[number % len(made)]
        start = clock()
        call()
        taken[number] = clock() - start
    return taken
