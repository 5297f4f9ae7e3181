"""What the optimization benchmark asks of its numbers, and how it shows them; nothing is timed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.optimization import report
from benchmarks.optimization.contestants import olive_options
from benchmarks.optimization.interleaved import Times

DEFAULTS, LATENCY, THROUGHPUT = "ONNX Runtime", "selected for latency", "selected for throughput"


def _times(factor: float, jitter: float = 0.0) -> Times:
    rng = np.random.default_rng(0)
    return Times([np.full(5, 1e-4 * factor * (1 + jitter * rng.uniform(-1, 1))) for _ in range(9)])


def _result(latency: Times, throughput: Times) -> dict[str, Any]:
    times = {(DEFAULTS, 1): _times(1), (DEFAULTS, 64): _times(3), (LATENCY, 1): latency, (LATENCY, 64): _times(9)}
    times |= {(THROUGHPUT, 1): _times(9), (THROUGHPUT, 64): throughput}
    searches = {objective: {"winner": "fp16", "reason": "best", "seconds": 2.0} for objective in report.OBJECTIVES}
    row = {"name": "model/fp16", "status": "passed", "reason": "best", "benchmark": [], "parity": [], "footprint": None}
    return {
        "case": "flights",
        "searches": searches,
        "variants": [report.variant(row | {"accuracy": None})],
        "olive": None,
        "final": report.final(times, DEFAULTS),
    }


@pytest.mark.parametrize(
    ("latency", "throughput", "misses"),
    [
        pytest.param(_times(0.5), _times(1.5), 0, id="both are faster at what they were selected for"),
        pytest.param(_times(1), _times(3), 0, id="both are as fast"),
        pytest.param(_times(1.1, jitter=0.4), _times(3), 0, id="slower, but within noise"),
        pytest.param(_times(1.2), _times(3), 1, id="slower for one row"),
        pytest.param(_times(1.2), _times(4), 2, id="slower for both"),
    ],
)
def test_a_selected_package_must_not_be_slower_than_plain_onnx_runtime(latency: Times, throughput: Times, misses: int) -> None:
    assert len(list(report.missed(_result(latency, throughput)))) == misses


def test_a_miss_names_the_case_the_winner_and_the_ratio() -> None:
    (found,) = report.missed(_result(_times(1.5), _times(3)))
    assert found == "flights: fp16, selected for latency, takes 1.50 times as long as plain"


def test_the_tables_of_the_docs_are_made_from_the_results(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"results": [_result(_times(0.5), _times(1.5))]}))
    command = [sys.executable, "-m", "benchmarks.optimization.markdown", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "### flights" in shown
    assert "| selected for latency | 50.0 | 0.50 (0.50 to 0.50) |" in shown
    assert "Selected for latency: `fp16`, best; the search took 2 s." in shown


def test_olives_options_are_those_that_onnx_runtime_has_and_olive_decided() -> None:
    session = {"session_options": {"intra_op_num_threads": 1, "execution_mode": None, "graph_optimization_level": 99}}
    options = olive_options(session)
    assert options["intra_op_num_threads"] == 1
    assert "execution_mode" not in options
    assert int(options["graph_optimization_level"]) == 99
