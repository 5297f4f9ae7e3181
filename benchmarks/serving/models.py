"""The models that the servers answer with: each is packaged once, and every contestant serves that package's own graph.

`trees` takes 12 named columns, as a tabular model does here; `trees-tensor` is the same graph, asked with one tensor [n, 12],
as many of KServe's users send it; `mlp` takes one tensor of 32 floats, `cnn` images [1, 8, 8]. Weights and rows are seeded.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.packager import Examples, PackageSettings, package_model
from tidegate.packaging.sources.head import with_head
from tidegate.packaging.sources.opening import wrap_model
from tidegate.packaging.sources.source import Source

NAMES = ("trees", "trees-tensor", "mlp", "cnn")
SERVED_AS = "bench"
_COLUMNS = tuple(f"x{index}" for index in range(12))
_TRAINING, _ROWS = 4_096, 64

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Case:
    """One model, and the rows that are asked about.

    Attributes:
        name: Which one.
        package: Its package; `model.onnx` in it is what everyone serves.
        graph_input: The graph's one input.
        output: The output that is compared.
        rows: What a request of 64 rows holds, by the name of the request's tensor; all within what the training data held.
    """

    name: str
    package: Path
    graph_input: str
    output: str
    rows: dict[str, Array]

    @property
    def graph(self) -> Path:
        """The graph that everyone serves."""
        return self.package / "model.onnx"

    def tensors(self, rows: int) -> dict[str, Array]:
        """Return the tensors of a request of so many rows."""
        return {name: array[:rows] for name, array in self.rows.items()}

    def feeds(self, rows: int) -> dict[str, Array]:
        """Return what the graph itself takes for such a request: its columns joined, where the request has columns."""
        tensors = list(self.tensors(rows).values())
        return {self.graph_input: np.concatenate(tensors, axis=1) if len(tensors) > 1 else np.ascontiguousarray(tensors[0])}


def build(name: str, folder: Path) -> Case:
    """Train or make a model, package it below `folder`, and return it with rows to ask about."""
    if name == "trees":
        return _trees(folder / name)
    if name == "trees-tensor":
        columns = _trees(folder / "trees-for-tensor")
        graph = onnx.load(columns.graph)
        source = with_head(wrap_model(graph, name), "binary-classification", output=columns.output)
        return _packaged(name, source, np.concatenate(list(columns.rows.values()), axis=1), columns.graph_input, folder / name)
    rng = np.random.default_rng(7)
    if name == "mlp":
        rows = rng.normal(size=(_TRAINING, 32)).astype(np.float32)
        return _packaged(name, wrap_model(_mlp(rng), name), rows, "x", folder / name)
    images = rng.integers(0, 17, (_TRAINING, 1, 8, 8)).astype(np.float32)
    return _packaged(name, wrap_model(_cnn(rng), name), images, "image", folder / name)


def build_successor(folder: Path) -> Path:
    """Package the trees once more with another threshold, which makes another version of the model."""
    return _trees(folder / "trees-successor", threshold=0.6).package


def _trees(out: Path, *, threshold: float = 0.5) -> Case:
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(5)
    values = rng.normal(size=(20_000, len(_COLUMNS))).astype(np.float32)
    label = (values[:, 0] + values[:, 1] * values[:, 2] + rng.normal(size=len(values)) > 0).astype(np.int8)
    table = pa.table({name: values[:, index] for index, name in enumerate(_COLUMNS)} | {"label": label})
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(
        pd.DataFrame(values, columns=list(_COLUMNS)), label
    )
    package_model(
        wrap_model(model, "trees"),
        candidate="trees",
        examples=Examples(training=table.slice(0, 15_000), reference=table.slice(15_000), label_column="label"),
        settings=PackageSettings(name=SERVED_AS, request_inputs=_COLUMNS, threshold=threshold),
        out=out,
    )
    (graph_input,) = onnx.load(out / "model.onnx").graph.input
    rows = {name: np.ascontiguousarray(values[:_ROWS, index : index + 1]) for index, name in enumerate(_COLUMNS)}
    return Case("trees", out, graph_input.name, "probability", rows)


def _packaged(name: str, source: Source, rows: Array, tensor: str, out: Path) -> Case:
    table = pa.table({tensor: tensor_column(rows)})
    manifest = package_model(
        source,
        candidate=name,
        examples=Examples(training=table, reference=table, label_column=None),
        settings=PackageSettings(name=SERVED_AS, request_inputs=(tensor,)),
        out=out,
    )
    return Case(name, out, tensor, manifest.signature.outputs[0].name, {tensor: rows[:_ROWS]})


def _mlp(rng: np.random.Generator) -> onnx.ModelProto:
    """Make two hidden layers of 128 between 32 inputs and one probability."""
    nodes, constants, value, width = [], {}, "x", 32
    for number, (size, activation) in enumerate(((128, "Relu"), (128, "Relu"), (1, "Sigmoid"))):
        constants[f"w{number}"] = (rng.normal(size=(width, size)) / np.sqrt(width)).astype(np.float32)
        constants[f"b{number}"] = np.zeros(size, np.float32)
        nodes.append(helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [f"sum{number}"]))
        value, width = ("score" if size == 1 else f"layer{number}"), size
        nodes.append(helper.make_node(activation, [f"sum{number}"], [value]))
    return _graph(nodes, constants, ("x", [None, 32]), ("score", [None, 1]))


def _cnn(rng: np.random.Generator) -> onnx.ModelProto:
    """Make the digits example's network: two convolutions (16, 32), a pool, and two dense layers (64, 10)."""

    def weights(*shape: int) -> Array:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "scale": np.float32(16),
        "first": weights(16, 1, 3, 3),
        "second": weights(32, 16, 3, 3),
        "flat": np.array([0, -1], np.int64),
        "hidden": weights(64, 512),
        "last": weights(10, 64),
    }
    nodes = [
        helper.make_node("Div", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "first"], ["map1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map1"], ["seen1"]),
        helper.make_node("Conv", ["seen1", "second"], ["map2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map2"], ["seen2"]),
        helper.make_node("MaxPool", ["seen2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["pooled", "flat"], ["flattened"]),
        helper.make_node("Gemm", ["flattened", "hidden"], ["sum"], transB=1),
        helper.make_node("Relu", ["sum"], ["layer"]),
        helper.make_node("Gemm", ["layer", "last"], ["scores"], transB=1),
    ]
    return _graph(nodes, constants, ("image", [None, 1, 8, 8]), ("scores", [None, 10]))


def _graph(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], taken: tuple[str, list[Any]], given: tuple[str, list[Any]]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(taken[0], TensorProto.FLOAT, taken[1])],
        [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model
