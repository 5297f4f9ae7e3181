"""The two searches for the best form of a model: `tidegate optimize`, and Olive's."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.optimization.cases.case import GRAPH, HOLDOUT, PACKAGE, ROWS, Case

_OPTIMIZE_SECONDS, _OLIVE_SECONDS = 900, 900
_OLIVE = Path(__file__).with_name("olive_search.py")


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found, how long it took, and the winning package."""

    selection: dict[str, Any]
    seconds: float
    winner: Path


def optimize(case: Case, folder: Path, objective: str) -> Search:
    """Run `tidegate optimize` on a prepared case, as a user does, for an objective."""
    labelled = ["--label-column", case.label_column] if case.label_column else []
    found = folder / f"optimized-for-{objective}"
    command = [sys.executable, "-m", "tidegate", "optimize", str(folder / PACKAGE), "--data", str(folder / HOLDOUT)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, *labelled, "--objective", objective, "--out", str(found), "--json"],
        capture_output=True,
        text=True,
        timeout=_OPTIMIZE_SECONDS,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{case.name}: tidegate optimize failed: {done.stderr.strip()[-500:]}")
    selection = json.loads(done.stdout)
    return Search(selection, seconds, Path(selection["package"]))


def olive(case: Case, folder: Path, python: Path) -> dict[str, Any]:
    """Let Olive search on the case's plain graph; return its `pick.json` with `seconds`, or what went wrong as `error`."""
    out = folder / "olive"
    out.mkdir(exist_ok=True)
    bert = ["--bert", *map(str, case.bert)] if case.bert else []
    command = [str(python), str(_OLIVE), str(folder / GRAPH), str(folder / ROWS), str(out), *bert]
    environment = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_OLIVE_SECONDS, check=False, env=environment, cwd=out
    )
    seconds = time.perf_counter() - started
    try:
        return json.loads((out / "pick.json").read_text()) | {"seconds": seconds}
    except FileNotFoundError:
        return {"pick": None, "attempts": [], "error": " ".join(done.stderr.split())[-300:], "seconds": seconds}


def largest_difference(graph: Path, folder: Path) -> float | None:
    """Return how far a graph's answers to the golden sample lie from the source model's; None if it does not take them."""
    import onnxruntime as ort

    from tidegate.packaging.format.golden import read_golden
    from tidegate.packaging.format.manifest import GOLDEN_NAME

    golden = read_golden(folder / PACKAGE / GOLDEN_NAME)
    try:
        session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        found = dict(zip([output.name for output in session.get_outputs()], session.run(None, golden.inputs), strict=True))
    except Exception:  # a graph that refuses the sample agrees with nothing
        return None
    return max(float(np.abs(found[name] - expected).max()) for name, expected in golden.outputs.items() if name in found)
