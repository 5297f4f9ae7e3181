"""Fixtures: two candidates' baseline packages, an MLP that has dense layers and trees that have none, and their holdout."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.opening import wrap_model
from tidegate.project import AccuracyGate, BenchmarkGate, GatesSection

INPUTS = ("carrier", "origin", "distance", "hour", "weather__temp", "route__delay")
TEXTS, NUMBERS = list(INPUTS[:2]), list(INPUTS[2:])


@dataclass(frozen=True)
class Candidates:
    packages: Path
    holdout: pa.Table


@pytest.fixture(scope="session")
def candidates(tmp_path_factory: pytest.TempPathFactory, tiny_examples: pa.Table) -> Candidates:
    """`mlp` and `trees`."""
    folder = tmp_path_factory.mktemp("candidates")
    training, holdout = tiny_examples.slice(0, 900), tiny_examples.slice(900)
    frame = pd.DataFrame(training_arrays(training, INPUTS))
    labels = training["label"].to_numpy()
    onehot, scaled = OneHotEncoder(handle_unknown="ignore"), make_pipeline(SimpleImputer(), StandardScaler())
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    models = {
        "mlp": make_pipeline(
            ColumnTransformer([("t", onehot, TEXTS), ("n", scaled, NUMBERS)]),
            MLPClassifier((32, 16), max_iter=200, random_state=0, early_stopping=True),
        ),
        "trees": make_pipeline(
            ColumnTransformer([("t", ordinal, TEXTS), ("n", "passthrough", NUMBERS)]),
            HistGradientBoostingClassifier(max_iter=30, random_state=0),
        ),
    }
    for name, model in models.items():
        with threadpool_limits(1):  # OpenMP threads that wait for a busy core cost more than they bring
            model.fit(frame, labels)
        package_model(
            wrap_model(model, name),
            candidate=name,
            examples=Examples(training=training, reference=holdout, label_column="label"),
            settings=PackageSettings(name="tiny", request_inputs=INPUTS),
            out=folder / "packages" / name,
        )
    return Candidates(folder / "packages", holdout)


@pytest.fixture
def gates() -> GatesSection:
    """Bounds that the tiny candidates meet, and a benchmark that takes a moment."""
    return GatesSection(
        accuracy=AccuracyGate(minimum=0.6, max_loss=0.05),
        benchmark=BenchmarkGate(rounds=6, calls_per_round=10, batch_sizes=(1, 16)),
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)
