"""The flights example's train function: two scikit-learn pipelines, each with its preprocessing inside.

`trees` is the stronger model; `mlp` is the one whose arithmetic the reduced-precision variants really change.
"""

from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tidegate.training.contract import TrainingData


def train(data: TrainingData) -> dict[str, ClassifierMixin]:
    """Fit both candidates."""
    texts = [name for name in data.inputs.columns if data.inputs[name].dtype == object]
    numbers = [name for name in data.inputs.columns if name not in texts]
    candidates = {"trees": _trees(texts, numbers, data.seed), "mlp": _mlp(texts, numbers, data.seed)}
    return {name: model.fit(data.inputs, data.label) for name, model in candidates.items()}


def _trees(texts: list[str], numbers: list[str], seed: int) -> Pipeline:
    # An ordinal code is enough for trees, and a category that training never saw has one too.
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("numbers", "passthrough", numbers), ("texts", codes, texts)])
    model = HistGradientBoostingClassifier(max_iter=100, min_samples_leaf=100, early_stopping=False, random_state=seed)
    return make_pipeline(columns, model)


def _mlp(texts: list[str], numbers: list[str], seed: int) -> Pipeline:
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", scaled, numbers), ("texts", one_hot, texts)])
    model = MLPClassifier((32,), alpha=1e-3, early_stopping=True, n_iter_no_change=4, max_iter=40, random_state=seed)
    return make_pipeline(columns, model)
