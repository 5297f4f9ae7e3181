"""Rows that depend on each other are found out; rows that do not are not suspected."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from tests import small_packages
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession
from tidegate.serving.model.engine import tolerances
from tidegate.serving.model.independence import why_rows_depend

RNG = np.random.default_rng(5)
WIDTH = 6


def of_any_name(_name: str, expected: np.ndarray) -> tuple[float, float]:
    return tolerances(expected)


def float_graph(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> bytes:
    """Make a graph from `x` to `y`, [rows, WIDTH] both."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in ("x", "y")]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    made: bytes = model.SerializeToString()
    return made


def perceptron() -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["y"]),
    ]
    first, second = (RNG.normal(size=shape).astype(np.float32) for shape in ((WIDTH, 32), (32, WIDTH)))
    return float_graph(nodes, first=first, second=second)


def over_the_batch(operator: str, **attributes: int) -> bytes:
    nodes = [
        helper.make_node(operator, ["x", "rows_axis"], ["total"], keepdims=1),
        helper.make_node("Sub", ["x", "total"], ["y"]),
    ]
    if operator == "Softmax":
        return float_graph([helper.make_node("Softmax", ["x"], ["y"], axis=0)])
    return float_graph(nodes, rows_axis=np.array([0]))


def why(graph: bytes, rows: int = 6, scale: float = 1.0) -> str | None:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": session.run(["y"], inputs)[0]}

    inputs = {"x": (RNG.normal(size=(rows, WIDTH)) * scale).astype(np.float32)}
    return why_rows_depend(run, Golden(inputs, run(inputs)), of_any_name)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2, 6, 40])
@pytest.mark.parametrize(
    "graph",
    [
        pytest.param(over_the_batch("ReduceMax"), id="the greatest of the batch"),
        pytest.param(over_the_batch("ReduceMean"), id="the mean of the batch"),
        pytest.param(over_the_batch("Softmax"), id="a softmax over the batch"),
    ],
)
def test_a_reduction_over_the_batch_is_found(graph: bytes, rows: int) -> None:
    found = why(graph, rows)
    assert found is not None
    assert "'y'" in found


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_quantizing_by_the_range_of_the_batch_is_found(tmp_path: Path, scale: float) -> None:
    (tmp_path / "float.onnx").write_bytes(perceptron())
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QInt8)
    found = why((tmp_path / "int8.onnx").read_bytes(), scale=scale)
    assert found == "a row has another 'y' when the other rows of its run hold larger numbers"


@pytest.mark.parametrize("rows", [1, 2, 6, 40])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_a_network_of_independent_rows_is_not_suspected(rows: int, scale: float) -> None:
    assert why(perceptron(), rows, scale) is None


@pytest.mark.parametrize(
    "make",
    [
        small_packages.multiclass,
        small_packages.regression,
        small_packages.image,
        small_packages.tokens,
        small_packages.every_type,
    ],
)
def test_packages_of_independent_rows_are_not_suspected(make: Callable[[Path], Path], tmp_path: Path) -> None:
    package = make(tmp_path / "package")
    run = GraphSession.of_package(package, read_manifest(package)).run
    assert why_rows_depend(run, read_golden(package / GOLDEN_NAME), of_any_name) is None


def test_a_graph_that_takes_no_single_row_is_found() -> None:
    pairs = [helper.make_node("Reshape", ["x", "pairs"], ["paired"]), helper.make_node("Reshape", ["paired", "single"], ["y"])]
    graph = float_graph(pairs, pairs=np.array([-1, 2 * WIDTH]), single=np.array([-1, WIDTH]))
    found = why(graph)
    assert found is not None
    assert found.startswith("row 0 of the golden sample cannot be run alone: ")
