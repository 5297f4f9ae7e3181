from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tidegate.errors import PackageError
from tidegate.packaging.format import graph_file
from tidegate.packaging.format.graph_file import check_self_contained


def weights(name: str = "weights") -> TensorProto:
    return numpy_helper.from_array(np.ones((2, 2), np.float32), name)


def outside(location: str = "weights.bin", name: str = "weights") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(nodes: list[onnx.NodeProto] | None = None, *initializers: TensorProto) -> onnx.GraphProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in ("location", "y")]
    nodes = nodes or [helper.make_node("MatMul", ["location", "weights"], ["y"])]
    return helper.make_graph(nodes, "graph", values[:1], values[1:], list(initializers))


def model(content: onnx.GraphProto, **fields: object) -> onnx.ModelProto:
    return helper.make_model(content, **fields)


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["weights"], value=tensor)


def branch(inner: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["location"], ["y"], then_branch=inner, else_branch=inner)


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[2])


def engine(embed_mode: int | None) -> onnx.NodeProto:
    mode = {} if embed_mode is None else {"embed_mode": embed_mode}
    return helper.make_node("EPContext", ["location"], ["y"], domain="com.microsoft", ep_cache_context="e.engine", **mode)


def in_function(node: onnx.NodeProto) -> onnx.ModelProto:
    function = helper.make_function("local", "F", ["a"], ["weights"], [node], [helper.make_opsetid("", 18)])
    return model(graph(None, weights()), functions=[function])


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    made = model(graph(None, weights()))
    made.training_info.add().initialization.CopyFrom(graph(None, tensor))
    return made


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(model(graph(None, outside())), id="an initializer"),
        pytest.param(model(graph(None, outside("../../etc/passwd"))), id="a path out of the package"),
        pytest.param(model(graph(None, outside("/etc/passwd"))), id="an absolute path"),
        pytest.param(model(graph(None, outside("*/_ORT_MEM_ADDR_/*"))), id="an address in memory"),
        pytest.param(model(graph([constant(outside())])), id="an attribute"),
        pytest.param(model(graph([branch(graph(None, outside()))])), id="a branch"),
        pytest.param(model(graph([branch(graph([branch(graph([constant(outside())]))]))])), id="a branch of a branch"),
        pytest.param(in_function(constant(outside())), id="a function"),
        pytest.param(in_training(outside()), id="training"),
        pytest.param(
            model(helper.make_graph([], "g", [], [], [], sparse_initializer=[sparse(outside())])), id="a sparse initializer"
        ),
        pytest.param(
            model(graph([helper.make_node("Constant", [], ["w"], sparse_value=sparse(outside()))])), id="a sparse attribute"
        ),
        pytest.param(model(graph([helper.make_node("X", [], ["w"], tensors=[weights(), outside()])])), id="a list of tensors"),
        pytest.param(model(graph([engine(0)])), id="an engine"),
    ],
)
def test_a_graph_that_refers_to_another_file_is_refused(tmp_path: Path, content: onnx.ModelProto) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content.SerializeToString())

    with pytest.raises(PackageError, match=r"model\.onnx keeps (a tensor|an engine) in another file .*; package again"):
        check_self_contained(file)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(model(graph(None, weights())).SerializeToString(), id="an input called location"),
        pytest.param(model(graph([constant(weights("location"))])).SerializeToString(), id="a tensor called location"),
        pytest.param(
            model(
                graph([helper.make_node("Scan", ["location"], ["location"], location="location", n=[1, 2])])
            ).SerializeToString(),
            id="an attribute called location",
        ),
        pytest.param(model(graph([engine(1)])).SerializeToString(), id="an engine inside"),
        pytest.param(model(graph([engine(None)])).SerializeToString(), id="an engine inside, by default"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"no graph at all", id="no graph, which ONNX Runtime refuses"),
    ],
)
def test_a_graph_that_is_whole_passes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    check_self_contained(file)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfflocation", id="a length without end"),
        pytest.param(b"\x3a\x7flocation", id="a length beyond the file"),
        pytest.param(b"\x3blocation", id="a group"),
        pytest.param(b"\x3a\x80\x80\x80", id="cut off"),
    ],
)
def test_a_garbled_graph_is_refused_if_it_could_refer_to_a_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content + b"location")

    with pytest.raises(PackageError, match="is not a readable graph"):
        check_self_contained(file)


def test_a_graph_nested_without_end_is_refused(tmp_path: Path) -> None:
    content = outside().SerializeToString()
    content = b"\x2a" + _length(content) + content  # in an attribute
    for _ in range(60):  # an attribute's graph's node's attribute
        for tag in (b"\x2a", b"\x0a", b"\x32"):
            content = tag + _length(content) + content
    file = tmp_path / "model.onnx"
    node = b"\x2a" + _length(content) + content
    inner = b"\x0a" + _length(node) + node
    file.write_bytes(b"\x3a" + _length(inner) + inner)

    with pytest.raises(PackageError, match="is nested deeper than any graph"):
        check_self_contained(file)


def _length(content: bytes) -> bytes:
    size, encoded = len(content), bytearray()
    while size >= 0x80:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*encoded, size])


def test_every_message_that_leads_to_a_tensor_is_known() -> None:
    """A newer ONNX may put tensors into messages that are unheard of today."""
    found: dict[str, dict[int, str]] = {}

    def describe(message: object) -> None:
        if message.name not in found:
            inner = {field.number: field.message_type for field in message.fields if field.message_type}
            found[message.name] = {number: kind.name for number, kind in inner.items()}
            for kind in inner.values():
                describe(kind)

    describe(onnx.ModelProto.DESCRIPTOR)
    leading = {"TensorProto", "AttributeProto"}
    while more := {name for name, fields in found.items() if leading & set(fields.values())} - leading:
        leading |= more

    wanted = {name: {number: kind for number, kind in found[name].items() if kind in leading} for name in leading}
    assert wanted == graph_file._MESSAGES


def test_onnx_itself_writes_what_is_refused(tmp_path: Path, make_package: Callable[..., Path]) -> None:
    content = model(graph(None, weights()))
    onnx.save_model(content, tmp_path / "model.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin")

    with pytest.raises(PackageError, match="keeps a tensor in another file"):
        check_self_contained(tmp_path / "model.onnx")
