"""Measures the model server beside KServe's Python server, MLServer, mosec and the limit, ONNX Runtime in process.

    python -m benchmarks.serving [PART] [--mlserver PYTHON] [--mosec PYTHON] [--rounds 5] [--seconds 1] [--json results.json]

PART is `all`, or one of: `compare` (the servers side by side), `profile` (where every microsecond goes), `startup`,
`batching`, `swap`; or `soak`, which is no part of `all`. PYTHON is the interpreter of an environment that holds a peer; that
of KServe's SDK is Tidegate's own. What is measured replaces its part of the results file, and leaves the others. `--quick` has
one round, to try it out.
The exit status is 1 if something is not as it is asked of the server.
"""

import argparse
import json
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.serving import batching, contestants, models, profile, report, rounds, soak, startup, swapping
from benchmarks.serving.models import Case
from benchmarks.serving.requests import Load
from benchmarks.serving.rounds import Measured, Plan, Point

PARTS = ("compare", "profile", "startup", "batching", "swap")
_TENSOR_POINTS = (Point(Load("json", 1), 8), Point(Load("json", 64), 8))  # what another way to send the trees' rows changes


def _main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that its servers end with it
    options = _options()
    console = Console(width=160)
    parts = PARTS if options.part == "all" else (options.part,)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        measured = _measure(parts, options, Path(folder), console)
    if options.json is not None:
        before = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**before, **measured}, indent=1) + "\n")
    asked = [one for part in measured.values() if isinstance(part, dict) for one in part.get("asked", ())]
    for one in asked:
        report.show_asked(one, console)
    return 0 if all(one["met"] == one["of"] for one in asked) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=["all", *PARTS, "soak"])
    parser.add_argument("--mlserver", type=Path, metavar="PYTHON", help="the interpreter of an environment with mlserver")
    parser.add_argument("--mosec", type=Path, metavar="PYTHON", help="the interpreter of an environment with mosec and msgspec")
    parser.add_argument("--rounds", type=int, default=5, help="from 6 on intervals are exact, see the page")
    parser.add_argument("--seconds", type=int, default=1, help="of a turn")
    parser.add_argument("--model", action="append", choices=models.NAMES, help="only this one; may be given again")
    parser.add_argument("--quick", action="store_true", help="one round; no result to rely on")
    parser.add_argument("--workspace", type=Path, default=Path(".tidegate"), help="where the demo's flights are")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the soak")
    parser.add_argument("--json", type=Path, help="also write the results there")
    return parser.parse_args()


def _measure(parts: tuple[str, ...], options: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    found, versions = contestants.contestants(options.mlserver, options.mosec)
    for name, version in versions.items():
        console.print(f"{name}: {version}")
    measured: dict[str, Any] = {}
    rounds_ = 1 if options.quick else options.rounds
    cases = _Cases(folder / "models")
    if "compare" in parts:
        names = tuple(options.model or models.NAMES)
        plan = Plan({name: _points(name) for name in names}, rounds_, options.seconds)
        seen: dict[str, Measured] = {}
        for name in names:
            seen[name] = rounds.measure(cases[name], found, plan, folder / "compare", console.print)
        measured["compare"] = _compared(seen, versions, plan)
        report.show(measured["compare"], console)
    if "profile" in parts:
        measured["profile"] = profile.measure(cases["trees"], rounds_, options.seconds, folder / "profile")
        profile.show(measured["profile"], console)
    if "startup" in parts:
        starts = startup.measure(cases["trees"], found, options.workspace, folder / "startup")
        measured["startup"] = {"starts": starts, "summary": startup.summary(starts), "asked": startup.asked(starts)}
        report.show_rows(measured["startup"]["summary"], console)
    if "batching" in parts:
        measured["batching"] = batching.measure(cases["cnn"], rounds_, options.seconds, folder / "batching")
        console.print(measured["batching"])
    if "swap" in parts:
        successor = models.build_successor(folder / "models")
        measured["swap"] = swapping.measure(cases["trees"], successor, rounds_, options.seconds, folder / "swap")
        console.print(measured["swap"])
    if "soak" in parts:
        soaked = soak.measure(cases["trees"], found[0], options.requests, folder / "soak", console.print)
        measured["soak"] = soaked | {"asked": soak.asked(soaked)}
        console.print(f"{report.interval(soaked['mb_per_million'])} MB in a million requests")
    return measured


def _points(name: str) -> tuple[Point, ...]:
    return _TENSOR_POINTS if name == "trees-tensor" else tuple(rounds.every_point())


def _compared(seen: dict[str, Measured], versions: dict[str, str], plan: Plan) -> dict[str, Any]:
    results = [row for name, one in seen.items() for row in report.rows(name, one)]
    return {
        "machine": rounds.machine() | {"python": platform.python_version()},
        "versions": versions,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "limit": {name: report.limits(one) for name, one in seen.items()},
        "servers": {name: one.servers for name, one in seen.items()},
        "results": results,
        "asked": report.asked(results),
    }


class _Cases:
    """The models, each built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[str, Case] = {}

    def __getitem__(self, name: str) -> Case:
        if name not in self._built:
            self._built[name] = models.build(name, self._folder)
        return self._built[name]


if __name__ == "__main__":
    raise SystemExit(_main())
