from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tidegate.errors import DataError, PackageError
from tidegate.optimization.parity import measure_parity
from tidegate.packaging.golden import read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.package import verify_package
from tidegate.packaging.packager import Examples, PackageSettings, package_candidates, package_model
from tidegate.packaging.sources.opening import open_source, wrap_model
from tidegate.project import load_project

INPUTS = ("carrier", "origin", "distance", "hour", "temp")
SETTINGS = PackageSettings(name="late", request_inputs=INPUTS)


class Unconvertible(ClassifierMixin, BaseEstimator):
    classes_ = np.array([0, 1])

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        return np.tile([0.4, 0.6], (len(frame), 1))


@pytest.mark.parametrize("name", ["regression", "mlp", "boosted-onehot", "boosted-ordinal", "forest", "gradient-boosting"])
def test_the_graph_agrees_with_its_source(name: str, fitted: Callable[[str], Any], examples: Examples, tmp_path: Path) -> None:
    package_model(wrap_model(fitted(name), name), candidate=name, examples=examples, settings=SETTINGS, out=tmp_path / name)

    model = PackageModel(tmp_path / name)
    parity = measure_parity(model, read_golden(tmp_path / name / "golden.npz"))
    expected = fitted(name).predict_proba(pd.DataFrame(training_arrays(examples.reference, INPUTS)))[:, 1]
    assert parity.max_absolute < 1e-5
    assert parity.flip_rate == 0
    np.testing.assert_allclose(model.predict(examples.reference), expected, atol=1e-5)


def test_the_silently_wrong_export_of_categorical_boosting_shows_in_parity(
    fitted: Callable[[str], Any], examples: Examples, tmp_path: Path
) -> None:
    model = fitted("boosted-categorical")
    package_model(
        wrap_model(model, "boosted"), candidate="boosted", examples=examples, settings=SETTINGS, out=tmp_path / "boosted"
    )

    parity = measure_parity(PackageModel(tmp_path / "boosted"), read_golden(tmp_path / "boosted" / "golden.npz"))

    assert parity.max_absolute > 0.01


def test_the_graph_has_one_input_a_column_and_one_output(
    fitted: Callable[[str], Any], examples: Examples, tmp_path: Path
) -> None:
    package_model(wrap_model(fitted("mlp"), "mlp"), candidate="mlp", examples=examples, settings=SETTINGS, out=tmp_path / "mlp")

    graph = onnx.load(tmp_path / "mlp" / "model.onnx").graph
    kinds = [value.type.tensor_type.elem_type for value in graph.input]
    text, integer, real = onnx.TensorProto.STRING, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    assert [value.name for value in graph.input] == list(INPUTS)
    assert kinds == [text, text, integer, real, real]
    assert [value.name for value in graph.output] == ["probability"]
    assert "ArgMax" not in {node.op_type for node in graph.node}, "nodes that only serve the dropped label are dropped too"


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(LogisticRegression(), id="a bare linear model"),
        pytest.param(HistGradientBoostingClassifier(max_iter=10), id="bare boosting"),
        pytest.param(make_pipeline(StandardScaler(), LogisticRegression()), id="a pipeline without ColumnTransformer"),
    ],
)
def test_a_model_that_reads_a_matrix_is_given_its_columns_in_order(model: Any, examples: Examples, tmp_path: Path) -> None:
    frame = pd.DataFrame(training_arrays(examples.training, ["hour", "distance"]))
    model.fit(frame, examples.training["late"].to_numpy())
    settings = PackageSettings(name="late", request_inputs=("distance", "hour"))

    package_model(wrap_model(model, "bare"), candidate="bare", examples=examples, settings=settings, out=tmp_path / "bare")

    expected = model.predict_proba(pd.DataFrame(training_arrays(examples.reference, ["hour", "distance"])))[:, 1]
    np.testing.assert_allclose(PackageModel(tmp_path / "bare").predict(examples.reference), expected, atol=1e-5)


def test_a_model_that_reads_a_column_it_is_not_given_is_refused(
    fitted: Callable[[str], Any], examples: Examples, tmp_path: Path
) -> None:
    settings = PackageSettings(name="late", request_inputs=("carrier", "origin", "distance", "hour"))

    with pytest.raises(PackageError, match="it reads column 'temp', which is not among carrier, origin, distance, hour"):
        package_model(
            wrap_model(fitted("mlp"), "mlp"), candidate="mlp", examples=examples, settings=settings, out=tmp_path / "mlp"
        )


def test_an_unused_input_stays_part_of_the_signature(examples: Examples, tmp_path: Path) -> None:
    frame = pd.DataFrame(training_arrays(examples.training, ["hour"]))
    model = LogisticRegression().fit(frame, examples.training["late"].to_numpy())
    settings = PackageSettings(name="late", request_inputs=("hour", "origin"))

    manifest = package_model(
        wrap_model(make_pipeline(_only("hour"), model), "one"),
        candidate="one",
        examples=examples,
        settings=settings,
        out=tmp_path / "one",
    )

    assert [spec.name for spec in manifest.signature.inputs] == ["hour", "origin"]
    assert len(PackageModel(tmp_path / "one").predict(examples.reference)) == examples.reference.num_rows


def _only(column: str) -> Any:
    from sklearn.compose import ColumnTransformer

    frame = pd.DataFrame({"hour": np.ones(2, np.float32), "origin": ["a", "b"]})
    return ColumnTransformer([("kept", "passthrough", [column])]).fit(frame)


