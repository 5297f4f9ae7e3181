"""The page of a selection."""

import copy

import pytest

from tidegate.reporting.selection import render_selection

VERDICT = {"gate": "parity", "subject": "a", "measure": "largest difference", "value": 1e-6, "bound": 0.01, "passed": True}
BENCHMARK = {
    "variant": "a", "batch": 1, "p50_us": 120.0, "p95_us": 150.0, "p99_us": 190.0, "rows_per_second": 8000.0, "ratio": 0.8,
    "ratio_low": 0.7, "ratio_high": 0.9,
}  # fmt: skip
SELECTION = {
    "winner": "trees/a",
    "rows": [
        {"name": "trees/a", "status": "passed", "auc": 0.7, "auc_low": 0.69, "auc_high": 0.71, "size": 1500,
         "verdicts": [VERDICT], "benchmark": [BENCHMARK]},
        {"name": "trees/b", "status": "failed", "reason": "parity <missed>", "auc": None, "size": 900,
         "verdicts": [{**VERDICT, "passed": False}], "benchmark": []},
        {"name": "trees/c", "status": "not-applicable", "reason": "no such operator"},
    ],
}  # fmt: skip


def test_winner_and_the_reasons_of_the_others():
    html = render_selection(SELECTION)

    assert "Selected: trees/a" in html
    assert "0.7000 [0.6900, 0.7100]" in html
    assert "parity &lt;missed&gt;" in html
    assert "no such operator" in html
    assert "190 µs" in html
    assert "× 0.80 [0.70, 0.90]" in html  # noqa: RUF001
    assert "trees/b: 1 check, 1 failed" in html
    assert '<tr class="emphasized"><td>trees/a</td>' in html
    assert "://" not in html.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        pytest.param(slice(1, None), "No variant reached the benchmark", id="none was measured"),
        pytest.param(slice(0, 0), "No variant was built.", id="none was built"),
    ],
)
def test_no_winner(kept, said):
    selection = copy.deepcopy(SELECTION)
    selection.update(winner=None, rows=selection["rows"][kept])

    html = render_selection(selection)

    assert "No variant was selected" in html
    assert "no variant passed every gate" in html
    assert "No benchmark was run" in html
    assert said in html
