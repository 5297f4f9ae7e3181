"""Whatever columns, preprocessing and estimator: the graph agrees with the pipeline, at the edges of its data too."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from tests.unit.packaging.sources.round_trip import Trip
from tests.unit.packaging.sources.tabular import frame_of, tabular_trip
from tidegate.packaging.sample import golden_inputs
from tidegate.packaging.signature import infer_inputs
from tidegate.packaging.sources.opening import wrap_model

ROWS = 120
BOUNDED = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ENCODERS = {
    "one-hot": lambda: OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    "ordinal": lambda: OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
}
PREPARATIONS = {
    "standard": lambda: make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
    "robust": lambda: make_pipeline(SimpleImputer(), RobustScaler()),
    "to a range": lambda: make_pipeline(SimpleImputer(strategy="mean"), MinMaxScaler()),
    "filled": lambda: SimpleImputer(strategy="most_frequent"),
}
ESTIMATORS = {
    "logistic": lambda: LogisticRegression(),
    "network": lambda: MLPClassifier((5,), max_iter=15, random_state=0),
    "tree": lambda: DecisionTreeClassifier(random_state=0),
    "forest": lambda: RandomForestClassifier(6, random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(n_estimators=5, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3),
    "stack": lambda: StackingClassifier([("t", DecisionTreeClassifier(random_state=0)), ("l", LogisticRegression())], cv=2),
}
REGRESSORS = {
    "ridge": lambda: Ridge(),
    "forest": lambda: RandomForestRegressor(6, random_state=0),
    "extra trees": lambda: ExtraTreesRegressor(6, random_state=0),
    "histogram boosting": lambda: HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=3),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Columns of every type: text, steps, whole numbers small and large, flags, floats of any size; some values missing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    missing = draw(st.sampled_from([0.0, 0.2]))
    kinds = draw(st.lists(st.sampled_from(["float", "steps", "count", "large", "flag"]), min_size=1, max_size=5))
    texts = draw(st.integers(0, 2))
    scale = 10.0 ** draw(st.integers(-3, 4))

    def column(kind: str) -> pa.Array:
        mask = rng.random(ROWS) < missing
        match kind:
            case "float":
                return pa.array((rng.normal(size=ROWS) * scale).astype(np.float32), mask=mask)
            case "steps":
                return pa.array(np.round(rng.normal(size=ROWS) * 3, 1).astype(np.float32), mask=mask)
            case "count":
                return pa.array(rng.integers(-3, 9, ROWS))
            case "large":
                return pa.array(rng.integers(2**33, 2**33 + 300, ROWS))
            case "flag":
                return pa.array(rng.random(ROWS) < 0.5)
        return pa.array(rng.choice(["Oslo", "Riga", "a b", "né", "?"], ROWS), mask=mask)

    named = {f"t{place}": column("text") for place in range(texts)}
    return pa.table({**named, **{f"{kind}{place}": column(kind) for place, kind in enumerate(kinds)}})


def prepared(table: pa.Table, encoder: str, preparation: str, final: Any) -> Any:
    texts = [name for name in table.column_names if pa.types.is_string(table[name].type)]
    others = [name for name in table.column_names if name not in texts]
    parts = [("n", PREPARATIONS[preparation](), others), *([("t", ENCODERS[encoder](), texts)] if texts else [])]
    return make_pipeline(ColumnTransformer(parts), final)


def target_of(table: pa.Table, classes: int) -> np.ndarray:
    frame = frame_of(table, table.column_names)
    total = sum(
        (frame[name] == "Oslo") * 1.0 if frame[name].dtype == object else frame[name].rank(na_option="top") / ROWS
        for name in frame
    )
    ranks = np.argsort(np.argsort(np.asarray(total) + np.random.default_rng(0).normal(size=ROWS) * 0.3))
    return ranks * classes // ROWS


def assert_agrees_at_the_edges_too(model: Any, table: pa.Table) -> None:
    source = wrap_model(model, "model")
    inputs = source.accept(infer_inputs(table, source.columns, None))
    real, edges = golden_inputs(table, inputs, count=ROWS, seed=0)
    rows = {name: np.concatenate([real[name], edges[name]]) for name in real}
    Trip(source, inputs, rows, source.to_onnx(inputs, rows)).assert_agrees()


@given(
    table=tables(), encoder=st.sampled_from(sorted(ENCODERS)), preparation=st.sampled_from(sorted(PREPARATIONS)),
    estimator=st.sampled_from(sorted(ESTIMATORS)), classes=st.integers(2, 3),
)  # fmt: skip
@BOUNDED
def test_any_pipeline_of_a_classifier_round_trips(
    table: pa.Table, encoder: str, preparation: str, estimator: str, classes: int
) -> None:
    model = prepared(table, encoder, preparation, ESTIMATORS[estimator]())
    with threadpool_limits(1):
        model.fit(frame_of(table, table.column_names), target_of(table, classes))
        assert_agrees_at_the_edges_too(model, table)


@given(
    table=tables(), encoder=st.sampled_from(sorted(ENCODERS)), preparation=st.sampled_from(sorted(PREPARATIONS)),
    estimator=st.sampled_from(sorted(REGRESSORS)), targets=st.integers(1, 2),
)  # fmt: skip
@BOUNDED
def test_any_pipeline_of_a_regressor_round_trips(
    table: pa.Table, encoder: str, preparation: str, estimator: str, targets: int
) -> None:
    target = target_of(table, ROWS).astype(float)
    several = targets == 2 and estimator != "histogram boosting"
    model = prepared(table, encoder, preparation, REGRESSORS[estimator]())
    with threadpool_limits(1):
        model.fit(frame_of(table, table.column_names), np.c_[target, -target / 2] if several else target)
        assert_agrees_at_the_edges_too(model, table)


@given(
    seed=st.integers(0, 10_000), categories=st.integers(2, 60), spread=st.sampled_from([1, 3, 7]), start=st.integers(-5, 5),
    missing=st.sampled_from([0.0, 0.15]), classes=st.integers(2, 3),
)  # fmt: skip
@BOUNDED
def test_boosting_with_categorical_features_round_trips(
    seed: int, categories: int, spread: int, start: int, missing: float, classes: int
) -> None:
    """skl2onnx alone exports it silently wrong: categorical columns come first to the trees, and are sets, not thresholds."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, categories, 250) * spread + start
    rows = np.column_stack([rng.normal(size=250), codes, rng.normal(size=250), rng.integers(0, 4, 250)]).astype(np.float32)
    rows[rng.random(rows.shape) < missing] = np.nan
    target = (codes % 3 + (np.nan_to_num(rows[:, 0]) > 0) + (rows[:, 3] == 2)).astype(int) % classes
    table = pa.table({f"c{place}": rows[:, place] for place in range(4)})
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=2, categorical_features=["c1", "c3"])
        model.fit(frame_of(table, table.column_names), target)
        trip = tabular_trip(model, table)
        trip.assert_agrees()
        unseen = np.linspace(start - 2, start + categories * spread + 70, 250).round().astype(np.float32).reshape(-1, 1)
        trip.assert_agrees(arrays={**trip.arrays, "c1": unseen, "c3": unseen})
