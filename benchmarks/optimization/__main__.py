"""Times flights-like trees and an MLP: scikit-learn itself, skl2onnx and ONNX Runtime as they come, and every variant.

    python -m benchmarks.optimization [--rows 20000] [--rounds 15] [--json results.json]

Interleaved: in each round every contestant makes its calls in turn, in an order that rotates. `as it comes` is what a user gets
from `convert_sklearn(model, initial_types=…)` and `InferenceSession(graph)`: label and a list of dicts, a thread a core.
All others, scikit-learn too, have one thread. Times are of one call; ratios are of round medians to scikit-learn's own
`predict_proba`, with a 95 % interval over rounds.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tidegate.optimization.benchmark import median_interval
from tidegate.optimization.build import build_variant_of
from tidegate.optimization.parity import measure_parity
from tidegate.optimization.records import PACKAGE_FOLDER
from tidegate.optimization.variants import VARIANT_NAMES
from tidegate.packaging.golden import read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.packager import Examples, PackageSettings, package_model

BATCHES = (1, 64, 1024)
TEXTS = {"carrier": 16, "origin": 3, "dest": 100, "engine": 6}
NUMBERS = [f"number_{index:02d}" for index in range(30)]
Call = Callable[[int], object]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="rows to train on")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args()
    table = _flights_like(options.rows)
    results = []
    for name, model in _candidates().items():
        model.fit(_frame_of(table), table["late"].to_numpy())
        with tempfile.TemporaryDirectory() as folder:
            results += _measure(name, _contestants(name, model, table, Path(folder)), options.rounds)
    _show(results)
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": _machine(), "rows": options.rows, "results": results}, indent=2) + "\n")


def _flights_like(rows: int) -> pa.Table:
    """Seeded rows shaped like the flights example's: four texts, thirty floats of which some are missing, and a label."""
    rng = np.random.default_rng(2013)
    numbers = rng.normal(size=(len(NUMBERS), rows)).astype(np.float32)
    columns: dict[str, Any] = {
        name: np.char.add(name[:2], rng.integers(0, count, rows).astype(str)) for name, count in TEXTS.items()
    }
    columns |= {name: pa.array(values, mask=rng.random(rows) < 0.02) for name, values in zip(NUMBERS, numbers, strict=True)}
    logit = numbers[0] + numbers[1] * numbers[2] - 0.5 * numbers[3] + (np.asarray(columns["carrier"]) == "ca3") - 1
    return pa.table(columns | {"late": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)})


def _candidates() -> dict[str, Pipeline]:
    texts = list(TEXTS)
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    onehot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    return {
        "trees": make_pipeline(
            ColumnTransformer([("numbers", "passthrough", NUMBERS), ("texts", ordinal, texts)]),
            HistGradientBoostingClassifier(max_iter=100, min_samples_leaf=100, early_stopping=False, random_state=0),
        ),
        "mlp": make_pipeline(
            ColumnTransformer([("numbers", scaled, NUMBERS), ("texts", onehot, texts)]),
            MLPClassifier((64, 32), max_iter=8, random_state=0),
        ),
        "wide-mlp": make_pipeline(
            ColumnTransformer([("numbers", scaled, NUMBERS), ("texts", onehot, texts)]),
            MLPClassifier((512, 512), max_iter=2, random_state=0),
        ),
    }


def _frame_of(table: pa.Table) -> pd.DataFrame:
    return pd.DataFrame(training_arrays(table, [*TEXTS, *NUMBERS]))


