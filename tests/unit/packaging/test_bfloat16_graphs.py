"""Graphs of bfloat16 become graphs of floats that round as bfloat16 does, and packages of BF16 inputs and outputs."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.packaging.sources.round_trip import round_trip
from tidegate.packaging.bfloat16_graphs import signature_datatype, with_float_boundary
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.running.inference import PackageModel
from tidegate.packaging.sources.onnx_model import OnnxModel

BFLOAT16, FLOAT, BOOL = TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.BOOL
WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
Values = dict[str, tuple[int, list[Any]]]


def graph(nodes: list[onnx.NodeProto], inputs: Values, outputs: Values, **weights: np.ndarray) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def echo() -> onnx.ModelProto:
    return graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (BFLOAT16, ["n", 4])}, {"y": (BFLOAT16, ["n", 4])})


def linear() -> onnx.ModelProto:
    """Bfloat16 at the boundary and floats inside, as exporters do it for a CPU, which has no arithmetic of bfloat16."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=FLOAT),
        helper.make_node("MatMul", ["wide", "weights"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["y"], to=BFLOAT16),
    ]
    return graph(nodes, {"x": (BFLOAT16, ["n", 4])}, {"y": (BFLOAT16, ["n", 3])}, weights=WEIGHTS)


def branching() -> onnx.ModelProto:
    """A branch that reads the bfloat16 input from outside itself."""

    def branch(name: str, operator: str) -> onnx.GraphProto:
        body = [
            helper.make_node("Cast", ["x"], [f"{name} wide"], to=FLOAT),
            helper.make_node(operator, [f"{name} wide"], [name]),
        ]
        return helper.make_graph(body, name, [], [helper.make_tensor_value_info(name, FLOAT, ["n", 4])])

    choose = helper.make_node("If", ["flag"], ["y"], then_branch=branch("then", "Neg"), else_branch=branch("else", "Abs"))
    return graph([choose], {"x": (BFLOAT16, ["n", 4])}, {"y": (FLOAT, ["n", 4])}, flag=np.array(True))


def as_bfloat16(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def answer(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": x})[0])


AWKWARD = np.array([[1.00390625, 1.01171875, -0.0, 1e-40], [np.nan, np.inf, -np.inf, 3.4e38]], np.float32)


def test_values_pass_as_the_nearest_bfloat16() -> None:
    found = answer(with_float_boundary(echo()), AWKWARD)
    np.testing.assert_array_equal(found, as_bfloat16(AWKWARD))
    assert np.signbit(found[0, 2])


@pytest.mark.parametrize("make", [echo, linear, branching])
def test_the_boundary_is_of_floats_that_the_signature_calls_bf16(make: Any) -> None:
    before = make()
    untouched = before.SerializeToString()
    after = with_float_boundary(before)

    onnx.checker.check_model(after, full_check=True)
    assert before.SerializeToString() == untouched
    for old, new in zip((*before.graph.input, *before.graph.output), (*after.graph.input, *after.graph.output), strict=True):
        assert (new.name, new.type.tensor_type.elem_type) == (old.name, FLOAT)
        assert signature_datatype(new) == ("BF16" if old.type.tensor_type.elem_type == BFLOAT16 else "FP32")


def test_a_branch_reads_the_rounded_input() -> None:
    x = np.array([[1.00390625, 2.0, -3.0, 0.0]], np.float32)
    np.testing.assert_array_equal(answer(with_float_boundary(branching()), x), -as_bfloat16(x))


def test_an_output_that_the_graph_reads_itself_stays_bfloat16_inside() -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Cast", ["y"], ["z"], to=FLOAT)]
    shape = ["n", 4]
    model = graph(nodes, {"x": (BFLOAT16, shape)}, {"y": (BFLOAT16, shape), "z": (FLOAT, shape)})
    session = ort.InferenceSession(with_float_boundary(model).SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(["y", "z"], {"x": AWKWARD})
    np.testing.assert_array_equal(y, as_bfloat16(AWKWARD))
    np.testing.assert_array_equal(z, y)


def test_a_graph_without_bfloat16_is_left_alone() -> None:
    plain = graph([helper.make_node("Neg", ["x"], ["y"])], {"x": (FLOAT, ["n"])}, {"y": (FLOAT, ["n"])})
    assert with_float_boundary(plain) is plain


def test_a_source_of_bfloat16_is_its_own_truth() -> None:
    trip = round_trip(OnnxModel(linear(), "linear"), {"x": np.random.default_rng(1).random((5, 4))})

    assert (trip.inputs[0].datatype, trip.inputs[0].shape) == ("BF16", (-1, 4))
    assert trip.outputs == {"y": ("BF16", (-1, 3))}
    expected = as_bfloat16(as_bfloat16(trip.arrays["x"]) @ WEIGHTS)
    np.testing.assert_allclose(trip.source.predict(trip.arrays)["y"], expected, rtol=2**-8)
    trip.assert_agrees()


def test_a_package_says_bf16_and_runs_on_floats(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)
    table = pa.table({"x": tensor_column(rows)})
    manifest = package_model(
        OnnxModel(linear(), "linear"),
        candidate="linear",
        examples=Examples(training=table, reference=table, label_column=None),
        settings=PackageSettings(name="halves", request_inputs=("x",)),
        out=tmp_path / "package",
    )

    assert [(spec.name, spec.datatype) for spec in (*manifest.signature.inputs, *manifest.signature.outputs)] == [
        ("x", "BF16"),
        ("y", "BF16"),
    ]
    golden = read_golden(tmp_path / "package" / GOLDEN_NAME)
    found = PackageModel(tmp_path / "package").outputs_of(golden.inputs)["y"]
    assert found.dtype == golden.inputs["x"].dtype == np.float32
    np.testing.assert_array_equal(found, golden.outputs["y"])
    np.testing.assert_array_equal(found, as_bfloat16(found))


def test_many_columns_of_bfloat16_are_packed_as_any_others(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(5)]
    nodes = [
        helper.make_node("Concat", names, ["all"], axis=1),
        helper.make_node("Cast", ["all"], ["wide"], to=FLOAT),
        helper.make_node("ReduceSum", ["wide", "axis"], ["y"]),
    ]
    model = graph(nodes, {name: (BFLOAT16, ["n", 1]) for name in names}, {"y": (FLOAT, ["n", 1])}, axis=np.array([1], np.int64))
    table = pa.table({name: np.linspace(0, 1, 10, dtype=np.float32) for name in names})
    manifest = package_model(
        OnnxModel(model, "sum"),
        candidate="sum",
        examples=Examples(training=table, reference=table, label_column=None),
        settings=PackageSettings(name="sum", request_inputs=tuple(names)),
        out=tmp_path / "package",
    )

    assert [(part.datatype, part.columns) for part in manifest.packing] == [("BF16", tuple(names))]
    one = np.full((1, 1), 1.00390625, np.float32)
    assert PackageModel(tmp_path / "package").outputs_of(dict.fromkeys(names, one))["y"].tolist() == [[5.0]]
