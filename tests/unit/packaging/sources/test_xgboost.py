"""XGBoost's models, of every objective and kind, give a graph that agrees with them; the others are refused with a way out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier, VotingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from tests.unit.packaging.sources.tabular import frame_of, numbers, score, table_of, tabular_trip
from tidegate.errors import PackageError
from tidegate.packaging.sources.opening import open_source, wrap_model

ROWS = numbers(300)
SCORE = score(ROWS)
TWO, THREE, NUMBER, POSITIVE = (SCORE > 0).astype(int), np.digitize(SCORE, [-1, 1]), SCORE * 10 + 3, np.exp(SCORE / 4)
SMALL: dict[str, Any] = {"n_estimators": 8, "max_depth": 4, "n_jobs": 1}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threadpool_limits(1):
        yield


def stopped_early(model: Any, target: np.ndarray) -> Any:
    model.set_params(early_stopping_rounds=1, n_estimators=60, learning_rate=1.0)
    model.fit(ROWS, target, eval_set=[(ROWS[:60], target[::-1][:60])], verbose=False)
    assert model.get_booster().num_boosted_rounds() > model.best_iteration + 1
    return model


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "two classes": lambda: xgb.XGBClassifier(**SMALL).fit(ROWS, TWO),
    "base score": lambda: xgb.XGBClassifier(**SMALL, base_score=0.2).fit(ROWS, TWO),
    "no split at all": lambda: xgb.XGBClassifier(n_estimators=2, gamma=1e9, n_jobs=1).fit(ROWS, TWO),
    "hinge": lambda: xgb.XGBClassifier(**SMALL, objective="binary:hinge").fit(ROWS, TWO),
    "three classes": lambda: xgb.XGBClassifier(**SMALL).fit(ROWS, THREE),
    "three classes, softmax": lambda: xgb.XGBClassifier(**SMALL, objective="multi:softmax").fit(ROWS, THREE),
    "forest": lambda: xgb.XGBRFClassifier(**SMALL).fit(ROWS, TWO),
    "forest of three classes": lambda: xgb.XGBRFClassifier(**SMALL).fit(ROWS, THREE),
    "dart": lambda: xgb.XGBClassifier(**SMALL, booster="dart", rate_drop=0.5).fit(ROWS, TWO),
    "stopped early": lambda: stopped_early(xgb.XGBClassifier(n_jobs=1), TWO),
    "stopped early, three classes": lambda: stopped_early(xgb.XGBClassifier(n_jobs=1), THREE),
    "stopped early, several trees a round": lambda: stopped_early(xgb.XGBClassifier(n_jobs=1, num_parallel_tree=3), TWO),
    "calibrated": lambda: CalibratedClassifierCV(xgb.XGBClassifier(**SMALL), cv=2).fit(ROWS, TWO),
    "stacked": lambda: StackingClassifier([("x", xgb.XGBClassifier(**SMALL))], cv=2).fit(ROWS, THREE),
}
REGRESSORS: dict[str, Callable[[], Any]] = {
    **{
        objective: lambda objective=objective: xgb.XGBRegressor(**SMALL, objective=objective).fit(ROWS, POSITIVE)
        for objective in (
            "reg:squarederror",
            "reg:squaredlogerror",
            "reg:absoluteerror",
            "reg:pseudohubererror",
            "count:poisson",
            "reg:gamma",
            "reg:tweedie",
        )
    },
    "reg:logistic": lambda: xgb.XGBRegressor(**SMALL, objective="reg:logistic").fit(ROWS, TWO),
    "quantiles": lambda: xgb.XGBRegressor(**SMALL, objective="reg:quantileerror", quantile_alpha=[0.1, 0.9]).fit(ROWS, NUMBER),
    "two targets": lambda: xgb.XGBRegressor(**SMALL).fit(ROWS, np.c_[NUMBER, POSITIVE]),
    "forest": lambda: xgb.XGBRFRegressor(**SMALL).fit(ROWS, NUMBER),
    "stopped early": lambda: stopped_early(xgb.XGBRegressor(n_jobs=1), NUMBER),
    "vote": lambda: VotingRegressor([("x", xgb.XGBRegressor(**SMALL))]).fit(ROWS, NUMBER),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifiers_graph_agrees_with_it(name: str) -> None:
    trip = tabular_trip(CLASSIFIERS[name](), table_of(ROWS))

    trip.assert_agrees()
    assert set(trip.outputs) in ({"probability"}, {"probabilities"})


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressors_graph_agrees_with_it(name: str) -> None:
    trip = tabular_trip(REGRESSORS[name](), table_of(ROWS))

    trip.assert_agrees()
    assert trip.outputs["prediction"][1] == ((-1, 2) if name in ("quantiles", "two targets") else (-1,))


def test_text_and_numbers_reach_it_through_a_pipeline() -> None:
    table = table_of(ROWS).append_column("city", [np.where(TWO, "Oslo", "Riga").tolist()])
    frame = frame_of(table, table.column_names)
    columns = ColumnTransformer([("t", OneHotEncoder(), ["city"]), ("n", StandardScaler(), ["c0", "c2"])])
    model = make_pipeline(columns, xgb.XGBClassifier(**SMALL)).fit(frame, THREE)

    trip = tabular_trip(model, table)

    trip.assert_agrees()
    assert (trip.source.facts.framework, trip.source.facts.kind) == ("scikit-learn", "Pipeline(XGBClassifier)")


@pytest.mark.parametrize("suffix", [".ubj", ".json"])
@pytest.mark.parametrize(
    ("objective", "target", "output"),
    [
        pytest.param("binary:logistic", TWO, "probability", id="two classes"),
        pytest.param("multi:softprob", THREE, "probabilities", id="three classes"),
        pytest.param("count:poisson", POSITIVE, "prediction", id="counts"),
    ],
)
def test_a_booster_is_read_from_its_own_file(
    tmp_path: Path, suffix: str, objective: str, target: np.ndarray, output: str
) -> None:
    data = xgb.DMatrix(ROWS, target, feature_names=["c0", "c1", "c2", "c3"])
    parameters = {"objective": objective, "nthread": 1, **({"num_class": 3} if "multi" in objective else {})}
    booster = xgb.train(parameters, data, 5)
    booster.save_model(tmp_path / f"model{suffix}")

    source = open_source(tmp_path / f"model{suffix}")
    trip = tabular_trip(booster, table_of(ROWS))

    trip.assert_agrees()
    expected = booster.predict(data)
    np.testing.assert_allclose(source.predict(trip.arrays)[output], expected, rtol=1e-6)
    assert (source.facts.framework, source.columns) == ("XGBoost", ("c0", "c1", "c2", "c3"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(lambda: xgb.XGBClassifier(), "is not fitted", id="not fitted"),
        pytest.param(lambda: xgb.XGBClassifier(**SMALL, objective="binary:logitraw").fit(ROWS, TWO),
                     "objective binary:logitraw is not supported; binary:hinge, binary:logistic", id="objective"),
        pytest.param(lambda: xgb.XGBClassifier(booster="gblinear", n_estimators=2).fit(np.nan_to_num(ROWS), TWO),
                     "gblinear has no trees; use a linear model", id="linear"),
        pytest.param(lambda: xgb.XGBRegressor(**SMALL, multi_strategy="multi_output_tree").fit(ROWS, np.c_[NUMBER, NUMBER]),
                     "multi_strategy='one_output_per_tree'", id="vector leaves"),
        pytest.param(lambda: xgb.XGBClassifier(**SMALL, missing=-1.0).fit(np.nan_to_num(ROWS), TWO),
                     "fit it with missing=NaN", id="another missing value"),
    ],
)  # fmt: skip
def test_what_no_graph_can_say_is_refused_with_the_way_out(model: Callable[[], Any], said: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        tabular_trip(model(), table_of(np.nan_to_num(ROWS)))

    assert "\n" not in str(refused.value)


def test_categories_by_code_are_sets_of_a_tree() -> None:
    rows = ROWS.copy()
    rows[:, 3] = np.random.default_rng(0).integers(0, 9, len(rows))
    rows[::20, 3] = np.nan
    target = (np.nan_to_num(rows[:, 0]) + rows[:, 3] % 3 > 0.6).astype(int)
    model = xgb.XGBClassifier(**SMALL, feature_types=["q", "q", "q", "c"], enable_categorical=True, max_cat_to_onehot=1)

    trip = tabular_trip(model.fit(rows, target), table_of(rows))

    trip.assert_agrees()
    unseen = {**trip.arrays, "c3": np.full_like(trip.arrays["c3"], 12)}
    trip.assert_agrees(arrays=unseen)


def test_categories_that_a_data_frame_encoded_are_refused() -> None:
    frame = pd.DataFrame({"a": ROWS[:, 0], "t": pd.Categorical(np.where(TWO, "x", "y"))})
    model = xgb.XGBClassifier(**SMALL, enable_categorical=True).fit(frame, TWO)
    source = wrap_model(model, "m")

    with pytest.raises(PackageError, match=r"cannot predict|encode them in front of it"):
        tabular_trip(model, table_of(ROWS[:, :2]).rename_columns(["a", "t"]))
    assert source.columns == ("a", "t")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"a": 1}')

    with pytest.raises(PackageError, match=r"model\.json: XGBoost cannot load it"):
        open_source(tmp_path / "model.json")
