"""The benchmark gate, and what a variant costs."""

import numpy as np
import pytest

from tidegate.optimization.benchmark.cost import objective_by_round, price_by_round
from tidegate.optimization.benchmark.judge import judge_benchmark
from tidegate.optimization.benchmark.timings import Load, Timings, Turn
from tidegate.optimization.records import Footprint
from tidegate.packaging.format.manifest import Runtime
from tidegate.project import BenchmarkGate, PricesSection

FOOTPRINT = Footprint(size_bytes=5_000_000, load_seconds=0.5, memory_bytes=80_000_000)


def timings(p99_ms: float = 2.0) -> Timings:
    seconds = np.full(100, 0.001)
    seconds[95:] = p99_ms / 1e3
    rounds = {
        ("m", load): [Turn(seconds * load.batch, 0.1 * load.batch, 0.05 * load.batch)] * 3 for load in (Load(1), Load(100))
    }
    return Timings((Load(1), Load(100)), rounds)


@pytest.mark.parametrize(
    ("bounds", "failed"),
    [
        pytest.param({}, [], id="the defaults bound the latency alone"),
        pytest.param({"max_p99_ms": 1.9}, ["p99 latency of one row, ms"], id="latency"),
        pytest.param({"max_size_mb": 4.9}, ["size of the graph, MB"], id="size"),
        pytest.param({"max_memory_mb": 79.0}, ["memory it adds to a process, MB"], id="memory"),
        pytest.param({"max_load_seconds": 0.4}, ["load time to the first answer, s"], id="load"),
        pytest.param({"max_size_mb": 5.1, "max_memory_mb": 81.0, "max_load_seconds": 0.6}, [], id="all of them met"),
    ],
)
def test_a_variant_is_held_to_every_bound_that_is_set(bounds: dict[str, float], failed: list[str]) -> None:
    verdicts = judge_benchmark("m", timings(), FOOTPRINT, BenchmarkGate(**bounds))

    assert [verdict.measure for verdict in verdicts if not verdict.passed] == failed
    assert len(verdicts) == 1 + sum(name != "max_p99_ms" for name in bounds)
    assert verdicts[0].value == pytest.approx(2.0)


def test_what_a_machine_does_not_tell_is_not_judged_and_says_so() -> None:
    [_, memory] = judge_benchmark("m", timings(), Footprint(size_bytes=1), BenchmarkGate(max_memory_mb=1.0))

    assert memory.passed
    assert memory.note == "not judged: this machine does not tell"


@pytest.mark.parametrize(
    ("runtime", "prices", "expected"),
    [
        # 100 calls of 100 rows took 5 s of a processor and 0.1 s each: a million rows are 500 s of it, and 1000 s altogether.
        pytest.param(Runtime(), PricesSection(core_hour=3600, memory_gib_hour=0, gpu_hour=9), 500.0, id="processor"),
        pytest.param(Runtime(), PricesSection(core_hour=0, memory_gib_hour=3600, gpu_hour=9), 2000.0, id="memory"),
        pytest.param(
            Runtime(providers=("CUDAExecutionProvider", "CPUExecutionProvider")),
            PricesSection(core_hour=0, memory_gib_hour=0, gpu_hour=3600), 1000.0, id="gpu",
        ),
    ],
)  # fmt: skip
def test_the_price_of_a_million_rows(runtime: Runtime, prices: PricesSection, expected: float) -> None:
    price = price_by_round(timings(), "m", prices, runtime, memory_bytes=2 * 2**30)

    assert price == pytest.approx([expected] * 3)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("latency", 0.001), ("throughput", 0.001), ("cost", 7.0), ("size", 12.0)],
)
def test_every_objective_has_a_number_by_round(objective, expected: float) -> None:
    found = objective_by_round(timings(), "m", objective, price=np.full(3, 7.0), size_bytes=12)

    assert found == pytest.approx([expected] * 3)
