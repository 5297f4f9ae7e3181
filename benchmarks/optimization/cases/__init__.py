"""The models that are optimized: one file a kind, found by name."""

from benchmarks.optimization.cases.case import Case
from benchmarks.optimization.cases.digits import Digits
from benchmarks.optimization.cases.flights import Flights
from benchmarks.optimization.cases.transformer import Transformer

CASES: dict[str, Case] = {case.name: case for case in (Flights("trees"), Flights("mlp"), Digits(), Transformer())}
