"""ONNX as a source: its own answers are the truth, its inputs are kept as declared, and bad files are refused in words."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.packaging.sources.round_trip import accepted, round_trip
from tidegate.errors import PackageError
from tidegate.packaging.sources.onnx_model import OnnxModel, read_onnx

ROWS = 5
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(4, 3)).astype(np.float32)
FLOAT, INTEGER, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 18,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def linear(batch: Any = "batch", **options: Any) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "weights"], ["y"])
    return model([node], {"x": (FLOAT, [batch, 4])}, {"y": (FLOAT, [batch, 3])}, {"weights": WEIGHTS}, **options)


def test_inputs_and_outputs_stay_as_the_graph_declares_them() -> None:
    trip = round_trip(OnnxModel(linear(), "linear"), {"x": RANDOM.random((ROWS, 4))})

    assert (trip.inputs[0].datatype, trip.inputs[0].shape) == ("FP32", (-1, 4))
    assert trip.outputs == {"y": ("FP32", (-1, 3))}
    np.testing.assert_allclose(trip.source.predict(trip.arrays)["y"], trip.arrays["x"] @ WEIGHTS, rtol=1e-5)
    trip.assert_agrees()


def test_vectors_are_columns_and_lengths_may_vary() -> None:
    graph = model(
        [
            helper.make_node("Gather", ["table", "user"], ["taken"]),
            helper.make_node("Gather", ["table", "tokens"], ["embedded"]),
            helper.make_node("CumSum", ["embedded", "one"], ["summed"]),
            helper.make_node("Identity", ["city"], ["place"]),
        ],
        {"user": (INTEGER, [None]), "tokens": (INTEGER, ["n", "length"]), "city": (TEXT, ["n"])},
        {"taken": (FLOAT, ["n", 3]), "summed": (FLOAT, ["n", "length", 3]), "place": (TEXT, ["n"])},
        {"table": RANDOM.random((9, 3)).astype(np.float32), "one": np.asarray(1)},
    )
    sample = {
        "city": np.array(["a", "b", "", "ö", "a"], dtype=object),
        "user": np.arange(ROWS, dtype=np.int32),
        "tokens": RANDOM.integers(0, 9, (ROWS, 6)),
    }

    inputs, arrays = accepted(source := OnnxModel(graph, "graph"), sample)

    assert [(spec.name, spec.datatype, spec.shape, spec.sizes) for spec in inputs] == [
        ("user", "INT64", (-1, 1), ()),
        ("tokens", "INT64", (-1, -1), ((1, 6),)),
        ("city", "BYTES", (-1, 1), ()),
    ]
    found = source.predict(arrays)
    assert found["place"].tolist() == sample["city"].tolist()
    converted = source.to_onnx(inputs, arrays)
    import onnxruntime as ort

    again = ort.InferenceSession(converted.SerializeToString()).run(["taken", "summed", "place"], arrays)
    for name, array in zip(("taken", "summed", "place"), again, strict=True):
        np.testing.assert_array_equal(array, found[name])


def test_weights_listed_among_the_inputs_are_no_inputs() -> None:
    graph = linear()
    graph.graph.input.append(helper.make_tensor_value_info("weights", FLOAT, [4, 3]))

    trip = round_trip(OnnxModel(graph, "linear"), {"x": RANDOM.random((ROWS, 4))})

    assert list(trip.by_name) == ["x"]


def test_weights_beside_the_graph_come_into_it(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)

    read = read_onnx(tmp_path / "model.onnx")

    assert len(read.SerializeToString()) > WEIGHTS.nbytes
    round_trip(OnnxModel(read, "linear"), {"x": RANDOM.random((ROWS, 4))}).assert_agrees()


def _with_weights_at(folder: Path, location: str) -> None:
    onnx.save(linear(), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    entry = next(entry for entry in graph.graph.initializer[0].external_data if entry.key == "location")
    entry.value = location
    onnx.save(graph, folder / "model.onnx")


def _link(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(b"0" * WEIGHTS.nbytes)
    (folder / "link.bin").symlink_to(folder.parent / "secret")
    _with_weights_at(folder, "link.bin")


def _truncate(folder: Path) -> None:
    _with_weights_at(folder, "weights.bin")
    (folder / "weights.bin").write_bytes(b"0" * 10)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        pytest.param(lambda folder: _with_weights_at(folder, "../secret"), "points outside the directory", id="outside"),
        pytest.param(lambda folder: _with_weights_at(folder, "/etc/passwd"), "it is an absolute path", id="absolute"),
        pytest.param(lambda folder: _with_weights_at(folder, "none.bin"), "is not regular file", id="missing weights"),
        pytest.param(_link, "it is a symbolic link", id="link"),
        pytest.param(_truncate, "exceeds available data", id="truncated weights"),
        pytest.param(lambda folder: (folder / "model.onnx").write_bytes(b"hello"), "not a readable ONNX file", id="no ONNX"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, prepare: Any, said: str) -> None:
    (folder := tmp_path / "folder").mkdir()
    prepare(folder)

    with pytest.raises(PackageError, match=said):
        read_onnx(folder / "model.onnx")


def _custom() -> onnx.ModelProto:
    node = helper.make_node("Magic", ["x"], ["y"], domain="acme.ops")
    return model([node], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 4])}, domains=("acme.ops",))


def _unlinked() -> onnx.ModelProto:
    return model([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, ["n", 4])})


def _complex() -> onnx.ModelProto:
    kind = (TensorProto.COMPLEX64, ["n", 4])
    return model([helper.make_node("Identity", ["x"], ["y"])], {"x": kind}, {"y": kind})


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        pytest.param(_custom(), "uses operators of acme.ops, which ONNX Runtime does not know", id="custom operators"),
        pytest.param(linear(opset=5), "its opset is 5, and 7 is the oldest that runs", id="old opset"),
        pytest.param(_unlinked(), "not a valid ONNX graph", id="malformed"),
        pytest.param(_complex(), "input 'x' is COMPLEX64, which no signature can say", id="datatype"),
        pytest.param(onnx.ModelProto(), "not a valid ONNX graph", id="empty"),
    ],
)
def test_bad_graphs_are_refused(graph: onnx.ModelProto, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        OnnxModel(graph, "graph")


@pytest.mark.parametrize(
    ("graph", "sample", "said"),
    [
        pytest.param(linear(batch=1), {"x": np.ones((ROWS, 4))}, "'x' takes exactly 1 rows; export the model", id="batch of 1"),
        pytest.param(
            linear(), {"x": np.ones((ROWS, 5))}, r"has shape \[-1, 5\] in the sample, but the model reads \[-1, 4\]", id="width"
        ),
        pytest.param(
            linear(),
            {"x": np.full((ROWS, 4), "a").astype(object)},
            "is BYTES in the sample, but the model reads FP32",
            id="text",
        ),
        pytest.param(
            model([helper.make_node("Identity", ["x"], ["y"])], {"x": (INTEGER, ["n", 4])}, {"y": (INTEGER, ["n", 4])}),
            {"x": np.ones((ROWS, 4))},
            "is FP64 in the sample, but the model reads INT64",
            id="floats for integers",
        ),
        pytest.param(
            model(
                [helper.make_node("Add", ["x", "z"], ["y"])],
                {"x": (FLOAT, ["n", 4]), "z": (FLOAT, ["n", 4])},
                {"y": (FLOAT, ["n", 4])},
            ),
            {"x": np.ones((ROWS, 4))},
            "column 'z' is missing",
            id="missing input",
        ),
        pytest.param(
            model([helper.make_node("ReduceSum", ["x"], ["y"])], {"x": (FLOAT, ["n", 4])}, {"y": (FLOAT, [1, 1])}),
            {"x": np.ones((ROWS, 4))},
            r"output 'y' has shape \[1, 1\] for 5 rows",
            id="one answer for all rows",
        ),
    ],
)
def test_samples_and_answers_that_do_not_fit_are_refused(graph: onnx.ModelProto, sample: dict[str, Any], said: str) -> None:
    source = OnnxModel(graph, "graph")
    with pytest.raises(Exception, match=said):
        source.predict(accepted(source, sample)[1])
