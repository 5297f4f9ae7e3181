"""The benchmark gate: how fast and how large a variant may be."""

from collections.abc import Iterator

from tidegate.optimization.benchmark.timings import Timings
from tidegate.optimization.records import Footprint
from tidegate.packaging.format.manifest import Verdict
from tidegate.project import BenchmarkGate

_MEGABYTE = 1e6


def judge_benchmark(name: str, timings: Timings, footprint: Footprint, gate: BenchmarkGate) -> tuple[Verdict, ...]:
    """Hold a variant's p99 for one row to the gate's bound, and its size, memory and load time where they have one.

    What could not be measured on this machine is not held to anything, and the verdict says so.
    """
    p99 = timings.percentile(name, timings.single, 99) * 1e3
    calls = sum(len(turn.calls) for turn in timings.turns[name, timings.single])
    note = f"{calls:,} calls in {len(timings.turns[name, timings.single])} interleaved rounds, {gate.threads} thread(s)"
    return (_verdict(name, "p99 latency of one row, ms", p99, gate.max_p99_ms, note), *_footprint(name, footprint, gate))


def _footprint(name: str, footprint: Footprint, gate: BenchmarkGate) -> Iterator[Verdict]:
    memory = None if footprint.memory_bytes is None else footprint.memory_bytes / _MEGABYTE
    for measure, value, bound in (
        ("size of the graph, MB", footprint.size_bytes / _MEGABYTE, gate.max_size_mb),
        ("memory it adds to a process, MB", memory, gate.max_memory_mb),
        ("load time to the first answer, s", footprint.load_seconds, gate.max_load_seconds),
    ):
        if bound is not None:
            yield _verdict(name, measure, value, bound, "" if value is not None else "not judged: this machine does not tell")


def _verdict(name: str, measure: str, value: float | None, bound: float, note: str) -> Verdict:
    return Verdict(
        gate="benchmark",
        subject=name,
        measure=measure,
        value=value,
        bound=bound,
        passed=value is None or value <= bound,
        note=note,
    )
