import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from tidegate.errors import DataError, PackageError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import InputPolicy, SourceFacts
from tidegate.packaging.format.package import verify_package
from tidegate.packaging.inputs import training_arrays
from tidegate.packaging.packager import Examples, PackageSettings, package_candidates, package_model
from tidegate.packaging.running.inference import PackageModel
from tidegate.packaging.sources.opening import open_source, wrap_model
from tidegate.project import load_project

INPUTS = ("carrier", "origin", "distance", "hour", "temp")
SETTINGS = PackageSettings(name="late", request_inputs=INPUTS)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    with threadpool_limits(1):  # OpenMP threads that wait for a busy core cost more than they bring
        yield


@pytest.mark.parametrize(
    "name",
    ["regression", "mlp", "boosted-onehot", "boosted-ordinal", "boosted-categorical", "forest", "gradient-boosting"],
)
def test_the_graph_agrees_with_its_source(name: str, fitted: Callable[[str], Any], examples: Examples, tmp_path: Path) -> None:
    package_model(wrap_model(fitted(name), name), candidate=name, examples=examples, settings=SETTINGS, out=tmp_path / name)

    model, golden = PackageModel(tmp_path / name), read_golden(tmp_path / name / "golden.npz")
    expected = fitted(name).predict_proba(pd.DataFrame(training_arrays(examples.reference, INPUTS)))[:, 1]
    np.testing.assert_allclose(model.outputs_of(golden.inputs)["probability"], golden.outputs["probability"], atol=1e-5)
    np.testing.assert_allclose(model.predict(examples.reference), expected, atol=1e-5)


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
    lowest, highest = min(examples.training["hour"].to_pylist()), max(examples.training["hour"].to_pylist())
    assert edges["hour"].min() < lowest
    assert edges["hour"].max() > highest
    assert {"never seen ☃", ""} <= set(edges["carrier"])
    assert np.isnan(edges["temp"]).sum() == 1
    assert golden.rows < 320


def test_edges_that_the_source_refuses_are_left_out(examples: Examples, tmp_path: Path) -> None:
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder

    strict = make_pipeline(ColumnTransformer([("origin", OneHotEncoder(), ["origin"])]), LogisticRegression())
    strict.fit(pd.DataFrame(training_arrays(examples.training, ["origin"])), examples.training["late"].to_numpy())
    settings = PackageSettings(name="late", request_inputs=("origin",))

    package_model(
        wrap_model(strict, "strict"), candidate="strict", examples=examples, settings=settings, out=tmp_path / "strict"
    )

    golden = read_golden(tmp_path / "strict" / "golden.npz")
    assert golden.rows == 257, "of the edges, only the rarest category is one that it knows"
    assert set(golden.inputs["origin"].ravel()) == {"EWR", "JFK", "LGA"}


class Fixed:
    """A source of the task "tensors" that answers 1.0, and a graph that answers as it is told."""

    facts, task, classes, columns = SourceFacts(framework="none", version="0", kind="Fixed"), "tensors", (), ()

    def __init__(self, *, name: str = "y", shape: tuple[int, ...] = (-1,), kind: int = onnx.TensorProto.FLOAT) -> None:
        self.name, self.shape, self.kind = name, shape, kind

    def accept(self, inputs: Any) -> Any:
        return tuple(inputs)

    def predict(self, inputs: Any) -> dict[str, np.ndarray]:
        return {"y": np.ones(len(inputs["hour"]), np.float32)}

    def to_onnx(self, inputs: Any, example: Any) -> onnx.ModelProto:
        shape = onnx.numpy_helper.from_array(np.asarray(self.shape, dtype=np.int64), "shape")
        nodes = [
            onnx.helper.make_node("Sub", ["hour", "hour"], ["zero"]),
            onnx.helper.make_node("Exp", ["zero"], ["one"]),
            onnx.helper.make_node("Reshape", ["one", "shape"], ["shaped"]),
            onnx.helper.make_node("Cast", ["shaped"], [self.name], to=self.kind),
        ]
        value = onnx.helper.make_tensor_value_info
        output = value(self.name, self.kind, [None] * len(self.shape))
        graph = onnx.helper.make_graph(nodes, "fixed", [value("hour", 1, [None, 1])], [output], [shape])
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_a_source_of_any_kind_is_packaged(examples: Examples, tmp_path: Path) -> None:
    settings = PackageSettings(name="fixed", request_inputs=("hour",))

    manifest = package_model(Fixed(), candidate="fixed", examples=examples, settings=settings, out=tmp_path / "fixed")

    assert (manifest.task, manifest.threshold, manifest.classes) == ("tensors", None, ())
    assert verify_package(tmp_path / "fixed").signature.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param(Fixed(name="z"), "the graph answers z, but the model itself y", id="another name"),
        pytest.param(Fixed(shape=(-1, 1)), r"answers 'y' as float32 of shape \[5, 1\].* as float32 of shape \[5\]", id="shape"),
        pytest.param(Fixed(kind=onnx.TensorProto.DOUBLE), "answers 'y' as float64 of shape", id="datatype"),
        pytest.param(Fixed(shape=(7,)), "the converted graph cannot run", id="no batch but its own"),
    ],
)
def test_a_graph_that_answers_otherwise_is_refused(source: Fixed, said: str, examples: Examples, tmp_path: Path) -> None:
    settings = PackageSettings(name="fixed", request_inputs=("hour",))

    with pytest.raises(PackageError, match=said):
        package_model(source, candidate="fixed", examples=examples, settings=settings, out=tmp_path / "fixed")

    assert list(tmp_path.iterdir()) == []


