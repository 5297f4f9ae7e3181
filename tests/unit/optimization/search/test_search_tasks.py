"""The search over packages of every task: several classes, numbers, and tensors that have no metric."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LinearRegression, LogisticRegression

from tidegate.errors import DataError, OptimizationError
from tidegate.optimization.isolation.workers import Limits
from tidegate.optimization.search.progress import Silent
from tidegate.optimization.search.question import Question
from tidegate.optimization.search.search import optimize
from tidegate.packaging.format.package import verify_package
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.opening import wrap_model
from tidegate.project import AccuracyGate, BenchmarkGate, GatesSection, OutputTolerances, ParityGate

COLUMNS = ("a", "b", "c")


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows with a number to predict, the class it falls in, and an image."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(600, 3)).astype(np.float32)
    number = values @ [1.0, -2.0, 0.5] + rng.normal(0, 0.3, 600)
    kind = np.array(["low", "middle", "high"])[np.digitize(number, [-1, 1])]
    columns = {name: values[:, index] for index, name in enumerate(COLUMNS)}
    return pa.table({**columns, "number": number, "kind": kind, "image": tensor_column(rng.random((600, 4, 4)).astype("f4"))})


def package(model: Any, rows: pa.Table, inputs: tuple[str, ...], label: str | None, out: Path) -> Path:
    package_model(
        wrap_model(model, "model"),
        candidate="model",
        examples=Examples(training=rows.slice(0, 400), reference=rows.slice(400), label_column=label),
        settings=PackageSettings(name="tiny", request_inputs=inputs),
        out=out,
    )
    return out


@pytest.fixture(scope="module")
def packages(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    frame = pd.DataFrame({name: rows[name].to_numpy() for name in COLUMNS}).head(400)
    number, kind = rows["number"].to_numpy()[:400], rows["kind"].to_numpy(zero_copy_only=False)[:400]
    return {
        "regression": package(LinearRegression().fit(frame, number), rows, COLUMNS, "number", folder / "regression"),
        "classes": package(LogisticRegression().fit(frame, kind), rows, COLUMNS, "kind", folder / "classes"),
        "tensors": package(_dense_graph(), rows, ("image",), None, folder / "tensors"),
    }


def _dense_graph() -> onnx.ModelProto:
    weights = numpy_helper.from_array(np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32), "w")
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["embedding"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 4, 4])
    embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 8])
    graph = helper.make_graph(nodes, "g", [image], [embedding], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def ask(rows: pa.Table, label: str | None, **gates: Any) -> Question:
    benchmark = BenchmarkGate(rounds=3, calls_per_round=10, batch_sizes=(1, 8), max_seconds=1)
    gates = {"parity": ParityGate(), "accuracy": None, **gates}
    return Question(
        gates=GatesSection(benchmark=benchmark, objective="cost", **gates),
        holdout=rows.slice(400),
        label_column=label,
        seed=0,
        limits=Limits(seconds=60),
    )


@pytest.mark.parametrize(
    ("task", "label", "metric"),
    [
        pytest.param("regression", "number", "rmse", id="regression"),
        pytest.param("classes", "kind", "accuracy", id="several classes, named"),
        pytest.param("tensors", None, None, id="tensors"),
    ],
)
def test_a_variant_of_any_task_is_selected(packages, rows, tmp_path: Path, task: str, label: str | None, metric) -> None:
    usual = {} if metric is None else {"accuracy": AccuracyGate(metric=metric, max_loss=0.2)}

    selection = optimize(packages[task], ["model/graph-optimized"], ask(rows, label, **usual), tmp_path / "out", Silent())

    assert selection.winner is not None, selection.reasons
    assert {row.status for row in selection.rows} <= {"passed", "not-applicable"}
    row = selection.row(selection.winner)
    assert (row.accuracy and row.accuracy.metric) == metric
    assert all(verdict.passed for verdict in row.verdicts)
    assert verify_package(tmp_path / "out" / "package").search


@pytest.mark.parametrize(
    ("task", "label", "gates", "error", "said"),
    [
        pytest.param("tensors", "number", {}, DataError, "a model of tensors has no score to judge", id="labels of tensors"),
        pytest.param(
            "regression", "number", {"accuracy": AccuracyGate(metric="roc_auc")}, OptimizationError,
            "gates.accuracy.metric: roc_auc does not judge regression", id="another task's metric",
        ),
        pytest.param(
            "regression", None, {"parity": ParityGate(outputs={"probability": OutputTolerances()})}, OptimizationError,
            "gates.parity.outputs.probability: no such output; the model has prediction", id="another model's output",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_found_before_anything_is_built(packages, rows, task, label, gates, error, said: str) -> None:
    from tidegate.packaging.format.package import read_manifest

    with pytest.raises(error, match=said):
        ask(rows, label, **gates).rows(read_manifest(packages[task]))
