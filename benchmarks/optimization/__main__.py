"""Optimizes models of four kinds, and times what comes out beside the framework itself, ONNX Runtime as it comes, and Olive.

    python -m benchmarks.optimization [--case flights-trees …] [--rounds 21] [--olive PYTHON] [--json results.json]

For each case: the model is trained and packaged, `tidegate optimize` searches as a user runs it, once for the latency of a row
and once for throughput at 64 rows, and then these are timed in turn on the same rows: the framework's own predict, the plain
graph in ONNX Runtime with default options ("ONNX Runtime"), the baseline package, both selected packages, and Olive's pick of
the same plain graph, if PYTHON, an environment with olive-ai, is given. The exit status is 1 if a selected package is slower
than ONNX Runtime beyond noise at what it was selected for.
"""

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.optimization import report
from benchmarks.optimization.cases import CASES
from benchmarks.optimization.cases.case import GRAPH, PACKAGE, Case
from benchmarks.optimization.contestants import Contestant, Framework, Graph, Package, olive_options
from benchmarks.optimization.interleaved import time_in_turn
from benchmarks.optimization.searches import largest_difference, olive, optimize

BATCHES = (1, 64)
_AGREEMENT = 0.05  # the widest that the parity gate allows by default
DEFAULTS, OLIVE, AGREEING = "ONNX Runtime", "Olive's pick", "Olive's fastest that agrees"


def _main() -> int:
    options = _options()
    console = Console(width=150)
    results = []
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-") as folder:
            results.append(_measure(CASES[name], Path(folder), options))
        report.show(results[-1], console)
        if options.json is not None:  # after each case, since all of them take a while
            options.json.write_text(json.dumps({"machine": _machine(), "results": results}, indent=2) + "\n")
    missed = [reason for result in results for reason in report.missed(result)]
    for reason in missed:
        console.print(f"[red]missed[/red]  {reason}")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="only this one; may be given again")
    parser.add_argument("--rounds", type=int, default=21, help="of the final comparison")
    parser.add_argument("--olive", type=Path, metavar="PYTHON", help="the interpreter of an environment with olive-ai")
    parser.add_argument("--json", type=Path, help="also write the results there")
    return parser.parse_args()


def _measure(case: Case, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    case.prepare(folder)
    searches = {objective: optimize(case, folder, objective) for objective in report.OBJECTIVES}
    contestants: dict[str, Contestant] = {
        case.framework: Framework(case.name, folder),
        DEFAULTS: Graph(folder / GRAPH),
        "baseline": Package(folder / PACKAGE),
    }
    contestants |= {report.selected_for(objective): Package(search.winner) for objective, search in searches.items()}
    theirs: dict[str, Any] | None = None
    if options.olive is not None:
        theirs = olive(case, folder, options.olive)
        contestants |= _of_olive(theirs, folder)
    times = time_in_turn(contestants, folder, BATCHES, options.rounds)
    return {
        "case": case.name,
        "searches": {
            objective: {
                "winner": report.short(search.selection["winner"]),
                "reason": search.selection["reason"],
                "seconds": search.seconds,
            }
            for objective, search in searches.items()
        },
        "variants": [report.variant(row) for row in searches["latency"].selection["rows"]],
        "olive": theirs,
        "final": report.final(times, DEFAULTS),
    }


def _of_olive(found: dict[str, Any], folder: Path) -> dict[str, Contestant]:
    """Return Olive's pick and, if that does not agree with the model, its fastest that does; note how far each is off."""
    graphs: dict[str, Contestant] = {}
    for attempt in sorted(found["attempts"], key=lambda attempt: attempt.get("latency_ms", float("inf"))):
        if "model" not in attempt:
            continue
        file = Path(attempt.pop("model"))
        attempt["max_absolute"] = largest_difference(file, folder)
        name = OLIVE if not graphs else AGREEING
        if not graphs or (AGREEING not in graphs and not _agrees(found["pick"]) and _agrees(attempt)):
            if name == OLIVE:
                found["pick"] = dict(attempt)
            graphs[name] = Graph(file, olive_options(attempt["session"]))
            attempt["timed as"] = name
    return graphs


def _agrees(attempt: dict[str, Any]) -> bool:
    difference = attempt.get("max_absolute")
    return difference is not None and difference <= _AGREEMENT


def _machine() -> dict[str, Any]:
    import onnxruntime as ort

    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }


if __name__ == "__main__":
    raise SystemExit(_main())
