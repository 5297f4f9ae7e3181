"""Benchmark: drift of 20 columns, ours beside Evidently's own metrics, each run in a process of its own.

    python -m benchmarks.monitoring --rows 100000 1000000 --json drift.json

Ours counts all rows over the reference's bins and renders the report from the counts. Evidently runs its `DataDriftPreset`
with its own defaults, and one `ValueDrift(method="psi")` a column, which is the nearest to what ours measures. Imports are
measured apart: the three need the same. Every run writes the same kind of HTML page.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

COLUMNS = 20
REFERENCE_ROWS = 50_000
METHODS = ("tidegate", "evidently-psi", "evidently-preset")
SECONDS_ALLOWED = 300


def make_tables(rows: int, seed: int = 7) -> tuple[pa.Table, pa.Table]:
    """Return a reference and a window of `rows`: 16 numbers and 4 texts, a quarter of them shifted."""
    rng = np.random.default_rng(seed)
    return _table(rng, REFERENCE_ROWS, shift=0.0), _table(rng, rows, shift=0.5)


def _table(rng: np.random.Generator, rows: int, *, shift: float) -> pa.Table:
    columns: dict[str, Any] = {
        f"number{index}": rng.normal(shift if index % 4 == 0 else 0.0, size=rows).astype(np.float32) for index in range(16)
    }
    for index in range(4):
        columns[f"text{index}"] = rng.choice([f"c{category}" for category in range(12)], rows)
    return pa.table(columns)


def run_tidegate(reference: pa.Table, window: pa.Table) -> str:
    """Measure and render as a drift check does."""
    from tidegate.monitoring.drift import compare_columns, measure_drift
    from tidegate.monitoring.records import ConceptDrift, DriftCheck
    from tidegate.monitoring.report import render_report

    histograms = compare_columns(reference, window)
    first, *others = measure_drift(histograms, threshold=0.2)
    end = datetime(2013, 6, 1, tzinfo=UTC)
    check = DriftCheck(
        model="benchmark",
        version=1,
        window_start=end - timedelta(days=14),
        window_end=end,
        rows=window.num_rows,
        counted=True,
        columns=tuple(others),
        drifted_share=0.0,
        data_drifted=False,
        prediction=first,
        concept=ConceptDrift(labelled_rows=0, bound=0.03, drifted=False),
        drifted=False,
        summary="benchmark",
    )
    return render_report(check, histograms, psi_threshold=0.2, prediction_psi_threshold=0.2).html


def run_evidently(reference: pa.Table, window: pa.Table, *, preset: bool) -> str:
    """Run Evidently on the raw rows."""
    from evidently import Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import DataDriftPreset

    metrics = [DataDriftPreset()] if preset else [ValueDrift(column=name, method="psi") for name in window.column_names]
    current, before = (Dataset.from_pandas(table.to_pandas()) for table in (window, reference))
    html: str = Report(metrics).run(current, before).get_html_str(as_iframe=False)
    return html


def measure(method: str, rows: int) -> dict[str, float]:
    """Run one method in this process; return its seconds without imports, its peak memory above them, and the page's size."""
    import evidently.presets  # noqa: F401
    import pandas  # noqa: F401

    import tidegate.monitoring.drift
    import tidegate.monitoring.report  # noqa: F401

    reference, window = make_tables(rows)
    run: Callable[[], str] = {
        "tidegate": lambda: run_tidegate(reference, window),
        "evidently-psi": lambda: run_evidently(reference, window, preset=False),
        "evidently-preset": lambda: run_evidently(reference, window, preset=True),
    }[method]
    before = _restart_peak()
    began, cpu = time.perf_counter(), time.process_time()
    html = run()
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "extra_mib": (_memory_kib("VmHWM") - before) / 1024,
        "html_mib": len(html) / 2**20,
    }


def _restart_peak() -> int:
    """Set the process's peak memory (Linux) to what it holds now, and return that in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_kib("VmRSS")


def _memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure_apart(method: str, rows: int) -> dict[str, Any]:
    """Run `measure` in a fresh process; a method that takes too long is reported as such."""
    command = [sys.executable, "-m", "benchmarks.monitoring", "--method", method, "--rows", str(rows)]
    result: dict[str, Any] = {"method": method, "rows": rows}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS_ALLOWED)
    except subprocess.TimeoutExpired:
        return {**result, "failed": f"not done in {SECONDS_ALLOWED} s"}
    except subprocess.CalledProcessError as error:
        return {**result, "failed": error.stderr.strip().splitlines()[-1]}
    return {**result, **json.loads(done.stdout)}


def _render(results: list[dict[str, Any]]) -> Table:
    ours = {result["rows"]: result for result in results if result["method"] == "tidegate"}
    table = Table("rows", "method", "s", "CPU s", "CPU ratio", "MiB", "HTML MiB", title=f"Drift of {COLUMNS} columns")
    for result in results:
        if "failed" in result:
            table.add_row(f"{result['rows']:,}", result["method"], result["failed"])
            continue
        ratio = result["cpu_seconds"] / ours[result["rows"]].get("cpu_seconds", float("nan"))
        table.add_row(
            f"{result['rows']:,}",
            result["method"],
            f"{result['seconds']:.2f}",
            f"{result['cpu_seconds']:.2f}",
            f"{ratio:.1f}",
            f"{result['extra_mib']:.0f}",
            f"{result['html_mib']:.1f}",
        )
    return table


def main() -> None:
    """Measure every method at every size, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="rows in the window")
    parser.add_argument("--method", choices=METHODS, help="run only this one, here, and print its numbers")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options.method, options.rows[0])))
        return
    results = [measure_apart(method, rows) for rows in options.rows for method in METHODS]
    Console().print(_render(results))
    if options.json:
        options.json.write_text(
            json.dumps({"columns": COLUMNS, "reference_rows": REFERENCE_ROWS, "results": results}, indent=2)
        )


if __name__ == "__main__":
    main()
