"""What a variant costs: its footprint, the price of a million rows, and the number by round that an objective minimizes."""

import numpy as np

from tidegate.optimization.benchmark.timings import Floats, Timings
from tidegate.optimization.records import Objective
from tidegate.packaging.format.manifest import Runtime
from tidegate.project import PricesSection

_ROWS = 1_000_000
_HOUR = 3600.0
_GIBIBYTE = 2.0**30


def price_by_round(timings: Timings, variant: str, prices: PricesSection, runtime: Runtime, memory_bytes: int | None) -> Floats:
    """Return the price of a million rows in each round, at the largest batch by one caller.

    Processor time is paid as it is used, since others can use the rest of the cores; memory, and the GPU of a variant that runs
    on one, are paid for as long as the rows take. Memory that is not known costs nothing.
    """
    on_gpu = any(provider != "CPUExecutionProvider" for provider in runtime.providers)
    held = (memory_bytes or 0) / _GIBIBYTE * prices.memory_gib_hour + (prices.gpu_hour if on_gpu else 0.0)
    used = timings.processor_seconds_per_row(variant, timings.bulk) * prices.core_hour
    return (used + timings.seconds_per_row(variant, timings.bulk) * held) * _ROWS / _HOUR


def objective_by_round(timings: Timings, variant: str, objective: Objective, *, price: Floats, size_bytes: int) -> Floats:
    """Return what the objective minimizes, in each round: seconds, a price or bytes.

    `latency` is the median call of one row by one caller, `throughput` the time per row of the largest batch by the most
    callers, `cost` the price, `size` the graph's.
    """
    match objective:
        case "latency":
            return timings.medians(variant, timings.single)
        case "throughput":
            return timings.seconds_per_row(variant, timings.busiest)
        case "cost":
            return price
        case "size":
            return np.full(len(price), float(size_bytes))
