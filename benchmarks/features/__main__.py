"""Point-in-time joins and online lookups on the flights, side by side with Feast's own stores and with raw DuckDB.

    python -m benchmarks.features [--data DIR] [--only join|lookup] [--json OUT]

Lookups from Redis need `redis-server` on the path; one is started on a free port, without persistence.
Every measurement runs in a process of its own, within a time and a memory limit; what exceeds one is reported as such.
Ratios are to Tidegate's figure of the same task. The data is collected first unless `--data` names it.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

LIMIT_SECONDS = 180
LIMIT_MIB = 6 * 1024
ALL = 1_000_000
JOINS = [
    *((name, rows) for rows in (5_000, 20_000) for name in ("tidegate", "duckdb-sql", "feast-duckdb", "feast-dask")),
    *((name, ALL) for name in ("tidegate", "tidegate-repository", "duckdb-sql")),
]
LOOKUPS = [
    (name, rows)
    for rows in (1, 32, 256)
    for name in (
        "tidegate-reader",
        "tidegate-reader-redis",
        "feast-packed",
        "feast-sqlite",
        "feast-packed-redis",
        "feast-redis",
    )
]


def measure(task: str, name: str, rows: int, service: str, data: Path) -> dict[str, Any]:
    """Run one contestant in its own process and return its numbers, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.features.contestants", task, name]
    command += ["--rows", str(rows), "--service", service, "--data", str(data)]
    identity = {"task": task, "contestant": name, "rows": rows, "service": service}
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | {"TMPDIR": scratch})
        start, stopped = time.monotonic(), ""
        while process.poll() is None:
            if time.monotonic() - start > LIMIT_SECONDS:
                stopped = f"over {LIMIT_SECONDS} s"
            elif _resident_mib(process.pid) > LIMIT_MIB:
                stopped = f"over {LIMIT_MIB // 1024} GiB"
            if stopped:
                process.kill()
                process.wait()
                return identity | {"stopped": stopped}
            time.sleep(0.02)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            return identity | {"stopped": f"failed: {err.read().strip().splitlines()[-1]}"}
        return identity | json.loads(out.read().strip().splitlines()[-1])


@contextmanager
def redis_server(folder: Path) -> Iterator[None]:
    """Run a Redis whose address the contestants find in TIDEGATE_BENCHMARK_REDIS; without the program there is none."""
    program = shutil.which("redis-server")
    if program is None:
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    os.environ["TIDEGATE_BENCHMARK_REDIS"] = f"127.0.0.1:{port}"
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def join_table(results: list[dict[str, Any]]) -> Table:
    """Return the table of the joins; the time is the best of the runs, and the peak includes the libraries."""
    table = Table("contestant", "rows in", "rows out", "seconds", "ratio", "peak MiB", "ratio", title="Point-in-time join")
    ours = {row["rows"]: row for row in results if row["contestant"] == "tidegate"}
    for row in results:
        if "stopped" in row:
            table.add_row(row["contestant"], f"{row['rows']:,}", row["stopped"])
            continue
        best, peak, own = min(row["seconds"]), row["mib_peak"], ours[row["rows"]]
        time_ratio = _ratio(best, own, min(own.get("seconds", [0])))
        counts = (f"{row['rows_in']:,}", f"{row['rows_out']:,}")
        peak_ratio = _ratio(peak, own, own.get("mib_peak", 0))
        table.add_row(row["contestant"], *counts, f"{best:.2f}", time_ratio, f"{peak:,.0f}", peak_ratio)
    return table


def lookup_table(results: list[dict[str, Any]]) -> Table:
    """Return the table of the lookups."""
    table = Table("contestant", "rows", "p50 ms", "ratio", "p99 ms", title="Online lookup")
    ours = {row["rows"]: row for row in results if row["contestant"] == "tidegate-reader"}
    for row in results:
        if "stopped" in row:
            table.add_row(row["contestant"], str(row["rows"]), row["stopped"])
            continue
        own = ours[row["rows"]]
        ratio = _ratio(row["p50_ms"], own, own.get("p50_ms", 0))
        table.add_row(row["contestant"], str(row["rows"]), f"{row['p50_ms']:.3f}", ratio, f"{row['p99_ms']:.3f}")
    return table


def _ratio(value: float, own: dict[str, Any], base: float) -> str:
    return "-" if "stopped" in own or not base else f"{value / base:.2f}"


def main() -> None:
    """Measure everything, print the tables, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder written by examples.flights.collect; collected if not given")
    parser.add_argument("--only", choices=["join", "lookup"], help="measure nothing else")
    parser.add_argument("--service", default="flights_late_v1")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every number there")
    options = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch)
        if options.data is None:
            subprocess.run([sys.executable, "-m", "examples.flights.collect", "--out", scratch], check=True, stdout=sys.stderr)
        results = []
        tasks = [*(("join", *join) for join in JOINS), *(("lookup", *lookup) for lookup in LOOKUPS)]
        with redis_server(Path(scratch)):
            for task, name, rows in tasks:
                if options.only in (None, task):
                    console.print(f"[dim]{task} {name} {rows:,}[/dim]")
                    results.append(measure(task, name, rows, options.service, data))
    for task, table in (("join", join_table), ("lookup", lookup_table)):
        if options.only in (None, task):
            console.print(table([row for row in results if row["task"] == task]))
    if options.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
