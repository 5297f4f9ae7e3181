"""The flights example's train function: two scikit-learn pipelines, each with its preprocessing inside.

`trees` is the stronger model; `mlp` is the one whose arithmetic the reduced-precision variants really change.
"""

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tidegate.training.contract import TrainingData

_MLP_ROWS = 30_000  # its accuracy hardly grows from here, its time does


def train(data: TrainingData) -> dict[str, ClassifierMixin]:
    """Fit both candidates."""
    return {"trees": _fit_trees(data), "mlp": _fit_mlp(data)}


def _fit_trees(data: TrainingData) -> Pipeline:
    columns = _columns(data.inputs)
    # Texts are one-hot encoded: the converter to ONNX silently gets `categorical_features` wrong.
    preprocessing = ColumnTransformer(
        [
            ("numbers", "passthrough", columns["numbers"]),
            ("texts", OneHotEncoder(handle_unknown="ignore", sparse_output=False), columns["texts"]),
        ]
    )
    model = HistGradientBoostingClassifier(
        learning_rate=0.1, max_iter=120, max_leaf_nodes=31, min_samples_leaf=100, random_state=data.seed
    )
    return make_pipeline(preprocessing, model).fit(data.inputs, data.label)


def _fit_mlp(data: TrainingData) -> Pipeline:
    columns = _columns(data.inputs)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    preprocessing = ColumnTransformer(
        [
            ("numbers", numbers, columns["numbers"]),
            ("texts", OneHotEncoder(handle_unknown="ignore", sparse_output=False), columns["texts"]),
        ]
    )
    model = MLPClassifier(
        hidden_layer_sizes=(48, 24), alpha=1e-3, early_stopping=True, n_iter_no_change=3, max_iter=30, random_state=data.seed
    )
    rows = _sample(len(data.label), data.seed)
    return make_pipeline(preprocessing, model).fit(data.inputs.iloc[rows], data.label[rows])


def _columns(inputs: pd.DataFrame) -> dict[str, list[str]]:
    texts = [name for name in inputs.columns if inputs[name].dtype == object]
    return {"texts": texts, "numbers": [name for name in inputs.columns if name not in texts]}


def _sample(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(rows)[:_MLP_ROWS]
