"""LightGBM's models, of every objective and kind, give a graph that agrees with them; the others are refused with a way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits

from tests.unit.packaging.sources.tabular import frame_of, numbers, score, table_of, tabular_trip
from tidegate.errors import PackageError
from tidegate.packaging.sources.opening import open_source

ROWS = numbers(300)
SCORE = score(ROWS)
TWO, THREE, NUMBER, POSITIVE = (SCORE > 0).astype(int), np.digitize(SCORE, [-1, 1]), SCORE * 10 + 3, np.exp(SCORE / 4)
SMALL: dict[str, Any] = {"n_estimators": 8, "num_leaves": 12, "min_child_samples": 3, "n_jobs": 1, "verbose": -1}
FOREST = {"boosting_type": "rf", "bagging_fraction": 0.7, "bagging_freq": 1}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threadpool_limits(1):
        yield


def stopped_early() -> Any:
    model = lgb.LGBMClassifier(**{**SMALL, "n_estimators": 60, "learning_rate": 1.0})
    calls = [lgb.early_stopping(1, verbose=False)]
    model.fit(ROWS, TWO, eval_set=[(ROWS[:60], TWO[::-1][:60])], callbacks=calls)
    assert 0 < model.best_iteration_ < 60
    return model


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "two classes": lambda: lgb.LGBMClassifier(**SMALL).fit(ROWS, TWO),
    "steeper sigmoid": lambda: lgb.LGBMClassifier(**SMALL, sigmoid=2.0).fit(ROWS, TWO),
    "three classes": lambda: lgb.LGBMClassifier(**SMALL).fit(ROWS, THREE),
    "one versus all": lambda: lgb.LGBMClassifier(**SMALL, objective="multiclassova").fit(ROWS, THREE),
    "cross entropy": lambda: lgb.LGBMClassifier(**SMALL, objective="cross_entropy").fit(ROWS, TWO),
    "forest": lambda: lgb.LGBMClassifier(**SMALL, **FOREST).fit(ROWS, TWO),
    "forest of three classes": lambda: lgb.LGBMClassifier(**SMALL, **FOREST).fit(ROWS, THREE),
    "dart": lambda: lgb.LGBMClassifier(**SMALL, boosting_type="dart").fit(ROWS, TWO),
    "no missing values": lambda: lgb.LGBMClassifier(**SMALL, use_missing=False).fit(ROWS, TWO),
    "stopped early": stopped_early,
    "names of the classes": lambda: lgb.LGBMClassifier(**SMALL).fit(ROWS, np.array(["no", "so", "yes"])[THREE]),
    "calibrated": lambda: CalibratedClassifierCV(lgb.LGBMClassifier(**SMALL), cv=2).fit(ROWS, TWO),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    **{
        objective: lambda objective=objective: lgb.LGBMRegressor(**SMALL, objective=objective).fit(ROWS, POSITIVE)
        for objective in ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "poisson", "gamma", "tweedie")
    },
    "square root": lambda: lgb.LGBMRegressor(**SMALL, reg_sqrt=True).fit(ROWS, NUMBER),
    "cross_entropy": lambda: lgb.LGBMRegressor(**SMALL, objective="cross_entropy").fit(ROWS, TWO),
    "cross_entropy_lambda": lambda: lgb.LGBMRegressor(**SMALL, objective="cross_entropy_lambda").fit(ROWS, TWO),
    "forest": lambda: lgb.LGBMRegressor(**SMALL, **FOREST).fit(ROWS, NUMBER),
    "stacked": lambda: StackingRegressor([("l", lgb.LGBMRegressor(**SMALL))], cv=2).fit(ROWS, NUMBER),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_graph_agrees_with_it(name: str) -> None:
    model = CLASSIFIERS[name]()

    trip = tabular_trip(model, table_of(ROWS))

    trip.assert_agrees()
    assert trip.source.classes == (("no", "so", "yes") if name == "names of the classes" else ())


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressors_graph_agrees_with_it(name: str) -> None:
    trip = tabular_trip(REGRESSORS[name](), table_of(ROWS))

    trip.assert_agrees()
    assert trip.outputs == {"prediction": ("FP32", (-1,))}


@given(
    seed=st.integers(0, 1_000), shift=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), share=st.sampled_from([0.0, 0.3]),
    zeros=st.booleans(),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_zeros_and_missing_values_go_where_the_model_sends_them(seed: int, shift: float, share: float, zeros: bool) -> None:
    rng = np.random.default_rng(seed)
    rows = (np.round(rng.normal(size=(200, 3)) * 2) + shift).astype(np.float32)
    rows[rng.random(rows.shape) < share] = np.nan
    target = (np.nan_to_num(rows[:, 0], nan=1.5) + (rows[:, 1] == 0) * 2 + rng.normal(size=200) > shift).astype(int)
    with threadpool_limits(1):
        model = lgb.LGBMClassifier(**SMALL, zero_as_missing=zeros).fit(rows, target)

    trip = tabular_trip(model, table_of(rows))

    edges = np.array([0.0, -0.0, 1e-40, -1e-36, 2e-35, -2e-35, np.nan, 0.5, -0.5], dtype=np.float32)
    grid = np.array(np.meshgrid(edges, edges, edges)).reshape(3, -1)
    trip.assert_agrees()
    trip.assert_agrees(arrays={f"c{place}": grid[place].reshape(-1, 1) for place in range(3)})


def test_categories_by_index_behind_an_encoder_are_sets_of_a_tree() -> None:
    table = table_of(ROWS).append_column("city", [np.random.default_rng(0).choice(list("abcdefghij"), len(ROWS)).tolist()])
    frame = frame_of(table, table.column_names)
    target = (np.nan_to_num(frame["c0"]) + frame["city"].isin(list("acgj")) > 0.6).astype(int)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("t", encoder, ["city"]), ("n", "passthrough", ["c0", "c1"])])
    trees = lgb.LGBMClassifier(**SMALL, max_cat_to_onehot=1, min_data_per_group=1, cat_smooth=1)
    model = make_pipeline(columns, trees).fit(frame, target, lgbmclassifier__categorical_feature=[0])

    trip = tabular_trip(model, table)

    trip.assert_agrees()
    trip.assert_agrees(arrays={**trip.arrays, "city": np.full_like(trip.arrays["city"], "never seen")})


def test_whole_numbers_beyond_32_bit_floats_are_told_apart() -> None:
    large = np.random.default_rng(0).integers(2**40, 2**40 + 500, 300)
    table = table_of(ROWS).append_column("when", [large])
    model = lgb.LGBMClassifier(**SMALL).fit(frame_of(table, table.column_names), (large > 2**40 + 211).astype(int))

    tabular_trip(model, table).assert_agrees()


@pytest.mark.parametrize(
    ("objective", "target", "output"),
    [
        pytest.param("binary", TWO, "probability", id="two classes"),
        pytest.param("multiclass", THREE, "probabilities", id="three classes"),
        pytest.param("poisson", POSITIVE, "prediction", id="counts"),
    ],
)
def test_a_booster_is_read_from_its_own_file(tmp_path: Path, objective: str, target: np.ndarray, output: str) -> None:
    parameters = {"objective": objective, "verbosity": -1, "num_threads": 1, "num_class": 3 if output == "probabilities" else 1}
    booster = lgb.train(parameters, lgb.Dataset(ROWS, target, feature_name=["c0", "c1", "c2", "c3"]), 5)
    booster.save_model(tmp_path / "model.txt")

    source = open_source(tmp_path / "model.txt")
    trip = tabular_trip(booster, table_of(ROWS))

    trip.assert_agrees()
    np.testing.assert_allclose(source.predict(trip.arrays)[output], booster.predict(ROWS), rtol=1e-6)
    assert (source.facts.framework, source.columns) == ("LightGBM", ("c0", "c1", "c2", "c3"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(lambda: lgb.LGBMClassifier(), "is not fitted", id="not fitted"),
        pytest.param(lambda: lgb.LGBMRegressor(**SMALL, linear_tree=True).fit(ROWS, NUMBER), "fit it with linear_tree=False",
                     id="linear trees"),
        pytest.param(lambda: lgb.LGBMRegressor(**SMALL, objective=lambda y, p: (p - y, np.ones_like(y))).fit(ROWS, NUMBER),
                     "objective .* is not supported; binary, multiclass", id="objective of the user"),
        pytest.param(lambda: lgb.LGBMRanker(**SMALL).fit(ROWS, TWO, group=[100, 200]), "neither a classifier", id="ranker"),
    ],
)  # fmt: skip
def test_what_no_graph_can_say_is_refused_with_the_way_out(model: Callable[[], Any], said: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        tabular_trip(model(), table_of(ROWS))

    assert "\n" not in str(refused.value)


def test_categories_that_a_data_frame_encoded_are_refused() -> None:
    frame = pd.DataFrame({"c0": ROWS[:, 0], "c1": pd.Categorical(np.random.default_rng(0).choice(["x", "y", "z"], len(ROWS)))})
    model = lgb.LGBMClassifier(**SMALL).fit(frame, TWO)

    with pytest.raises(PackageError, match=r"cannot predict|encode them in front of it"):
        tabular_trip(model, table_of(ROWS[:, :2]))


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("tree\n")

    with pytest.raises(PackageError, match=r"model\.txt: LightGBM cannot load it"):
        open_source(tmp_path / "model.txt")
