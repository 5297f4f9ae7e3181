"""scikit-learn's models give a graph that agrees with them; what cannot be said in a graph is refused with a way out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from tests.unit.packaging.sources.tabular import frame_of, numbers, score, table_of, tabular_trip
from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import TensorSpec
from tidegate.packaging.sources.opening import wrap_model

COUNT = 300
RANDOM = np.random.default_rng(0)
ROWS = numbers(COUNT, missing=0)
SCORE = score(ROWS)
TWO, THREE, NUMBER, POSITIVE = (SCORE > 0).astype(int), np.digitize(SCORE, [-1, 1]), SCORE * 10 + 3, np.exp(SCORE / 4)
MIXED = pa.table(
    {
        "a": ROWS[:, 0],
        "steps": ROWS[:, 2],
        "count": RANDOM.integers(0, 9, COUNT),
        "gap": pa.array(ROWS[:, 3], mask=RANDOM.random(COUNT) < 0.1),
        "city": RANDOM.choice(["Oslo", "Riga", "Łódź", ""], COUNT),
        "flag": RANDOM.random(COUNT) < 0.5,
        "when": RANDOM.integers(2**40, 2**40 + 400, COUNT),
    }
)
NUMBERS = ["a", "steps", "count"]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threadpool_limits(1):
        yield


def fit(model: Any, target: np.ndarray = TWO) -> Callable[[], Any]:
    return lambda: model.fit(ROWS, target)


KINDS: dict[str, Callable[[], Any]] = {
    "logistic regression": fit(LogisticRegression()),
    "of three classes": fit(LogisticRegression(), THREE),
    "of named classes": fit(LogisticRegression(), np.array(["no", "yes"])[TWO]),
    "of three named classes": fit(RandomForestClassifier(8), np.array(["a", "b", "c"])[THREE]),
    "of classes 1 and 2": fit(LogisticRegression(), TWO + 1),
    "forest": fit(RandomForestClassifier(8)),
    "forest of three classes": fit(RandomForestClassifier(8), THREE),
    "extra trees": fit(ExtraTreesClassifier(8)),
    "tree": fit(DecisionTreeClassifier(), THREE),
    "gradient boosting": fit(GradientBoostingClassifier(n_estimators=8)),
    "gradient boosting of three classes": fit(GradientBoostingClassifier(n_estimators=8, init="zero"), THREE),
    "gradient boosting, exponential": fit(GradientBoostingClassifier(n_estimators=8, loss="exponential")),
    "histogram boosting": fit(HistGradientBoostingClassifier(max_iter=8)),
    "histogram boosting of three classes": fit(HistGradientBoostingClassifier(max_iter=8), THREE),
    "nearest neighbours": fit(KNeighborsClassifier(), THREE),
    "support vectors, calibrated": fit(CalibratedClassifierCV(LinearSVC(), cv=2)),
    "forest, calibrated": fit(CalibratedClassifierCV(RandomForestClassifier(5), cv=2)),
    "boosting, calibrated by its raw scores": fit(CalibratedClassifierCV(HistGradientBoostingClassifier(max_iter=4), cv=2)),
    "boosting, calibrated, three classes": fit(CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=4), cv=2), THREE),
    "vote": fit(VotingClassifier([("l", LogisticRegression()), ("f", RandomForestClassifier(5))], voting="soft")),
    "stack": fit(
        StackingClassifier([("l", LogisticRegression()), ("h", HistGradientBoostingClassifier(max_iter=4))], cv=2), THREE
    ),
    "adaptive boosting": fit(AdaBoostClassifier(n_estimators=4)),
    "search": fit(GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1, 2]}, cv=2)),
    "union": fit(make_pipeline(FeatureUnion([("p", PCA(2)), ("s", StandardScaler())]), MLPClassifier((6,), max_iter=30))),
    "linear regression": fit(LinearRegression(), NUMBER),
    "two targets": fit(Ridge(), np.c_[NUMBER, POSITIVE]),
    "one target as a matrix": fit(LinearRegression(), NUMBER.reshape(-1, 1)),
    "forest of two targets": fit(RandomForestRegressor(8), np.c_[NUMBER, POSITIVE]),
    "counts": fit(PoissonRegressor(), POSITIVE),
    "support vector regression": fit(make_pipeline(StandardScaler(), SVR()), NUMBER),
    "neighbours of two targets": fit(KNeighborsRegressor(), np.c_[NUMBER, POSITIVE]),
    "bagged trees behind a scaler": fit(make_pipeline(StandardScaler(), BaggingRegressor(DecisionTreeRegressor())), NUMBER),
    "boosted regression": fit(GradientBoostingRegressor(n_estimators=8, loss="huber"), NUMBER),
    "histogram boosted counts": fit(HistGradientBoostingRegressor(max_iter=8, loss="poisson"), POSITIVE),
    "stacked regression": fit(StackingRegressor([("t", DecisionTreeRegressor()), ("r", Ridge())], cv=2), NUMBER),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_graph_agrees_with_its_model(name: str) -> None:
    model = KINDS[name]()

    trip = tabular_trip(model, table_of(ROWS))

    trip.assert_agrees()
    assert trip.source.facts.framework == "scikit-learn"


@pytest.mark.parametrize(
    ("name", "task", "classes", "outputs"),
    [
        pytest.param("forest", "binary-classification", (), {"probability": ("FP32", (-1,))}, id="two classes"),
        pytest.param("of named classes", "binary-classification", ("no", "yes"), {"probability": ("FP32", (-1,))}, id="named"),
        pytest.param("of classes 1 and 2", "binary-classification", ("1", "2"), {"probability": ("FP32", (-1,))}, id="1 and 2"),
        pytest.param("tree", "multiclass-classification", (), {"probabilities": ("FP32", (-1, 3))}, id="three classes"),
        pytest.param("counts", "regression", (), {"prediction": ("FP32", (-1,))}, id="a number"),
        pytest.param("one target as a matrix", "regression", (), {"prediction": ("FP32", (-1,))}, id="a matrix of one"),
        pytest.param("two targets", "regression", (), {"prediction": ("FP32", (-1, 2))}, id="two numbers"),
    ],
)
def test_a_model_says_its_task_its_classes_and_its_outputs(
    name: str, task: str, classes: tuple[str, ...], outputs: dict[str, Any]
) -> None:
    trip = tabular_trip(KINDS[name](), table_of(ROWS))

    assert (trip.source.task, trip.source.classes, trip.outputs) == (task, classes, outputs)


def encoded(*columns: Any, final: Any | None = None) -> Pipeline:
    return make_pipeline(ColumnTransformer(list(columns)), LogisticRegression() if final is None else final)


TEXT = ("t", OneHotEncoder(handle_unknown="ignore"), ["city"])
COLUMNS: dict[str, Pipeline] = {
    "by name": encoded(TEXT, ("n", StandardScaler(), NUMBERS)),
    "by place": encoded(("t", OneHotEncoder(), [4]), ("n", StandardScaler(), [0, 1, 2])),
    "by slice of places": encoded(("t", OneHotEncoder(), [4]), ("n", StandardScaler(), slice(0, 3))),
    "by slice of names": encoded(TEXT, ("n", StandardScaler(), slice("a", "count"))),
    "by mask": encoded(TEXT, ("n", StandardScaler(), [True, True, False, False, False, False, False])),
    "by function": encoded(
        ("t", OneHotEncoder(), make_column_selector(dtype_include=object)),
        ("n", make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include=np.number)),
    ),
    "the rest passes": make_pipeline(
        ColumnTransformer([("t", OrdinalEncoder(), ["city"])], remainder="passthrough"),
        HistGradientBoostingClassifier(max_iter=5),
    ),
    "some dropped": encoded(TEXT, ("d", "drop", ["gap"]), ("n", "passthrough", ["a"])),
    "missing filled": encoded(("n", SimpleImputer(strategy="median"), ["a", "gap"])),
    "missing text filled": encoded(
        ("t", make_pipeline(SimpleImputer(missing_values="", strategy="most_frequent"), OneHotEncoder()), ["city"]),
        ("n", "passthrough", NUMBERS),
    ),
    "missing in a tree": encoded(("n", "passthrough", ["a", "gap"]), final=RandomForestClassifier(8)),
    "whole numbers as categories": encoded(("o", OneHotEncoder(handle_unknown="ignore"), ["count", "when"])),
    "flags": encoded(("o", OneHotEncoder(), ["flag"]), ("n", "passthrough", ["a"])),
    "large whole numbers": encoded(("n", StandardScaler(), ["a", "when"])),
    "steps behind a scaler, split in their middles": encoded(
        ("n", StandardScaler(), NUMBERS), final=RandomForestClassifier(8, random_state=0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_type_are_read_however_they_are_chosen(name: str) -> None:
    target = (SCORE + (np.asarray(MIXED["when"]) > 2**40 + 200) > 0.5).astype(int)
    model = COLUMNS[name].fit(frame_of(MIXED, MIXED.column_names), target)

    trip = tabular_trip(model, MIXED)

    trip.assert_agrees()


def test_speed_is_given_up_only_where_32_bits_differ() -> None:
    frame = frame_of(MIXED, ["a", "count", "when"])
    small = tabular_trip(LogisticRegression().fit(frame[["a", "count"]], TWO), MIXED.select(["a", "count"]))
    large = tabular_trip(
        make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, frame["when"] % 2),
        MIXED.select(["a", "count", "when"]),
    )

    double = 11  # TensorProto.DOUBLE
    assert double not in [node.attribute[0].i for node in small.graph.graph.node if node.op_type == "Cast"]
    assert double in [node.attribute[0].i for node in large.graph.graph.node if node.op_type == "Cast"]


def test_a_model_without_column_names_takes_columns_in_their_order_or_one_column_of_lists() -> None:
    model = make_pipeline(StandardScaler(), MLPClassifier((6,), max_iter=30)).fit(ROWS, THREE)
    lists = pa.table({"pixels": pa.array(ROWS.tolist(), pa.list_(pa.float64()))})

    apart, together = tabular_trip(model, table_of(ROWS)), tabular_trip(model, lists)

    together.assert_agrees()
    assert [(spec.datatype, spec.shape) for spec in together.inputs] == [("FP32", (-1, 4))]
    np.testing.assert_array_equal(apart.source.predict(apart.arrays)["probabilities"], model.predict_proba(ROWS).astype("f"))


class Unconvertible(ClassifierMixin, BaseEstimator):
    classes_ = np.array([0, 1])

    def fit(self, rows: Any, target: Any) -> "Unconvertible":
        self.fitted_ = True
        return self

    def predict_proba(self, rows: Any) -> np.ndarray:
        return np.tile([0.4, 0.6], (len(rows), 1))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(LogisticRegression, "LogisticRegression is not fitted; fit it first", id="not fitted"),
        pytest.param(lambda: make_pipeline(StandardScaler(), Ridge()), r"Pipeline\(Ridge\) is not fitted", id="pipeline"),
        pytest.param(fit(LinearSVC()), "no predict_proba; wrap it in CalibratedClassifierCV", id="no probabilities"),
        pytest.param(fit(SVC()), "no predict_proba; wrap it in CalibratedClassifierCV", id="machine without probabilities"),
        pytest.param(fit(OneClassSVM()), "detects outliers", id="one class"),
        pytest.param(fit(IsolationForest(n_estimators=3)), "detects outliers", id="outliers"),
        pytest.param(fit(KMeans(2, n_init=1)), "neither a classifier with predict_proba nor a regressor", id="clusters"),
        pytest.param(fit(StandardScaler()), "neither a classifier with predict_proba nor a regressor", id="transformer"),
        pytest.param(fit(MultiOutputClassifier(LogisticRegression()), np.c_[TWO, TWO]), "classifies 2 targets at once",
                     id="several targets of classes"),
        pytest.param(fit(DummyClassifier(), TWO * 0), "its classes are .0.; at least two", id="one class only"),
        pytest.param(fit(Unconvertible()), "no converter for Unconvertible; replace that part", id="no converter"),
        pytest.param(fit(TransformedTargetRegressor(Ridge()), NUMBER), "no converter for TransformedTargetRegressor",
                     id="no converter for a part"),
        pytest.param(fit(make_pipeline(FunctionTransformer(np.abs), LogisticRegression())), "FunctionTransformer",
                     id="function"),
        pytest.param(fit(GradientBoostingClassifier(n_estimators=2, init=LogisticRegression())), "init=None or init='zero'",
                     id="boosting from a model"),
        pytest.param(fit(LinearDiscriminantAnalysis()), "disagrees on 9.* use Logistic", id="known to be wrong"),
    ],
)  # fmt: skip
def test_what_no_graph_can_say_is_refused_with_the_way_out(model: Callable[[], Any], said: str) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        tabular_trip(model(), table_of(ROWS))

    assert "model" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(encoded(("n", SimpleImputer(add_indicator=True), ["a", "gap"])), "add_indicator", id="indicator"),
        pytest.param(CalibratedClassifierCV(encoded(TEXT, ("n", "passthrough", NUMBERS)), cv=2),
                     "ColumnTransformer that is the first step of one Pipeline around the whole model", id="columns inside"),
        pytest.param(HistGradientBoostingClassifier(max_iter=3, categorical_features=["city"]), "first step of one Pipeline",
                     id="text in a tree"),
    ],
)  # fmt: skip
def test_columns_that_a_graph_would_read_otherwise_are_refused_with_the_way_out(model: Any, said: str) -> None:
    columns = ["a", "steps", "count", "gap", "city"]
    model.fit(frame_of(MIXED, columns), TWO)

    with pytest.raises(PackageError, match=said):
        tabular_trip(model, MIXED.select(columns))


def test_names_and_texts_of_any_kind_reach_the_model() -> None:
    table = pa.table({"two words": ROWS[:, 0], "größe/m²": ROWS[:, 1], "text": np.where(TWO, "Ça va", "red FISH").tolist()})
    numbers = encoded(("s", StandardScaler(), ["größe/m²"]), ("p", "passthrough", ["two words"]))
    words = encoded(("w", TfidfVectorizer(), "text"), ("n", "passthrough", ["two words"]))
    for model in (numbers, words):
        trip = tabular_trip(model.fit(frame_of(table, table.column_names), THREE), table)

        trip.assert_agrees()
        assert [value.name for value in trip.graph.graph.input] == table.column_names


def test_missing_texts_that_no_served_row_holds_are_refused() -> None:
    frame = pd.DataFrame({"a": ROWS[:, 0], "city": np.where(TWO, "Oslo", None)})
    model = encoded(TEXT, ("n", "passthrough", ["a"])).fit(frame, THREE)

    with pytest.raises(PackageError, match=r"knows missing texts as None or NaN.*fillna"):
        tabular_trip(model, MIXED.select(["a", "city"]))


def spec(name: str, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 1)) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


@pytest.mark.parametrize(
    ("names", "inputs", "said"),
    [
        pytest.param(True, [spec("b")], "reads column 'a', which is not among b", id="missing column"),
        pytest.param(False, [spec("x")], "fitted on 4 columns without names, but the sample has 1", id="another count"),
        pytest.param(False, [spec("x", shape=(-1, 2, 2))], r"holds tensors of shape \[2, 2\]", id="images"),
        pytest.param(False, [spec("x", shape=(-1, 3)), spec("y")], r"holds tensors of shape \[3\]", id="list and column"),
    ],
)
def test_inputs_that_it_cannot_take_are_refused(names: bool, inputs: list[TensorSpec], said: str) -> None:
    rows = pd.DataFrame(ROWS, columns=["a", "b", "c", "d"]) if names else ROWS

    with pytest.raises(PackageError, match=said):
        wrap_model(LogisticRegression().fit(rows, TWO), "m").accept(inputs)


@pytest.mark.parametrize(
    ("given", "own"), [("FP64", "FP32"), ("FP16", "FP32"), ("INT8", "INT64"), ("BOOL", "INT64"), ("BYTES", "BYTES")]
)
def test_inputs_become_of_the_datatypes_that_it_reads(given: str, own: str) -> None:
    source = wrap_model(LogisticRegression().fit(pd.DataFrame({"a": ROWS[:, 0]}), TWO), "m")

    assert source.accept([spec("a", given)])[0].datatype == own