def _contestants(name: str, model: Pipeline, table: pa.Table, folder: Path) -> dict[str, tuple[Call, float | None]]:
    """Return each contestant's call for a batch size, and its largest difference to scikit-learn on the golden sample."""
    frame = _frame_of(table)
    arrays = {column: frame[[column]].to_numpy() for column in frame.columns}
    frames = {batch: frame.head(batch) for batch in BATCHES}
    feeds = {batch: {column: array[:batch] for column, array in arrays.items()} for batch in BATCHES}
    found: dict[str, tuple[Call, float | None]] = {"scikit-learn": (lambda batch: model.predict_proba(frames[batch]), None)}

    types = [
        (column, StringTensorType([None, 1]) if column in TEXTS else FloatTensorType([None, 1])) for column in frame.columns
    ]
    plain = ort.InferenceSession(convert_sklearn(model, initial_types=types).SerializeToString())
    found["onnxruntime as it comes"] = (lambda batch: plain.run(None, feeds[batch]), None)

    baseline = folder / "baseline"
    settings = PackageSettings(name="flights", request_inputs=tuple(frame.columns))
    examples = Examples(training=table, reference=table.slice(0, 2_000), label_column="late")
    package_model(model, candidate=name, examples=examples, settings=settings, out=baseline)
    golden = read_golden(baseline / "golden.npz")

    def add(variant: str, package: Path) -> None:
        opened = PackageModel(package)
        found[variant] = (
            lambda batch: opened.session.run(["probability"], feeds[batch]),
            measure_parity(opened, golden).max_absolute,
        )

    add("baseline", baseline)
    for variant in VARIANT_NAMES:
        outcome = build_variant_of(baseline, f"{name}/{variant}", folder / variant)
        if outcome.built:
            add(variant, folder / variant / PACKAGE_FOLDER)
        else:
            print(f"{outcome.name}: {outcome.status}: {outcome.reason}")
    return found


def _measure(model: str, contestants: dict[str, tuple[Call, float | None]], rounds: int) -> list[dict[str, Any]]:
    names = list(contestants)
    calls = {name: 5 if name == "scikit-learn" else 40 for name in names}
    seconds: dict[tuple[str, int], list[np.ndarray]] = {(name, batch): [] for name in names for batch in BATCHES}
    for name in names:
        for batch in BATCHES:
            contestants[name][0](batch)
    for turn in range(rounds):
        shift = turn % len(names)
        for batch in BATCHES:
            for name in names[shift:] + names[:shift]:
                seconds[name, batch].append(_time_calls(contestants[name][0], batch, calls[name]))
    return [
        _row(model, name, batch, np.array(seconds[name, batch]), np.array(seconds["scikit-learn", batch]), contestants[name][1])
        for batch in BATCHES
        for name in names
    ]


def _time_calls(call: Call, batch: int, count: int) -> np.ndarray:
    taken = np.empty(count)
    for index in range(count):
        start = time.perf_counter()
        call(batch)
        taken[index] = time.perf_counter() - start
    return taken


def _row(
    model: str, name: str, batch: int, seconds: np.ndarray, reference: np.ndarray, difference: float | None
) -> dict[str, Any]:
    speedup, low, high = median_interval(np.median(reference, axis=1) / np.median(seconds, axis=1))
    p50, p99 = np.percentile(seconds, [50, 99])
    return {
        "model": model,
        "contestant": name,
        "batch": batch,
        "p50_us": p50 * 1e6,
        "p99_us": p99 * 1e6,
        "rows_per_second": batch / p50,
        "times_faster_than_scikit_learn": speedup,
        "interval": [low, high],
        "max_absolute_difference": difference,
    }


def _show(results: list[dict[str, Any]]) -> None:
    table = Table("model", "contestant", "batch", "p50 µs", "p99 µs", "rows/s", "× scikit-learn (95 %)", "parity", box=None)  # noqa: RUF001
    for entry in results:
        low, high = entry["interval"]
        difference = entry["max_absolute_difference"]
        table.add_row(
            entry["model"],
            entry["contestant"],
            str(entry["batch"]),
            f"{entry['p50_us']:,.0f}",
            f"{entry['p99_us']:,.0f}",
            f"{entry['rows_per_second']:,.0f}",
            f"{entry['times_faster_than_scikit_learn']:.1f} ({low:.1f} to {high:.1f})",
            "" if difference is None else f"{difference:.1e}",
        )
    Console(width=128).print(table)


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
    }


if __name__ == "__main__":
    with threadpool_limits(1):
        _main()
