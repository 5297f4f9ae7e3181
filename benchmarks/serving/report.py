"""What follows from the turns: medians, ratios by round with their intervals, and what was asked of the server and met."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving.contestants import KSERVE, MLSERVER, MOSEC, TIDEGATE
from benchmarks.serving.rounds import Measured, Point, Turn
from tidegate.optimization.benchmark.timings import median_interval

_NUMBERS = ("requests_per_second", "p50_us", "p95_us", "p99_us", "cpu_us", "client_cpu")
_SHARE_OF_LIMIT = 0.70
_KSERVE_ONE_ROW, _KSERVE_MANY_ROWS, _KSERVE_GRPC = 7.0, 5.0, 2.0

Row = dict[str, Any]


def rows(case: str, measured: Measured) -> Iterator[Row]:
    """Yield one row a point: medians over rounds, and Tidegate's ratio to each peer by round: median, and its interval."""
    for point in dict.fromkeys(point for point, _ in measured.turns):
        turns = {name: seen for (at, name), seen in measured.turns.items() if at == point}
        yield {
            "case": case,
            "kind": point.load.kind,
            "rows": point.load.rows,
            "connections": point.connections,
            "contestants": {name: _medians(seen) for name, seen in turns.items()},
            "throughput": {
                name: _ratio(turns[TIDEGATE], seen, "requests_per_second") for name, seen in turns.items() if name != TIDEGATE
            },
            "p99": {name: _ratio(turns[TIDEGATE], seen, "p99_us") for name, seen in turns.items() if name != TIDEGATE},
            "share_of_limit": _share_of_limit(point, turns[TIDEGATE], measured.limit),
        }


def limits(measured: Measured) -> dict[str, dict[str, float]]:
    """Return what ONNX Runtime does in process by the rows of a call: microseconds a call, and rows a second."""
    return {
        str(count): {"call_us": float(np.median(seconds)) * 1e6, "rows_per_second": count / float(np.median(seconds))}
        for count, seconds in sorted(measured.limit.items())
    }


def asked(results: Sequence[Row]) -> list[Row]:
    """Return what is asked of the server: each with the least or greatest that was measured, where, and whether it is met."""
    found = [
        _asked("1 row JSON, requests/s against KServe", results, "json", 1, "throughput", KSERVE, least=_KSERVE_ONE_ROW),
        _asked("64 rows JSON, requests/s against KServe", results, "json", 64, "throughput", KSERVE, least=_KSERVE_MANY_ROWS),
        _asked("1 row gRPC, requests/s against KServe", results, "grpc", 1, "throughput", KSERVE, least=_KSERVE_GRPC),
        _asked("p99 against KServe", results, None, None, "p99", KSERVE, most=1.0),
        _asked("requests/s against MLServer", results, None, None, "throughput", MLSERVER, least=1.0),
        _asked("requests/s against mosec", results, None, None, "throughput", MOSEC, least=1.0),
        _asked_of_limit(results),
    ]
    return [one for one in found if one is not None]


def _asked(
    what: str,
    results: Sequence[Row],
    kind: str | None,
    rows_: int | None,
    ratio: str,
    peer: str,
    *,
    least: float | None = None,
    most: float | None = None,
) -> Row | None:
    """Return the point where a ratio is worst; it must keep its bound with its whole interval."""
    about = [row for row in results if peer in row[ratio] and kind in (None, row["kind"]) and rows_ in (None, row["rows"])]
    if not about:
        return None
    worst = (
        min(about, key=lambda row: row[ratio][peer][0])
        if least is not None
        else max(about, key=lambda row: row[ratio][peer][0])
    )
    met = [_keeps(row[ratio][peer], least, most) for row in about]
    return {
        "what": what,
        "bound": least if least is not None else most,
        "is_least": least is not None,
        "worst": worst[ratio][peer],
        "at": name_of(worst),
        "met": sum(met),
        "of": len(met),
    }


def _keeps(interval: Sequence[float], least: float | None, most: float | None) -> bool:
    _, low, high = interval
    return (least is None or low >= least) and (most is None or high <= most)


def _asked_of_limit(results: Sequence[Row]) -> Row | None:
    """Return the share of ONNX Runtime's rows/s in process, of the binary requests; one in flight waits for the wire mostly."""
    about = [row for row in results if row["kind"] == "binary" and row["connections"] > 1]
    if not about:
        return None
    worst = min(about, key=lambda row: row["share_of_limit"][0])
    met = [_keeps(row["share_of_limit"], _SHARE_OF_LIMIT, None) for row in about]
    what = "64 rows binary, share of ONNX Runtime's rows/s in process, 8 and 64 in flight"
    bound = {"bound": _SHARE_OF_LIMIT, "is_least": True}
    return {"what": what, **bound, "worst": worst["share_of_limit"], "at": name_of(worst), "met": sum(met), "of": len(met)}


def name_of(row: Row) -> str:
    """Return where a row was measured, in words."""
    return f"{row['case']}, {row['rows']} row{'s' * (row['rows'] > 1)} {row['kind']}, {row['connections']} in flight"


def show(measured: Mapping[str, Any], console: Console) -> None:
    """Print the comparison."""
    table = Table(
        "", "contestant", "requests/s", "tidegate ÷ (interval)", "p50 µs", "p99 µs", "p99 ÷ its", "CPU µs", "client", box=None
    )
    for row in measured["results"]:
        for number, (name, seen) in enumerate(row["contestants"].items()):
            table.add_row(
                name_of(row) if number == 0 else "",
                name,
                f"{seen['requests_per_second']:,.0f}",
                interval(row["throughput"][name]) if name != TIDEGATE else f"{row['share_of_limit'][0]:.0%} of limit",
                f"{seen['p50_us']:,.0f}",
                f"{seen['p99_us']:,.0f}",
                f"{row['p99'][name][0]:.2f}" if name != TIDEGATE else "",
                f"{seen['cpu_us']:,.1f}",
                f"{seen['client_cpu']:.0%}",
            )
    console.print(table)


def show_asked(one: Row, console: Console) -> None:
    """Print whether something that is asked was met."""
    word = "at least" if one["is_least"] else "at most"
    state = "[green]met[/green]" if one["met"] == one["of"] else f"[red]met {one['met']} of {one['of']}[/red]"
    console.print(f"{state}  {one['what']}: {word} {one['bound']:g}; worst {interval(one['worst'])} at {one['at']}")


def show_rows(found: Sequence[Row], console: Console) -> None:
    """Print rows of numbers."""
    names = list(dict.fromkeys(name for row in found for name in row))
    table = Table(*names, box=None)
    for row in found:
        table.add_row(*(f"{value:,.3g}" if isinstance(value, float) else str(value) for value in map(row.get, names)))
    console.print(table)


def interval(values: Sequence[float]) -> str:
    """Return a median with the ends of its interval."""
    median, low, high = values
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _medians(turns: Sequence[Turn]) -> Row:
    return {"client": turns[0]["client"]} | {name: float(np.median([turn[name] for turn in turns])) for name in _NUMBERS}


def _ratio(mine: Sequence[Turn], theirs: Sequence[Turn], what: str) -> tuple[float, float, float]:
    return median_interval(np.array([turn[what] for turn in mine]) / np.array([turn[what] for turn in theirs]))


def _share_of_limit(point: Point, turns: Sequence[Turn], limit: Mapping[int, Sequence[float]]) -> tuple[float, float, float]:
    """Return the share of ONNX Runtime's rows a second in process, with calls of the request's own rows."""
    return median_interval(np.array([turn["requests_per_second"] for turn in turns]) * np.array(limit[point.load.rows]))
