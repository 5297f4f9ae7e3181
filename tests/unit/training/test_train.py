import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tidegate.errors import DataError, TrainingError
from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.inputs import input_arrays
from tidegate.packaging.running.session import open_session
from tidegate.packaging.signature import infer_inputs
from tidegate.packaging.sources.opening import open_source
from tidegate.project import Project
from tidegate.training.train import train_candidates
from tidegate.training.training_set import build_training_set

UNTIL = datetime(2013, 4, 1, tzinfo=UTC)
MakeProject = Callable[..., Project]
GOOD = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
import helper

def train(data):
    assert data.inputs.dtypes.astype(str).to_dict() == {"origin": "object", "distance": "int64", "weather__temp": "float32"}
    assert set(data.label) == {0, 1} and data.label.dtype == "int64"
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["origin"]), ("passthrough", ["distance"]))
    model = make_pipeline(columns, LogisticRegression(C=data.parameters["c"], random_state=data.seed))
    return {helper.NAME: model.fit(data.inputs, data.label)}
"""


@pytest.fixture
def training_set(tmp_path: Path, make_project: MakeProject, repository: Any) -> Path:
    path = tmp_path / "training_set.parquet"
    pq.write_table(build_training_set(make_project(), repository, UNTIL), path)
    return path


def test_candidates_are_fitted_on_the_train_split_and_written(
    tmp_path: Path, make_project: MakeProject, training_set: Path
) -> None:
    (tmp_path / "helper.py").write_text("NAME = 'logistic'")
    project = make_project(code=GOOD, training={"parameters": {"c": 0.5}, "seed": 3})

    names = train_candidates(project, training_set, tmp_path / "source")

    assert names == ["logistic"]
    model = joblib.load(tmp_path / "source" / "logistic" / "model.joblib")
    assert (model[-1].C, model[-1].random_state) == (0.5, 3)
    table = pq.read_table(training_set)
    assert model[0].n_features_in_ == 3
    assert len(table.filter(pc.equal(table["split"], "holdout"))) > 0


BOOSTED = """
import lightgbm, xgboost
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

def train(data):
    def of(trees):
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        columns = make_column_transformer((encoder, ["origin"]), ("passthrough", ["distance", "weather__temp"]))
        return make_pipeline(columns, trees).fit(data.inputs, data.label)
    small = {"n_estimators": 4, "n_jobs": 1}
    return {
        "xgboost": of(xgboost.XGBClassifier(**small)),
        "lightgbm": of(lightgbm.LGBMClassifier(**small, verbose=-1)),
    }
"""


def test_candidates_of_any_framework_that_behaves_as_scikit_learns_are_kept_and_packaged(
    tmp_path: Path, make_project: MakeProject, training_set: Path
) -> None:
    project = make_project(code=BOOSTED)

    names = train_candidates(project, training_set, tmp_path / "source")

    assert names == ["lightgbm", "xgboost"]
    rows = pq.read_table(training_set)
    for name in names:
        source = open_source(tmp_path / "source" / name / "model.joblib")
        inputs = source.accept(infer_inputs(rows, source.columns, None))
        arrays = input_arrays(rows, inputs)
        graph = open_session(source.to_onnx(inputs, arrays).SerializeToString(), Runtime())
        found = graph.run(["probability"], arrays)[0]
        np.testing.assert_allclose(found, source.predict(arrays)["probability"], atol=1e-6)


def test_the_projects_modules_leave_no_trace(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    (tmp_path / "helper.py").write_text("NAME = 'logistic'")
    project = make_project(code=GOOD, training={"parameters": {"c": 1.0}})

    train_candidates(project, training_set, tmp_path / "source")

    assert "train" not in sys.modules
    assert "helper" not in sys.modules
    assert str(tmp_path) not in sys.path


def test_training_again_replaces_all_candidates(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    project = make_project(code="from sklearn.dummy import DummyClassifier\nNAMES = ['a', 'b']\n" + DUMMIES)
    assert train_candidates(project, training_set, tmp_path / "source") == ["a", "b"]

    project = make_project(code="from sklearn.dummy import DummyClassifier\nNAMES = ['c']\n" + DUMMIES)
    assert train_candidates(project, training_set, tmp_path / "source") == ["c"]

    assert [path.name for path in (tmp_path / "source").iterdir()] == ["c"]


DUMMIES = """
def train(data):
    return {name: DummyClassifier().fit(data.inputs, data.label) for name in NAMES}
"""


def test_one_classifier_needs_no_name(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    code = (
        "from sklearn.dummy import DummyClassifier\ndef train(data):\n    return DummyClassifier().fit(data.inputs, data.label)"
    )

    assert train_candidates(make_project(code=code), training_set, tmp_path / "source") == ["model"]


FAKE = """
import numpy as np
class Fake:
    classes_ = np.array([0, 1])
    def predict_proba(self, inputs):
        return np.full((len(inputs), 2), 0.5)
