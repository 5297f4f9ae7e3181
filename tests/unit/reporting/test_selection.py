"""The page of a selection."""

import msgspec
import pytest

from tidegate.optimization.records import Accuracy, Footprint, OutputParity, Selection, SelectionRow
from tidegate.packaging.format.manifest import BenchmarkRow, Verdict
from tidegate.reporting.selection import render_selection

VERDICT = Verdict(gate="parity", subject="a", measure="largest difference", value=1e-6, bound=0.01, passed=True)
BENCHMARK = BenchmarkRow(
    variant="a", batch=1, p50_us=120.0, p95_us=150.0, p99_us=190.0, rows_per_second=8000.0, ratio=0.8, ratio_low=0.7,
    ratio_high=0.9,
)  # fmt: skip
ACCURACY = Accuracy(metric="roc_auc", value=0.7, low=0.69, high=0.71, loss=0.0, loss_bound=0.001, rows=900)
FOOTPRINT = Footprint(size_bytes=1500, load_seconds=0.25, memory_bytes=12_000_000, cost_per_million=0.011)
WINNER = SelectionRow(
    name="trees/a",
    status="passed",
    reason="best latency of 1",
    note="3 of 4 layers",
    parity=(OutputParity(output="probability", max_absolute=2e-5, max_relative=None, of_tolerance=0.1),),
    accuracy=ACCURACY,
    footprint=FOOTPRINT,
    verdicts=(VERDICT,),
    benchmark=(BENCHMARK, msgspec.structs.replace(BENCHMARK, batch=64, concurrency=2, rows_per_second=91_000.0)),
)
LOSERS = (
    SelectionRow(
        name="trees/b",
        status="failed",
        reason="parity <missed>",
        footprint=Footprint(size_bytes=900),
        verdicts=(msgspec.structs.replace(VERDICT, passed=False),),
    ),
    SelectionRow(name="trees/c", status="not-applicable", reason="no such operator"),
)
SELECTION = Selection(winner="trees/a", reason="best latency of 1", objective="latency", rows=(WINNER, *LOSERS))


def test_winner_and_the_reasons_of_the_others():
    html = render_selection(SELECTION)

    assert "Selected: trees/a" in html
    assert "0.7000 ± 0.0100" in html
    assert "parity &lt;missed&gt;" in html
    assert "no such operator" in html
    assert "best latency of 1; 3 of 4 layers" in html
    assert "190 µs" in html
    assert "250 ms" in html
    assert "12 MB" in html
    assert "91,000" in html
    assert "× 0.80 [0.70, 0.90]" in html  # noqa: RUF001
    assert "trees/b: 1 check, 1 failed" in html
    assert '<tr class="emphasized"><td>trees/a</td>' in html
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("objective", "asked", "axis"),
    [
        ("latency", "the shortest time of one row", "p50 latency of one row, ms"),
        ("throughput", "the most rows a second", "time per row of full batches, µs"),
        ("cost", "the lowest price", "price of a million rows"),
        ("size", "the smallest graph", "size of the graph, kB"),
    ],
)
def test_the_plot_shows_what_was_asked_for(objective, asked: str, axis: str):
    html = render_selection(msgspec.structs.replace(SELECTION, objective=objective))

    assert asked in html
    assert f"{axis} (log scale; left is better)" in html


@pytest.mark.parametrize(
    ("accuracy", "quality"),
    [
        pytest.param(ACCURACY, "ROC AUC on the holdout", id="higher is better"),
        pytest.param(
            Accuracy(metric="rmse", value=12.5, low=12, high=13, loss=0, loss_bound=0, rows=9),
            "RMSE on the holdout",
            id="error",
        ),
        pytest.param(None, "largest difference from the source model", id="without labels"),
    ],
)
def test_quality_is_whatever_was_judged_and_up_is_better(accuracy, quality: str):
    rows = (msgspec.structs.replace(WINNER, accuracy=accuracy), *LOSERS)

    html = render_selection(msgspec.structs.replace(SELECTION, rows=rows))

    assert f"{quality} (up is better)" in html


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param(LOSERS, "No variant reached the benchmark", id="none was measured"),
        pytest.param((), "No variant was built.", id="none was built"),
    ],
)
def test_no_winner(rows, said):
    html = render_selection(msgspec.structs.replace(SELECTION, winner=None, rows=rows))

    assert "No variant was selected" in html
    assert "no variant passed every gate" in html
    assert "No benchmark was run" in html
    assert said in html
