"""The proof of a fresh package: a graph that is not its source's is refused, at the sample's lengths and at others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidegate.errors import PackageError
from tidegate.optimization.gates.conversion import prove_conversion
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.onnx_model import OnnxModel
from tidegate.packaging.sources.source import Array

ROWS, LENGTH = 12, 6


def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A graph over `x`, [n, length], that gives `y`, [n]."""
    made = helper.make_graph(
        [*nodes],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
        [
            numpy_helper.from_array(np.asarray([1]), "one"),
            numpy_helper.from_array(np.asarray(1), "axis"),
            numpy_helper.from_array(np.asarray(LENGTH - 1), "last"),
            numpy_helper.from_array(np.asarray(1e-2, dtype=np.float32), "little"),
        ],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


SUM = helper.make_node("ReduceSum", ["x", "one"], ["y"], keepdims=0)
LAST = [helper.make_node("CumSum", ["x", "axis"], ["sums"]), helper.make_node("Gather", ["sums", "last"], ["y"], axis=1)]
OFF = [
    helper.make_node("ReduceSum", ["x", "one"], ["sum"], keepdims=0),
    helper.make_node("Add", ["sum", "little"], ["y"]),
]


class Converted(OnnxModel):
    """A source whose converter makes another graph of it than its own."""

    def __init__(self, own: onnx.ModelProto, converted: onnx.ModelProto) -> None:
        super().__init__(own, "model")
        self._converted = converted

    def to_onnx(self, inputs: Sequence[Any], example: Mapping[str, Array]) -> onnx.ModelProto:
        return self._converted


def packaged(source: Converted, folder: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(ROWS, LENGTH)).astype(np.float32)
    rows = pa.table({"x": tensor_column(values)})
    package_model(
        source,
        candidate="model",
        examples=Examples(training=rows, reference=rows, label_column=None),
        settings=PackageSettings(name="model", request_inputs=("x",)),
        out=folder / "package",
    )
    return folder / "package"


def test_a_graph_that_agrees_has_its_numbers_in_the_verdicts(tmp_path: Path) -> None:
    source = Converted(graph(SUM), graph(SUM))

    verdicts = prove_conversion(packaged(source, tmp_path), source)

    assert [(verdict.gate, verdict.passed) for verdict in verdicts] == [("parity", True)]
    assert 0 <= verdicts[0].value < 0.01


@pytest.mark.parametrize(
    ("converted", "said"),
    [
        pytest.param(graph(*OFF), r"does not agree with the source model: largest error of y", id="another answer"),
        pytest.param(graph(*LAST), "at length 1 of its varying axes: the graph fails", id="right at the sample's length only"),
    ],
)
def test_a_graph_that_does_not_agree_is_refused_with_the_way_out(tmp_path: Path, converted: onnx.ModelProto, said: str) -> None:
    source = Converted(graph(SUM), converted)
    package = packaged(source, tmp_path)

    with pytest.raises(PackageError, match=said) as refused:
        prove_conversion(package, source)

    assert "nothing was written; change what the converter gets wrong, or convert the model yourself" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_lengths_that_the_source_itself_refuses_are_not_held_against_the_graph(tmp_path: Path) -> None:
    source = Converted(graph(*LAST), graph(*LAST))

    verdicts = prove_conversion(packaged(source, tmp_path), source)

    assert all(verdict.passed for verdict in verdicts)
