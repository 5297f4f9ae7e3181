"""What is kept of a case, shown of it, and asked of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.optimization.interleaved import Times

OBJECTIVES = {"latency": 1, "throughput": 64}  # and the rows of a call that each is about
_NOISE = 1.02  # a ratio whose whole interval lies beyond it is a loss


def variant(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a row of the selection: numbers to compare, and why it won or lost."""
    speeds = {entry["batch"]: entry for entry in row["benchmark"] if entry.get("concurrency", 1) == 1}
    parity = [entry["max_absolute"] for entry in row["parity"] if entry["max_absolute"] is not None]
    footprint, accuracy = row["footprint"] or {}, row["accuracy"] or {}
    return {
        "variant": short(row["name"]),
        "status": row["status"],
        "reason": row["reason"],
        "max_absolute": max(parity, default=None),
        "metric": accuracy.get("metric"),
        "value": accuracy.get("value"),
        "p50_us": speeds[1]["p50_us"] if 1 in speeds else None,
        "rows_per_second_at_64": speeds[64]["rows_per_second"] if 64 in speeds else None,
        "size_bytes": footprint.get("size_bytes"),
    }


def selected_for(objective: str) -> str:
    """Return what the package that was selected for an objective is called."""
    return f"selected for {objective}"


def short(name: str) -> str:
    """Return the variant of "candidate/variant"."""
    return name.rpartition("/")[2]


def final(times: Mapping[tuple[str, int], Times], defaults: str) -> list[dict[str, Any]]:
    """Return the rows of the final comparison; ratios are to `defaults`, below 1 is faster."""
    rows = []
    for (name, batch), found in times.items():
        ratio, low, high = found.ratio(times[defaults, batch])
        p50 = found.percentile(50)
        rows.append(
            {
                "contestant": name,
                "batch": batch,
                "p50_us": p50 * 1e6,
                "p99_us": found.percentile(99) * 1e6,
                "rows_per_second": batch / p50,
                "ratio": ratio,
                "interval": [low, high],
            }
        )
    return rows


def missed(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the benchmark asks for and a case did not keep: a winner that is no slower than ONNX Runtime as it comes."""
    for row in result["final"]:
        for objective, batch in OBJECTIVES.items():
            judged = row["contestant"] == selected_for(objective) and row["batch"] == batch
            if judged and row["interval"][0] > _NOISE:
                winner = result["searches"][objective]["winner"]
                yield f"{result['case']}: {winner}, selected for {objective}, takes {row['ratio']:.2f} times as long as plain"


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print the two tables of a case."""
    console.print(f"\n[bold]{result['case']}[/bold]")
    for objective, found in result["searches"].items():
        console.print(f"for {objective}: {found['winner']} ({found['reason']}), in {found['seconds']:.1f} s")
    console.print(_variants(result))
    console.print(_final(result))
    if result["olive"] is not None:
        console.print(_olive(result["olive"]))


def _variants(result: Mapping[str, Any]) -> Table:
    table = Table("variant", "outcome", "parity", "metric", "p50 µs", "rows/s at 64", "KiB", "why", box=None)
    for row in result["variants"]:
        table.add_row(
            row["variant"],
            row["status"],
            _number(row["max_absolute"], ".1e"),
            _number(row["value"], ".4f"),
            _number(row["p50_us"], ",.1f"),
            _number(row["rows_per_second_at_64"], ",.0f"),
            _number(row["size_bytes"] / 1024 if row["size_bytes"] else None, ",.0f"),
            row["reason"],
        )
    return table


def _final(result: Mapping[str, Any]) -> Table:
    table = Table("contestant", "rows", "p50 µs", "p99 µs", "rows/s", "time, ONNX Runtime = 1 (95 %)", box=None)
    for row in sorted(result["final"], key=lambda row: row["batch"]):
        low, high = row["interval"]
        cells = (f"{row['p50_us']:,.1f}", f"{row['p99_us']:,.1f}", f"{row['rows_per_second']:,.0f}")
        table.add_row(row["contestant"], str(row["batch"]), *cells, f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})")
    return table


def _olive(found: Mapping[str, Any]) -> str:
    if found["pick"] is None:
        return f"Olive found nothing in {found['seconds']:.0f} s: {found.get('error') or found['attempts']}"
    pick = found["pick"]
    difference = _number(pick["max_absolute"], ".1e") or "unknown"
    return f"Olive searched {found['seconds']:.0f} s and picked: {', '.join(pick['passes'])}; parity {difference}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
