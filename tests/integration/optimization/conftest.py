"""Fixtures: the files a user would hand to `tidegate package` and `tidegate optimize`."""

from dataclasses import dataclass
from pathlib import Path

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tidegate.packaging.inputs import training_arrays

TEXTS, NUMBERS = ["carrier", "origin"], ["distance", "hour", "weather__temp", "route__delay"]


@dataclass(frozen=True)
class Files:
    """`mlp.joblib`, `sample.parquet` (training rows), `data.parquet`."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_examples: pa.Table) -> Files:
    folder = tmp_path_factory.mktemp("files")
    rows = tiny_examples.select([*TEXTS, *NUMBERS, "label"])
    training = rows.slice(0, 900)
    frame = pd.DataFrame(training_arrays(training, [*TEXTS, *NUMBERS]))
    labels = training["label"].to_numpy()
    onehot, scaled = OneHotEncoder(handle_unknown="ignore"), make_pipeline(SimpleImputer(), StandardScaler())
    mlp = make_pipeline(
        ColumnTransformer([("t", onehot, TEXTS), ("n", scaled, NUMBERS)]),
        MLPClassifier((32, 16), max_iter=200, random_state=0, early_stopping=True),
    )
    with threadpool_limits(1):
        joblib.dump(mlp.fit(frame, labels), folder / "mlp.joblib")
    pq.write_table(training, folder / "sample.parquet")
    pq.write_table(rows.slice(900), folder / "data.parquet")
    return Files(folder)


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """Gates that the tiny model meets, and a benchmark that takes a moment."""
    file = tmp_path / "gates.yaml"
    file.write_text(
        "accuracy: {metric: roc_auc, minimum: 0.6, max_loss: 0.05}\n"
        "benchmark: {rounds: 3, calls_per_round: 10, batch_sizes: [1, 16]}\n"
    )
    return file
