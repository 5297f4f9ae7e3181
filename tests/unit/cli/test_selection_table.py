"""A selection on terminals of several widths, and in a pipe."""

import io

import msgspec
import pytest
from rich.console import Console

from tidegate.cli.selection_table import render_rows
from tidegate.optimization.records import Accuracy, Footprint, OutputParity, Selection, SelectionRow
from tidegate.packaging.format.manifest import BenchmarkRow

REASON = "the time of one row is 1.05 times (1.02 to 1.10) that of model/baseline; 10 nodes instead of 11; the last words"
MEASURED = SelectionRow(
    name="model/int8-static-percentile",
    status="passed",
    reason=REASON,
    parity=(OutputParity(output="probability", max_absolute=2e-5, max_relative=None, of_tolerance=0.1),),
    accuracy=Accuracy(metric="accuracy", value=0.7, low=0.69, high=0.71, loss=0.0, loss_bound=0.001, rows=900),
    footprint=Footprint(size_bytes=1500, load_seconds=0.25, memory_bytes=12_000_000, cost_per_million=0.011),
    benchmark=(
        BenchmarkRow(
            variant="a", batch=1, p50_us=120.0, p95_us=150.0, p99_us=190.0, rows_per_second=3_136_870.0,
            ratio=0.8, ratio_low=0.7, ratio_high=0.9,
        ),
    ),
)  # fmt: skip
SELECTION = Selection(
    winner="model/baseline",
    reason="",
    objective="latency",
    rows=(msgspec.structs.replace(MEASURED, name="model/baseline", reason="best"), MEASURED),
)
NEVER_LEFT_OUT = ["variant", "outcome", "p50 µs"]


def printed(width: int, *, terminal: bool = True) -> list[str]:
    file = io.StringIO()
    render_rows(Console(file=file, width=width, force_terminal=terminal, color_system=None), SELECTION)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_no_title_and_no_number_is_cut(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert all(title in lines[0] for title in NEVER_LEFT_OUT)
    assert "selected" in lines[1]


def test_a_wider_terminal_shows_more() -> None:
    narrow, usual, wide = (printed(width)[0].split() for width in (60, 80, 160))
    assert set(narrow) < set(usual) < set(wide)
    assert "cost" in wide


def test_on_a_terminal_reasons_are_wrapped_beside_their_names() -> None:
    lines = printed(80)
    start = next(index for index, line in enumerate(lines) if line.startswith("model/int8") and "the time" in line)
    column = lines[start].index("the time")
    assert all(line[:column].isspace() for line in lines[start + 1 :])
    assert " ".join(line[column:].strip() for line in lines[start:]) == REASON


def test_in_a_pipe_a_reason_is_a_line() -> None:
    assert f"model/int8-static-percentile: {REASON}" in printed(80, terminal=False)
