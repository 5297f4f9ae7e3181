"""Writes the tables of a results file into the page that explains them, between its two marks.

python -m benchmarks.serving.markdown docs/benchmarks/serving.json docs/benchmarks/serving.md
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.serving.contestants import KSERVE, MLSERVER, MOSEC, TIDEGATE

BEGIN, END = "<!-- results: written by benchmarks.serving.markdown -->", "<!-- end of results -->"
_PEERS = (KSERVE, MLSERVER, MOSEC)
_FEWEST_ROUNDS = 5

Results = Mapping[str, Any]


def page_with(results: Results, page: str) -> str:
    """Return the page with the results between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks its marks, {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}"


def tables(results: Results) -> str:
    """Return what was measured, as Markdown."""
    return "\n\n".join(part for section in _SECTIONS if section[0] in results for part in section[1](results[section[0]]))


def _comparison(compare: Results) -> Iterator[str]:
    machine = compare["machine"]
    if compare["rounds"] < _FEWEST_ROUNDS:
        yield f"**Preliminary: {compare['rounds']} round{'s' * (compare['rounds'] > 1)} on a machine that others used.**"
    cores = (
        f"the servers on core {machine['server_core']}, the client on core {machine['client_core']}"
        if machine["server_core"] != machine["client_core"]
        else "servers and client on the machine's one core"
    )
    yield (
        f"{compare['rounds']} rounds, {compare['seconds']} s a turn; {machine['cores']} cores, {cores}; "
        f"Python {machine['python']}. " + "; ".join(f"{name}: {version}" for name, version in compare["versions"].items()) + "."
    )
    yield "### What was asked"
    yield _asked(compare["asked"])
    for case in dict.fromkeys(row["case"] for row in compare["results"]):
        yield f"### {case}"
        yield _limit(compare["limit"][case])
        yield _case([row for row in compare["results"] if row["case"] == case])


def _asked(asked: Sequence[Results]) -> str:
    header = ["", "bound", "kept", "worst (interval)", "where"]
    return _table(
        header,
        (
            [
                one["what"],
                f"{'≥' if one['is_least'] else '≤'} {one['bound']:g}",
                f"{one['met']} of {one['of']}",
                _interval(one["worst"]),
                one["at"],
            ]
            for one in asked
        ),
    )


def _limit(limit: Results) -> str:
    known = "; ".join(
        f"{rows} row{'s' * (rows != '1')} {seen['call_us']:,.1f} µs, {seen['rows_per_second']:,.0f} rows/s"
        for rows, seen in limit.items()
    )
    return f"ONNX Runtime in process, one thread: {known}."


def _case(rows: Sequence[Results]) -> str:
    header = [
        "",
        "in flight",
        "requests/s",
        *(f"÷ {peer}" for peer in _PEERS),
        "p99, ms",
        "p99 ÷ kserve's",
        "CPU µs",
        "of the limit",
    ]
    return _table(header, (_row(row) for row in rows))


def _row(row: Results) -> list[str]:
    own = row["contestants"][TIDEGATE]
    return [
        f"{row['rows']} row{'s' * (row['rows'] > 1)}, {row['kind']}",
        str(row["connections"]),
        f"{own['requests_per_second']:,.0f}",
        *(_interval(row["throughput"].get(peer)) for peer in _PEERS),
        f"{own['p99_us'] / 1e3:,.2f}",
        _interval(row["p99"].get(KSERVE)),
        f"{own['cpu_us']:,.1f}",
        f"{row['share_of_limit'][0]:.0%}",
    ]


def _profile(profile: Results) -> Iterator[str]:
    yield "### Where every microsecond goes"
    yield (
        f"One row of JSON for the trees, {profile['connections']} in flight, of which {profile['requests_joined']:.1f} were "
        "joined to a run of the graph: µs of processor time a request. The same client got "
        f"{profile['requests_per_second']['null']:,.0f} requests/s out of the server of ready bytes, and "
        f"{profile['requests_per_second']['with-log']:,.0f} out of Tidegate."
    )
    whole = profile["server_us"]
    parts = [[part, f"{cost:.2f}", f"{cost / whole:.1%}"] for part, cost in profile["parts_us"].items()]
    sums = [["**sum**", f"{profile['sum_us']:.2f}", f"{profile['sum_us'] / whole:.1%}"]]
    servers = [
        ["**the server under load**", f"{whole:.2f}", "100 %"],
        ["without its log", f"{profile['server_without_log_us']:.2f}", ""],
    ]
    yield _table(["", "µs", "share"], [*parts, *sums, *servers])
    yield _asked(profile["asked"])


def _startup(startup: Results) -> Iterator[str]:
    yield "### Start and memory"
    header = ["", "ready after, s", "MB when ready", "MB after load"]
    yield _table(
        header,
        (
            [
                row["server"],
                f"{row['ready_seconds']:.2f}",
                f"{row['ready_mb']:.0f}",
                f"{row['loaded_mb']:.0f}" if "loaded_mb" in row else "",
            ]
            for row in startup["summary"]
        ),
    )
    if startup["asked"]:
        yield _asked(startup["asked"])


def _batching(batching: Results) -> Iterator[str]:
    yield "### What batching gains"
    rows = (
        [name, f"{seen['requests_per_second']:,.0f}", f"{seen['p99_us'] / 1e3:,.2f}"]
        for name, seen in batching["configurations"].items()
    )
    yield (
        f"{batching['case']}, one row of JSON, {batching['connections']} in flight: {_interval(batching['gain'])} times the "
        "throughput."
    )
    yield _table(["requests are run", "requests/s", "p99, ms"], rows)


def _swap(swap: Results) -> Iterator[str]:
    yield "### What a swap costs"
    yield (
        f"{swap['swaps']} loads of another version under load, {swap['connections']} in flight: a load took "
        f"{swap['load_seconds']:.2f} s (median), requests/s with swaps {_interval(swap['throughput'])} of those without, p99 "
        f"{swap['p99_ms_with']:.2f} against {swap['p99_ms_without']:.2f} ms; no request failed."
    )


def _soak(soak: Results) -> Iterator[str]:
    yield "### Memory over a million requests"
    yield (
        f"{soak['requests']:,} requests of all kinds in turn: {soak['samples'][0][1]:.0f} MB after the first second, "
        f"{soak['samples'][-1][1]:.0f} MB at the end; {_interval(soak['mb_per_million'])} MB in a million requests, after the "
        "first quarter."
    )


_SECTIONS = (
    ("compare", _comparison),
    ("profile", _profile),
    ("startup", _startup),
    ("batching", _batching),
    ("swap", _swap),
    ("soak", _soak),
)


def _interval(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    median, low, high = values
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def _main() -> None:
    file, page = map(Path, sys.argv[1:])
    page.write_text(page_with(msgspec.json.decode(file.read_bytes()), page.read_text()))


if __name__ == "__main__":
    _main()