"""


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param(None, r"no module 'train' in .*; modules there: none", id="no module"),
        pytest.param("x = 1", "train holds nothing of that name", id="no function"),
        pytest.param("train = 1", "train holds int; a function is needed", id="not a function"),
        pytest.param("def train(data:\n", r"SyntaxError.*train\.py:1", id="syntax error"),
        pytest.param(
            "import no_such_package\ndef train(data): ...", r"No module named 'no_such_package'.*train\.py:1", id="import"
        ),
        pytest.param("1 / 0", r"importing it failed: ZeroDivisionError: division by zero .*train\.py:1", id="import raises"),
        pytest.param(
            "def train(data):\n    return 1 / 0", r"raised ZeroDivisionError: division by zero .*train\.py:2", id="raises"
        ),
        pytest.param("def train(data):\n    raise SystemExit(3)", r"raised SystemExit: 3 .*train\.py:2", id="exits"),
        pytest.param(
            "def train(data):\n    data.inputs['nothing']", r"raised KeyError: 'nothing' .*train\.py:2", id="raises below it"
        ),
        pytest.param("def train(data): ...", "NoneType, which has no predict_proba", id="returns nothing"),
        pytest.param("def train(data):\n    return {}", "returned no candidate", id="returns no candidate"),
        pytest.param(FAKE + "def train(data):\n    return {'A b': Fake()}", "candidate name 'A b' must match", id="bad name"),
        pytest.param(
            "from sklearn.dummy import DummyClassifier\ndef train(data):\n    return DummyClassifier()",
            "no classes_; fit it",
            id="unfitted",
        ),
        pytest.param(
            FAKE + "def train(data):\n    Fake.classes_ = np.array(['a', 'b'])\n    return Fake()",
            r"has classes_ \['a', 'b'\]; \[0, 1\] is needed",
            id="other classes",
        ),
        pytest.param(
            FAKE + "def train(data):\n    Fake.predict_proba = lambda self, inputs: np.zeros(3)\n    return Fake()",
            r"array of shape \(3,\)",
            id="wrong shape",
        ),
        pytest.param(
            FAKE + "def train(data):\n    Fake.predict_proba = lambda self, x: np.full((len(x), 2), np.nan)\n    return Fake()",
            "not probabilities",
            id="not probabilities",
        ),
        pytest.param(
            FAKE + "def train(data):\n    fake = Fake()\n    fake.f = (n for n in [])\n    return fake",
            "could not be (written|pickled)",
            id="no pickle",
        ),
    ],
)
def test_a_train_function_that_fails_leaves_nothing(
    tmp_path: Path, make_project: MakeProject, training_set: Path, code: str | None, problem: str
) -> None:
    out = tmp_path / "out" / "source"

    with pytest.raises(TrainingError, match=problem) as error:
        train_candidates(make_project(code=code), training_set, out)

    assert "\n" not in str(error.value)
    assert not out.exists()
    assert [path.name for path in tmp_path.glob("out/*")] in ([], ["source.log"])


def test_the_whole_traceback_is_kept_beside(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    project = make_project(code="def inner():\n    raise ValueError('first line\\nsecond line')\ndef train(data):\n    inner()")

    with pytest.raises(TrainingError, match=r"train\.py:2.*source\.log"):
        train_candidates(project, training_set, tmp_path / "source")

    assert "in inner" in (tmp_path / "source.log").read_text()


def test_an_earlier_result_survives_a_failure(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    train_candidates(
        make_project(code="from sklearn.dummy import DummyClassifier\nNAMES = ['a']\n" + DUMMIES),
        training_set,
        tmp_path / "source",
    )

    with pytest.raises(TrainingError):
        train_candidates(make_project(code="def train(data):\n    return 1"), training_set, tmp_path / "source")

    assert (tmp_path / "source" / "a" / "model.joblib").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda t: t.drop(["split"]), "no column 'split'", id="no split"),
        pytest.param(lambda t: t.drop(["late"]), "no column 'late'", id="no label"),
        pytest.param(lambda t: t.filter(pc.equal(t["split"], "holdout")), "the train split holds no rows", id="no rows"),
    ],
)
def test_a_malformed_training_set_is_refused(
    tmp_path: Path, make_project: MakeProject, training_set: Path, change: Callable[[Any], Any], problem: str
) -> None:
    pq.write_table(change(pq.read_table(training_set)), training_set)

    with pytest.raises(DataError, match=problem):
        train_candidates(make_project(code=GOOD), training_set, tmp_path / "source")


def test_the_same_module_name_in_two_projects(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    elsewhere = type(sys)("train")
    sys.modules["train"] = elsewhere
    try:
        code = "from sklearn.dummy import DummyClassifier\nNAMES = ['a']\n" + DUMMIES
        assert train_candidates(make_project(code=code), training_set, tmp_path / "source") == ["a"]
        assert sys.modules["train"] is elsewhere
    finally:
        del sys.modules["train"]


def test_training_data_is_the_train_split(tmp_path: Path, make_project: MakeProject, training_set: Path) -> None:
    table = pq.read_table(training_set)
    train = table.filter(pc.equal(table["split"], "train"))
    code = (
        "import numpy as np\nfrom sklearn.dummy import DummyClassifier\n"
        f"def train(data):\n    assert len(data.inputs) == {train.num_rows}\n"
        "    return DummyClassifier(strategy='prior').fit(data.inputs, data.label)"
    )

    train_candidates(make_project(code=code), training_set, tmp_path / "source")

    model = joblib.load(tmp_path / "source" / "model" / "model.joblib")
    assert model.class_prior_[1] == pytest.approx(np.mean(train["late"].to_numpy()))