def test_golden_rows_hold_edges_and_unknown_categories(
    fitted: Callable[[str], Any], examples: Examples, tmp_path: Path
) -> None:
    package_model(
        wrap_model(fitted("regression"), "r"), candidate="r", examples=examples, settings=SETTINGS, out=tmp_path / "r"
    )

    golden = read_golden(tmp_path / "r" / "golden.npz")
    edges = {name: array[256:, 0] for name, array in golden.inputs.items()}
    assert edges["hour"].min() == min(examples.training["hour"].to_pylist())
    assert "never seen ☃" in edges["carrier"]
    assert "" in edges["carrier"], "training held missing carriers"
    assert "" not in edges["origin"], "but no missing origins"
    assert np.isnan(edges["temp"]).sum() == 1


def test_edges_that_the_source_refuses_are_left_out(examples: Examples, tmp_path: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder

    strict = make_pipeline(ColumnTransformer([("origin", OneHotEncoder(), ["origin"])]), LogisticRegression())
    strict.fit(pd.DataFrame(training_arrays(examples.training, ["origin"])), examples.training["late"].to_numpy())
    settings = PackageSettings(name="late", request_inputs=("origin",))

    package_model(
        wrap_model(strict, "strict"), candidate="strict", examples=examples, settings=settings, out=tmp_path / "strict"
    )

    assert read_golden(tmp_path / "strict" / "golden.npz").rows == 256


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(LinearSVC(), "has no predict_proba", id="no probabilities"),
        pytest.param(LogisticRegression(), "not fitted", id="not fitted"),
        pytest.param(
            SimpleNamespace(predict_proba=print, classes_=np.array(["a", "b"])), "its classes are", id="other classes"
        ),
        pytest.param(SimpleNamespace(predict_proba=print, classes_=np.array([0, 1, 2])), "its classes are", id="three classes"),
        pytest.param(Unconvertible(), "skl2onnx cannot convert it", id="no converter"),
    ],
)
def test_what_is_no_convertible_binary_classifier_is_refused(model: Any, said: str, examples: Examples, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=said) as refused:
        package_model(wrap_model(model, "odd"), candidate="odd", examples=examples, settings=SETTINGS, out=tmp_path / "odd")

    assert "model odd" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "odd").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda e: Examples(training=e.training.slice(0, 0), reference=e.reference, label_column=None),
                     "the sample holds no rows", id="no training rows"),
        pytest.param(lambda e: Examples(training=e.training, reference=e.reference.slice(0, 0), label_column=None),
                     "the holdout holds no rows", id="no holdout rows"),
        pytest.param(lambda e: Examples(training=e.training.drop_columns("temp"), reference=e.reference, label_column=None),
                     "'temp' is missing", id="missing column"),
        pytest.param(lambda e: Examples(training=e.training, reference=e.reference.drop_columns("temp"), label_column=None),
                     "'temp' is missing", id="missing column in the holdout"),
        pytest.param(lambda e: Examples(training=e.training, reference=e.reference, label_column="nope"),
                     "label column 'nope' is missing", id="missing label"),
        pytest.param(lambda e: Examples(training=e.training, reference=e.reference, label_column="origin"),
                     "label column 'origin' has type string", id="label of a wrong type"),
    ],
)  # fmt: skip
def test_bad_examples_are_named_and_nothing_is_written(
    change: Callable[[Examples], Examples], said: str, fitted: Callable[[str], Any], examples: Examples, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        package_model(
            wrap_model(fitted("regression"), "r"),
            candidate="r",
            examples=change(examples),
            settings=SETTINGS,
            out=tmp_path / "r",
        )

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [pytest.param(b"", id="empty"), pytest.param(b"\x80\x04no pickle", id="garbled"), pytest.param(None, id="missing")],
)
def test_a_source_model_that_cannot_be_loaded_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.joblib"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(PackageError, match=r"model\.joblib: cannot be loaded"):
        open_source(file)


PROJECT = """
schema_version: 1
name: late
task: binary-classification
features:
  {repository: ., service: s, entity_rows: r.parquet, id_column: id, request_inputs: [carrier, origin, distance, hour, temp]}
label: {column: late, known_at_column: known_at, classes: [on-time, late]}
training: {function: "train:train", window_days: 10, holdout_days: 2}
gates: {accuracy: {minimum: 0.6}}
serving: {threshold: 0.4}
"""


def test_every_candidate_of_a_project_is_packaged(fitted: Callable[[str], Any], examples: Examples, tmp_path: Path) -> None:
    (tmp_path / "tidegate.yaml").write_text(PROJECT)
    for name in ("mlp", "boosted-onehot"):
        (tmp_path / "source" / name).mkdir(parents=True)
        joblib.dump(fitted(name), tmp_path / "source" / name / "model.joblib")
    pq.write_table(_with_split(examples), tmp_path / "training_set.parquet")

    names = package_candidates(
        load_project(tmp_path / "tidegate.yaml"),
        tmp_path / "source",
        tmp_path / "training_set.parquet",
        None,
        None,
        tmp_path / "packages",
    )

    assert names == ["boosted-onehot", "mlp"]
    manifest = verify_package(tmp_path / "packages" / "mlp")
    assert (manifest.name, manifest.classes, manifest.threshold) == ("late", ("on-time", "late"), 0.4)
    assert (manifest.variant.name, manifest.variant.candidate) == ("baseline", "mlp")
    assert manifest.metrics == {"training_rows": 1_500, "holdout_rows": 500}


def test_a_source_without_candidates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tidegate.yaml").write_text(PROJECT)

    with pytest.raises(PackageError, match="train first"):
        package_candidates(
            load_project(tmp_path / "tidegate.yaml"), tmp_path / "none", tmp_path / "t.parquet", None, None, tmp_path / "out"
        )


def _with_split(examples: Examples) -> pa.Table:
    parts = [(examples.training, "train"), (examples.reference, "holdout")]
    return pa.concat_tables(table.append_column("split", pa.array([name] * table.num_rows)) for table, name in parts)
