"""Fixtures: flights-like rows with text, integers, floats and missing values, and source models of many kinds on them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.packager import Examples

TEXTS, NUMBERS = ["carrier", "origin"], ["distance", "hour", "temp"]
INPUTS = (*TEXTS, *NUMBERS)


@pytest.fixture(scope="session")
def rows() -> pa.Table:
    """2,000 seeded rows; `distance` is an integer, `temp` and `carrier` are sometimes missing."""
    rng = np.random.default_rng(3)
    n = 2_000
    hour = rng.uniform(5, 23, n).astype(np.float32)
    temp = rng.normal(10, 9, n).astype(np.float32)
    carrier = rng.choice(["AA", "DL", "UA", "WN", "B6"], n)
    logit = (hour - 14) / 4 - (temp - 10) / 20 + np.isin(carrier, ["UA", "AA"]) * 1.0
    return pa.table(
        {
            "carrier": pa.array(carrier, mask=rng.random(n) < 0.02),
            "origin": rng.choice(["EWR", "JFK", "LGA"], n),
            "distance": rng.integers(200, 2500, n),
            "hour": hour,
            "temp": pa.array(temp, mask=rng.random(n) < 0.05),
            "late": (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        }
    )


@pytest.fixture(scope="session")
def examples(rows: pa.Table) -> Examples:
    return Examples(training=rows.slice(0, 1_500), reference=rows.slice(1_500), label_column="late")


def _encoded(numbers: Any, final: Any, *, ordinal: bool = False) -> Pipeline:
    encoder = (
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        if ordinal
        else OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    )
    return make_pipeline(ColumnTransformer([("texts", encoder, TEXTS), ("numbers", numbers, NUMBERS)]), final)


def _scaled() -> Pipeline:
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler())


MODELS: dict[str, Callable[[], Any]] = {
    "regression": lambda: _encoded(_scaled(), LogisticRegression()),
    "mlp": lambda: _encoded(_scaled(), MLPClassifier((16, 8), max_iter=30, random_state=0)),
    "boosted-onehot": lambda: _encoded("passthrough", HistGradientBoostingClassifier(max_iter=30)),
    "boosted-ordinal": lambda: _encoded("passthrough", HistGradientBoostingClassifier(max_iter=30), ordinal=True),
    "forest": lambda: _encoded(_scaled(), RandomForestClassifier(20, max_depth=6, random_state=0)),
    "gradient-boosting": lambda: _encoded(_scaled(), GradientBoostingClassifier(n_estimators=20)),
    "boosted-categorical": lambda: _encoded(
        "passthrough", HistGradientBoostingClassifier(max_iter=30, categorical_features=[0, 1]), ordinal=True
    ),
}


@pytest.fixture(scope="session")
def fitted(examples: Examples) -> Callable[[str], Any]:
    """Return the fitted model called …"""
    cache: dict[str, Any] = {}

    def fit(name: str) -> Any:
        if name not in cache:
            frame = pd.DataFrame(training_arrays(examples.training, INPUTS))
            with threadpool_limits(1):  # OpenMP threads that wait for a busy core cost more than they bring
                cache[name] = MODELS[name]().fit(frame, examples.training["late"].to_numpy())
        return cache[name]

    return fit
