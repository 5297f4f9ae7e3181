"""The benchmark itself: every load is timed, in turns, in processes that can be lost."""

import threading
from pathlib import Path

import numpy as np
import pytest

from tidegate.optimization.benchmark import conductor
from tidegate.optimization.benchmark.conductor import loads_of, rotated, run_benchmark
from tidegate.optimization.benchmark.subject import Subject, write_rows
from tidegate.optimization.benchmark.timings import Load
from tidegate.optimization.isolation.workers import Limits, WorkerLost, Workers
from tidegate.project import BenchmarkGate

LIMITS = Limits(seconds=30)
GATE = BenchmarkGate(rounds=3, calls_per_round=10, batch_sizes=(8,), concurrencies=(1, 2))


@pytest.fixture(scope="module")
def workers():
    with Workers() as started:
        yield started


@pytest.fixture
def rows(candidates, tmp_path: Path) -> Path:
    return write_rows(candidates.holdout, tmp_path / "rows.arrow")


@pytest.fixture
def packages(candidates) -> dict[str, Path]:
    return {f"{name}/baseline": candidates.packages / name for name in ("mlp", "trees")}


def test_every_variant_goes_first_in_turn() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_one_row_is_always_timed_and_callers_at_the_largest_batch() -> None:
    gate = BenchmarkGate(batch_sizes=(64, 8), concurrencies=(4, 2))

    assert loads_of(gate) == (Load(1), Load(8), Load(64), Load(64, 2), Load(64, 4))


def test_every_load_is_timed(workers: Workers, packages: dict[str, Path], rows: Path) -> None:
    heard: list[str] = []

    found = run_benchmark(workers, packages, rows, GATE, seed=0, limits=LIMITS, after_round=lambda: heard.append("round"))

    assert found.timings.loads == (Load(1), Load(8), Load(8, 2))
    assert found.timings.variants == tuple(packages)
    assert not found.lost
    assert heard == ["round"] * 3
    for name in packages:
        assert [len(turn.calls) for turn in found.timings.turns[name, Load(8, 2)]] == [20] * 3
        table = found.timings.rows(name, "trees/baseline")
        assert [(row.batch, row.concurrency) for row in table] == [(1, 1), (8, 1), (8, 2)]
        assert all(0 < row.p50_us <= row.p95_us <= row.p99_us for row in table)
        assert (found.timings.processor_seconds_per_row(name, Load(8)) > 0).all()


def test_slow_variants_make_fewer_calls_so_that_the_whole_stays_short(workers, packages, rows) -> None:
    gate = BenchmarkGate(rounds=3, calls_per_round=100_000, batch_sizes=(8,), concurrencies=(1,), max_seconds=0.2)

    found = run_benchmark(workers, packages, rows, gate, seed=0, limits=LIMITS)

    spent = sum(turn.wall for turns in found.timings.turns.values() for turn in turns)
    assert spent < 2
    assert min(len(turn.calls) for turns in found.timings.turns.values() for turn in turns) >= 3


def test_a_lost_process_loses_that_variant_only(workers, packages, rows, monkeypatch) -> None:
    monkeypatch.setattr(conductor, "SUBJECT", "tests.unit.optimization.misbehaving:DyingTrees")

    found = run_benchmark(workers, packages, rows, GATE, seed=0, limits=LIMITS)

    assert found.timings.variants == ("mlp/baseline",)
    assert found.lost["trees/baseline"].endswith("in the benchmark")
    assert "signal 9" in found.lost["trees/baseline"]


def test_rows_of_fewer_than_a_batch_are_repeated(candidates, tmp_path: Path) -> None:
    subject = Subject(candidates.packages / "mlp", write_rows(candidates.holdout.slice(0, 3), tmp_path / "few.arrow"), 0)
    subject.open(16)

    assert subject.turn(Load(16), 4).calls.shape == (4,)
    assert subject.predict().shape == (3,)


def test_opening_says_what_it_took(candidates, rows: Path, workers: Workers) -> None:
    with workers.start(conductor.SUBJECT, candidates.packages / "mlp", rows, 0, limits=LIMITS) as subject:
        opening = subject.call("open", 16)

    assert 0 < opening.load_seconds < 10
    assert opening.memory_bytes is None or 100_000 < opening.memory_bytes < 500e6
    assert opening.warning is None


def test_a_package_that_cannot_be_opened_is_lost_with_its_reason(candidates, rows: Path, workers, tmp_path: Path) -> None:
    with (
        workers.start(conductor.SUBJECT, tmp_path / "none", rows, 0, limits=LIMITS) as subject,
        pytest.raises(WorkerLost, match="not a model package"),
    ):
        subject.call("open", 1)


def test_threads_of_callers_are_gone_after_a_turn(candidates, rows: Path) -> None:
    subject = Subject(candidates.packages / "mlp", rows, 0)
    subject.open(8)
    before = threading.active_count()

    turn = subject.turn(Load(8, 3), 5)

    assert turn.calls.shape == (15,)
    assert np.isfinite(turn.wall)
    assert threading.active_count() == before
