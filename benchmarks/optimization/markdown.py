"""Prints the tables of a results file as Markdown, as they stand in docs/benchmarks/optimization.md.

python -m benchmarks.optimization.markdown results.json
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def _main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())["results"]
    parts = [
        part for result in results for part in (f"### {result['case']}", _final(result), _searches(result), _variants(result))
    ]
    sys.stdout.write("\n\n".join(parts) + "\n")


def _final(result: Mapping[str, Any]) -> str:
    one, many = ({row["contestant"]: row for row in result["final"] if row["batch"] == batch} for batch in (1, 64))
    header = ["", "one row, µs", "time, ONNX Runtime = 1", "64 rows, rows/s", "time, ONNX Runtime = 1"]
    return _table(header, ([name, *_speed(one[name], "p50_us"), *_speed(many[name], "rows_per_second")] for name in one))


def _speed(row: Mapping[str, Any], what: str) -> list[str]:
    low, high = row["interval"]
    number = f"{row[what]:,.1f}" if row[what] < 1_000 else f"{row[what]:,.0f}"
    return [number, f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"]


def _searches(result: Mapping[str, Any]) -> str:
    lines = [
        f"Selected for {objective}: `{found['winner']}`, {found['reason']}; the search took {found['seconds']:.0f} s."
        for objective, found in result["searches"].items()
    ]
    olive = result["olive"]
    if olive is not None and olive["pick"] is not None:
        pick = olive["pick"]
        difference = "unknown" if pick["max_absolute"] is None else f"{pick['max_absolute']:.1e}"
        lines.append(
            f"Olive's pick: {', '.join(pick['passes'])}; parity {difference}; its search took {olive['seconds']:.0f} s."
        )
    elif olive is not None:
        lines.append("Olive found nothing: " + (olive.get("error") or "; ".join(one["error"] for one in olive["attempts"])))
    return "\n".join(lines)


def _variants(result: Mapping[str, Any]) -> str:
    rows = result["variants"]
    idle = ", ".join(f"`{row['variant']}`" for row in rows if row["status"] == "not-applicable")
    header = ["variant", "outcome", "parity", next((row["metric"] for row in rows if row["metric"]), "metric"), "one row, µs"]
    cells = (
        [
            f"`{row['variant']}`",
            row["status"],
            _number(row["max_absolute"], ".1e"),
            _number(row["value"], ".4f"),
            _number(row["p50_us"], ",.1f"),
            _number(row["rows_per_second_at_64"], ",.0f"),
            _number(row["size_bytes"] / 1024 if row["size_bytes"] else None, ",.0f"),
        ]
        for row in rows
        if row["status"] != "not-applicable"
    )
    return _table([*header, "64 rows, rows/s", "KiB"], cells) + (f"\n\nNot applicable: {idle}." if idle else "")


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    _main()