def test_regressions_and_several_classes_are_packaged(examples: Examples, tmp_path: Path) -> None:
    frame = pd.DataFrame(training_arrays(examples.training, ["hour", "distance"]))
    named = np.array(["early", "day", "late"])[np.digitize(frame["hour"], [9, 17])]
    models = {"number": Ridge().fit(frame, frame["hour"] * 2), "classes": LogisticRegression().fit(frame, named)}
    settings = PackageSettings(name="any", request_inputs=("hour", "distance"))
    rows = examples.reference.append_column("named", [np.array(["early", "day", "late"])[examples.reference["late"]]])

    made = {
        name: package_model(
            wrap_model(model, name),
            candidate=name,
            examples=Examples(training=examples.training, reference=rows, label_column=label),
            settings=settings,
            out=tmp_path / name,
        )
        for (name, model), label in zip(models.items(), ("temp", "named"), strict=True)
    }

    assert [manifest.task for manifest in made.values()] == ["regression", "multiclass-classification"]
    assert made["classes"].classes == ("day", "early", "late")
    labels = pq.read_table(tmp_path / "classes" / "reference.parquet")["label"].to_pylist()
    assert labels == [{0: 1, 1: 0}[late] for late in examples.reference["late"].to_pylist()]
    found = PackageModel(tmp_path / "number").predict(examples.reference)
    np.testing.assert_allclose(found, np.asarray(examples.reference["hour"]) * 2, rtol=1e-4)


def test_the_label_is_no_input(fitted: Callable[[str], Any], examples: Examples, tmp_path: Path) -> None:
    settings = PackageSettings(name="late", request_inputs=(*INPUTS, "late"))

    with pytest.raises(DataError, match="input 'late' is the label column"):
        package_model(wrap_model(fitted("mlp"), "m"), candidate="m", examples=examples, settings=settings, out=tmp_path / "m")


def _labelled_by(examples: Examples, column: str) -> Examples:
    rows = examples.reference
    labels = pa.array([9] * rows.num_rows) if column == "gates" else rows[column]
    return Examples(training=examples.training, reference=rows.append_column("other", labels), label_column="other")


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
        pytest.param(lambda e: _labelled_by(e, "origin"), "'other' holds '...', which is none of the classes 0, 1",
                     id="label of other classes"),
        pytest.param(lambda e: _labelled_by(e, "distance"), "'other' has type int64; class numbers", id="label of no classes"),
        pytest.param(lambda e: _labelled_by(e, "hour"), "'other' has type float; class numbers", id="label of a wrong type"),
        pytest.param(lambda e: _labelled_by(e, "gates"), "holds class 9; the model's are 0 to 1", id="a class too many"),
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

    with pytest.raises(PackageError, match=r"model\.joblib: (cannot be loaded|no such file)"):
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
serving: {threshold: 0.4, validation: {out_of_range: clamp, inputs: {carrier: {missing: impute, value: AA}}}}
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
    policies = {spec.name: spec.policy for spec in manifest.signature.inputs}
    assert policies["carrier"] == InputPolicy(missing="impute", imputed="AA")
    assert policies["distance"] == InputPolicy(out_of_range="clamp")
    digest = hashlib.sha256((tmp_path / "source" / "mlp" / "model.joblib").read_bytes()).hexdigest()
    assert manifest.source is not None
    assert manifest.source.digest == f"sha256:{digest}"


def test_a_source_without_candidates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tidegate.yaml").write_text(PROJECT)

    with pytest.raises(PackageError, match="train first"):
        package_candidates(
            load_project(tmp_path / "tidegate.yaml"), tmp_path / "none", tmp_path / "t.parquet", None, None, tmp_path / "out"
        )


def _with_split(examples: Examples) -> pa.Table:
    parts = [(examples.training, "train"), (examples.reference, "holdout")]
    return pa.concat_tables(table.append_column("split", pa.array([name] * table.num_rows)) for table, name in parts)
