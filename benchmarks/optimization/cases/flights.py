"""The flights example's two models, on seeded rows that are shaped like its own."""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.optimization.cases.case import Feeds, Own, write_case
from examples.flights.train import train
from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.sources.opening import open_source
from tidegate.training.contract import TrainingData

_TEXTS = {"carrier": 16, "origin": 3, "dest": 100, "engine": 6}
_NUMBERS = [f"number_{index:02d}" for index in range(30)]
_ROWS, _HOLDOUT = 20_000, 4_000
_MODEL = "model.joblib"


class Flights:
    """Gradient-boosted trees or a network with one hidden layer of 32, each behind its preprocessing."""

    framework = "scikit-learn"
    label_column = "late"
    bert = None

    def __init__(self, candidate: str) -> None:
        """Take the candidate "trees" or "mlp"."""
        self.name, self._candidate = f"flights-{candidate}", candidate

    def prepare(self, folder: Path) -> None:
        """Train as the example does."""
        table = _flights_like(_ROWS + _HOLDOUT)
        training, holdout = table.slice(0, _ROWS), table.slice(_ROWS)
        frame = pd.DataFrame(training_arrays(training, [*_TEXTS, *_NUMBERS]))
        data = TrainingData(inputs=frame, label=training["late"].to_numpy().astype(np.int64), parameters={}, seed=0)
        joblib.dump(train(data)[self._candidate], folder / _MODEL)
        write_case(folder, open_source(folder / _MODEL), training, holdout, "late")

    def own(self, folder: Path) -> Own:
        """Call `predict_proba` on a frame."""
        model = joblib.load(folder / _MODEL)

        def ready(feeds: Feeds) -> Any:
            frame = pd.DataFrame({name: array.reshape(-1) for name, array in feeds.items()})[list(model.feature_names_in_)]
            return lambda: model.predict_proba(frame)

        return ready


def _flights_like(rows: int) -> pa.Table:
    """Seeded rows: four texts, thirty floats of which some are missing, and a label that depends on a few of them."""
    rng = np.random.default_rng(2013)
    numbers = rng.normal(size=(len(_NUMBERS), rows)).astype(np.float32)
    columns: dict[str, Any] = {
        name: np.char.add(name[:2], rng.integers(0, count, rows).astype(str)) for name, count in _TEXTS.items()
    }
    columns |= {name: pa.array(values, mask=rng.random(rows) < 0.02) for name, values in zip(_NUMBERS, numbers, strict=True)}
    logit = numbers[0] + numbers[1] * numbers[2] - 0.5 * numbers[3] + (np.asarray(columns["carrier"]) == "ca3") - 1
    return pa.table(columns | {"late": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)})
