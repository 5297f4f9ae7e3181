"""Small model packages of every task and kind of tensor, whose graphs are made by hand, so that no framework is needed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from tidegate.packaging.bfloat16_graphs import with_float_boundary
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import (
    LABEL,
    SCHEMA_VERSION,
    Datatype,
    Manifest,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.format.package import write_package
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.running.session import GraphSession

ROWS = 6
NUMBER_TYPES: tuple[Datatype, ...] = (
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
)


def multiclass(to: Path) -> Path:
    """Make `iris`: a linear classifier of three classes on four columns."""
    inputs = [_column(name) for name in ("sepal_length", "sepal_width", "petal_length", "petal_width")]
    weights = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Concat", [spec.name for spec in inputs], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
    ]
    outputs = [TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 3))]
    return _package(
        to,
        "iris",
        _graph(nodes, inputs, outputs, {"weights": weights}),
        {spec.name: _random((ROWS, 1), "FP32", seed) for seed, spec in enumerate(inputs)},
        task="multiclass-classification",
        classes=("setosa", "versi color", "virginica"),
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def regression(to: Path, *, targets: int = 1) -> Path:
    """Make `fares`: a linear regression on one integer and one text column, of one target or more."""
    inputs = [_column("distance", "INT64"), _column("carrier", "BYTES")]
    nodes = [
        helper.make_node("Cast", ["distance"], ["miles"], to=TensorProto.FLOAT),
        helper.make_node(
            "LabelEncoder",
            ["carrier"],
            ["code"],
            domain="ai.onnx.ml",
            keys_strings=["AA", "UA"],
            values_floats=[10.0, 20.0],
            default_float=0.0,
        ),
        helper.make_node("Concat", ["miles", "code"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "weights"], ["raw" if targets == 1 else "prediction"]),
    ]
    shape: tuple[int, ...] = (-1, targets)
    if targets == 1:
        nodes.append(helper.make_node("Squeeze", ["raw", "last"], ["prediction"]))
        shape = (-1,)
    constants = {"weights": np.array([[0.1] * targets, [1.0] * targets], np.float32), "last": np.array([1], np.int64)}
    outputs = [TensorSpec(name="prediction", datatype="FP32", shape=shape)]
    given = {
        "distance": np.arange(100, 100 + ROWS, dtype=np.int64).reshape(ROWS, 1),
        "carrier": np.array([["AA"], ["UA"], ["B6"]] * 2, object),
    }
    return _package(
        to,
        "fares",
        _graph(nodes, inputs, outputs, constants),
        given,
        task="regression",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def image(to: Path, *, side: int = 8) -> Path:
    """Make `digits`: a convolution over images [1, side, side], with scores, the largest one's number, and the feature map."""
    rng = np.random.default_rng(2)
    constants = {
        "kernel": rng.normal(size=(2, 1, 3, 3)).astype(np.float32),
        "weights": rng.normal(size=(2, 10)).astype(np.float32),
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "flat"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=0),
    ]
    inputs = [TensorSpec(name="image", datatype="FP32", shape=(-1, 1, side, side))]
    outputs = [
        TensorSpec(name="scores", datatype="FP32", shape=(-1, 10)),
        TensorSpec(name="digit", datatype="INT64", shape=(-1,)),
        TensorSpec(name="map", datatype="FP32", shape=(-1, 2, side, side)),
    ]
    return _package(
        to,
        "digits",
        _graph(nodes, inputs, outputs, constants),
        {"image": _random((ROWS, 1, side, side), "FP32", 0)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def tokens(to: Path) -> Path:
    """Make `embedder`: token numbers of any length become embeddings of that length, and their mean."""
    constants = {"table": np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embeddings"], axis=0),
        helper.make_node("ReduceMean", ["embeddings"], ["mean"], axes=[1], keepdims=0),
    ]
    inputs = [TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1), sizes=((2, 12),), minimum=0, maximum=49)]
    outputs = [
        TensorSpec(name="embeddings", datatype="FP32", shape=(-1, -1, 4)),
        TensorSpec(name="mean", datatype="FP32", shape=(-1, 4)),
    ]
    return _package(
        to,
        "embedder",
        _graph(nodes, inputs, outputs, constants, opset=13),
        {"tokens": np.random.default_rng(0).integers(0, 50, (ROWS, 5))},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def without_rows(to: Path) -> Path:
    """Make `total`: its one output is a sum over all rows, which no server can answer by row."""
    inputs = [_column("amount")]
    nodes = [helper.make_node("ReduceSum", ["amount"], ["total"], keepdims=1)]
    outputs = [TensorSpec(name="total", datatype="FP32", shape=(1, 1))]
    return _package(
        to,
        "total",
        _graph(nodes, inputs, outputs, {}),
        {"amount": _random((ROWS, 1), "FP32", 0)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
        reference={"amount": _random((ROWS, 1), "FP32", 0)},
    )


def less_the_mean(to: Path) -> Path:
    """Make `relative`: how far each amount is above the mean of its batch, so that each answer depends on all rows."""
    inputs = [_column("amount")]
    nodes = [
        helper.make_node("ReduceMean", ["amount", "rows_axis"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["amount", "mean"], ["above"]),
    ]
    outputs = [TensorSpec(name="above", datatype="FP32", shape=(-1, 1))]
    return _package(
        to,
        "relative",
        _graph(nodes, inputs, outputs, {"rows_axis": np.array([0])}),
        {"amount": _random((ROWS, 1), "FP32", 0)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def every_type(to: Path) -> Path:
    """Make `echo`: one input [-1, 2] of every datatype, answered as it is."""
    datatypes: tuple[Datatype, ...] = (*NUMBER_TYPES, "BYTES")
    inputs = [TensorSpec(name=datatype.lower(), datatype=datatype, shape=(-1, 2)) for datatype in datatypes]
    outputs = [TensorSpec(name=f"same {spec.name}", datatype=spec.datatype, shape=(-1, 2)) for spec in inputs]
    nodes = [helper.make_node("Identity", [spec.name], [f"same {spec.name}"]) for spec in inputs]
    given = {spec.name: _random((ROWS, 2), spec.datatype, seed) for seed, spec in enumerate(inputs)}
    return _package(
        to,
        "echo",
        _graph(nodes, inputs, outputs, {}),
        given,
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def slow(to: Path, *, rounds: int = 1) -> Path:
    """Make `slow`: a request takes as many rounds, of about a millisecond each, as the largest `rounds` of its rows says.

    Args:
        to: Where the package is written.
        rounds: What the golden sample asks for, and so what the server believes a request to cost.
    """
    size = 512
    body = helper.make_graph(
        [helper.make_node("MatMul", ["before", "identity"], ["after"]), helper.make_node("Identity", ["going"], ["go on"])],
        "round",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["rounds"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "yes", "zeros"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["nothing"], keepdims=0),
        helper.make_node("Cast", ["rounds"], ["asked"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["asked", "nothing"], ["done"]),
    ]
    constants = {
        "yes": np.array(True),
        "zeros": np.zeros((size, size), np.float32),
        "identity": np.eye(size, dtype=np.float32),
    }
    inputs = [_column("rounds", "INT64")]
    outputs = [TensorSpec(name="done", datatype="FP32", shape=(-1, 1))]
    return _package(
        to,
        "slow",
        _graph(nodes, inputs, outputs, constants),
        {"rounds": np.full((ROWS, 1), rounds, np.int64)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def adder(to: Path, added: float, *, input_name: str = "x") -> Path:
    """Make `adder`: a number comes out with `added` on top, so that an answer tells which version of the model gave it."""
    inputs = [_column(input_name)]
    outputs = [TensorSpec(name="sum", datatype="FP32", shape=(-1, 1))]
    nodes = [helper.make_node("Add", [input_name, "added"], ["sum"])]
    return _package(
        to,
        "adder",
        _graph(nodes, inputs, outputs, {"added": np.array([added], np.float32)}),
        {input_name: _random((ROWS, 1), "FP32", 0)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def bfloat16(to: Path) -> Path:
    """Make `brain`: one input [-1, 2] of bfloat16, of which halves and doubles are answered, in bfloat16 as well."""
    inputs = [TensorSpec(name="x", datatype="BF16", shape=(-1, 2))]
    outputs = [TensorSpec(name=name, datatype="BF16", shape=(-1, 2)) for name in ("half", "double")]
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "0.5"], ["wide half"]),
        helper.make_node("Mul", ["wide", "2.0"], ["wide double"]),
        helper.make_node("Cast", ["wide half"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["wide double"], ["double"], to=TensorProto.BFLOAT16),
    ]
    constants = {factor: np.array(factor, np.float32) for factor in ("0.5", "2.0")}
    return _package(
        to,
        "brain",
        with_float_boundary(onnx.load_from_string(_graph(nodes, inputs, outputs, constants))).SerializeToString(),
        {"x": np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2)},
        task="tensors",
        signature=Signature(inputs=tuple(inputs), outputs=tuple(outputs)),
    )


def _column(name: str, datatype: Datatype = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, 1))


def _random(shape: Sequence[int], datatype: Datatype, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if datatype == "BYTES":
        return rng.choice(["", "ü", "text"], shape).astype(object)
    if datatype == "BOOL":
        return rng.random(shape) < 0.5
    return rng.uniform(0, 100, shape).astype(NUMPY_TYPES[datatype])


def _kind(datatype: Datatype) -> int:
    without_dtype = {"BYTES": TensorProto.STRING, "BF16": TensorProto.BFLOAT16}
    return without_dtype.get(datatype) or helper.np_dtype_to_tensor_dtype(NUMPY_TYPES[datatype])


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _kind(spec.datatype), [None if size == -1 else size for size in spec.shape])


def _graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    constants: Mapping[str, np.ndarray],
    *,
    opset: int = 18,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [_value(spec) for spec in inputs],
        [_value(spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


def _package(
    to: Path,
    name: str,
    graph: bytes,
    inputs: Mapping[str, np.ndarray],
    *,
    reference: Mapping[str, np.ndarray] | None = None,
    **fields: Any,
) -> Path:
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        variant=Variant(name="baseline", candidate="handmade"),
        runtime=Runtime(),
        metrics={},
        files={},
        **fields,
    )
    outputs = GraphSession.of_graph(graph, Runtime(), manifest).run(inputs)
    columns = {column: tensor_column(array) for column, array in (reference or {**inputs, **outputs}).items()}
    table = pa.table(columns | {LABEL: pa.nulls(ROWS, pa.int32())})
    write_package(to, manifest, model=graph, golden=Golden(dict(inputs), outputs), reference=table)
    return to
