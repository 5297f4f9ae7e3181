"""Packed graphs: which columns are packed, and that the answers stay the same to the last bit."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Datatype, Runtime, TensorSpec
from tidegate.packaging.graph_packing import pack_graph, unpack_graph
from tidegate.packaging.running.packing import Packer, pack
from tidegate.packaging.running.session import open_session

KINDS: dict[Datatype, int] = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}
ROWS = 5


def column(name: str, datatype: Datatype = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, 1))


def columns(count: int, datatype: Datatype = "FP32", prefix: str = "x") -> list[TensorSpec]:
    return [column(f"{prefix}{number}", datatype) for number in range(count)]


def names(specs: Sequence[TensorSpec]) -> list[str]:
    return [spec.name for spec in specs]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: dict[str, int],
    initializers: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(spec.name, KINDS[spec.datatype], [None, *spec.shape[1:]]) for spec in inputs],
        [helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in outputs.items()],
        list(initializers),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)])
    made.ir_version = 9
    return made


def arrays(inputs: Sequence[TensorSpec], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def array(spec: TensorSpec) -> np.ndarray:
        shape = (ROWS, *spec.shape[1:])
        if spec.datatype == "BYTES":
            return rng.choice(["a", "b", "ü", ""], shape).astype(object)
        values = rng.normal(scale=50, size=shape)
        if spec.datatype == "FP32":
            values = np.where(rng.random(shape) < 0.2, np.nan, values)
        return values.astype(NUMPY_TYPES[spec.datatype])

    return {spec.name: array(spec) for spec in inputs}


def answers(graph: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = open_session(graph.SerializeToString(), Runtime()).run(None, feeds)
    return found


def assert_same_answers(graph: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> tuple[onnx.ModelProto, Any]:
    """Pack a graph, and compare what it, the packed and the unpacked one answer; return the packed one and its packing."""
    before = graph.SerializeToString()
    packed, packing = pack_graph(graph, inputs)
    assert graph.SerializeToString() == before
    onnx.checker.check_model(packed)
    unpacked = unpack_graph(packed, packing)
    onnx.checker.check_model(unpacked)
    assert sorted(value.name for value in unpacked.graph.input) == sorted(names(inputs))
    given = arrays(inputs)
    expected = answers(graph, given)
    for found in (answers(packed, pack(given, packing)), answers(unpacked, given)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert {value.name for value in packed.graph.input} == set(Packer(packing, names(inputs)).graph_inputs)
    return packed, packing


def join(values: Sequence[str], output: str = "y", axis: int = 1) -> onnx.NodeProto:
    return helper.make_node("Concat", list(values), [output], axis=axis)


def cast(value: str, output: str, to: int = TensorProto.FLOAT) -> onnx.NodeProto:
    return helper.make_node("Cast", [value], [output], to=to)


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def test_a_join_of_columns_becomes_an_input() -> None:
    inputs = columns(6)
    packed, [part] = assert_same_answers(model([join(names(inputs), axis=-1)], inputs, {"y": TensorProto.FLOAT}), inputs)
    assert (part.name, part.datatype, part.columns) == ("packed_fp32", "FP32", tuple(names(inputs)))
    assert operators(packed) == ["Identity"]


def test_casts_of_columns_become_one_cast() -> None:
    floats, integers = columns(4), columns(5, "INT64", "n")
    casts = [cast(spec.name, f"{spec.name} as float") for spec in integers]
    values = [*(node.output[0] for node in casts), *names(floats)]
    graph = model([*casts, join(values)], [*floats, *integers], {"y": TensorProto.FLOAT})

    packed, packing = assert_same_answers(graph, [*floats, *integers])

    assert {part.name: len(part.columns) for part in packing} == {"packed_fp32": 4, "packed_int64": 5}
    assert operators(packed) == ["Cast", "Concat"]


def test_casts_of_casts_stay() -> None:
    inputs = columns(5)
    nodes = [cast(spec.name, f"{spec.name} whole", TensorProto.INT64) for spec in inputs]
    nodes += [cast(node.output[0], f"{node.output[0]} again") for node in nodes]
    graph = model([*nodes, join([node.output[0] for node in nodes[5:]])], inputs, {"y": TensorProto.FLOAT})
    given = {name: np.nan_to_num(array) + np.float32(0.5) for name, array in arrays(inputs).items()}

    packed, packing = pack_graph(graph, inputs)

    [expected] = answers(graph, given)
    [found] = answers(packed, pack(given, packing))
    assert found.tolist() == expected.tolist()


def test_texts_are_cast_by_column_since_the_others_may_be_no_numbers() -> None:
    texts, floats = columns(4, "BYTES", "t"), columns(4)
    nodes = [
        join(names(texts), "joined"),
        cast("t0", "t0 as float"),
        cast("t1", "t1 as float"),
        join(["t0 as float", "t1 as float", *names(floats)]),
    ]
    graph = model(nodes, [*texts, *floats], {"joined": TensorProto.STRING, "y": TensorProto.FLOAT})
    given = arrays([*texts, *floats])
    given |= {name: np.array([[str(row)] for row in range(ROWS)], object) for name in ("t0", "t1")}

    packed, packing = pack_graph(graph, [*texts, *floats])

    assert {part.datatype for part in packing} == {"BYTES", "FP32"}
    for found, expected in zip(answers(packed, pack(given, packing)), answers(graph, given), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_interleaved_types_are_joined_and_put_in_order() -> None:
    floats, integers = columns(4), columns(4, "INT64", "n")
    casts = [cast(spec.name, f"{spec.name} as float") for spec in integers]
    outputs = [node.output[0] for node in casts]
    values = [value for pair in zip(names(floats), outputs, strict=True) for value in pair]
    graph = model([*casts, join(values)], [*floats, *integers], {"y": TensorProto.FLOAT})

    packed, _ = assert_same_answers(graph, [*floats, *integers])

    assert operators(packed) == ["Cast", "Concat", "Gather", "Identity"]


def test_a_column_that_is_read_otherwise_too_is_taken_out_again() -> None:
    inputs = columns(5)
    nodes = [join(names(inputs), "joined"), helper.make_node("Mul", ["joined", "x3"], ["y"])]
    packed, [part] = assert_same_answers(model(nodes, inputs, {"y": TensorProto.FLOAT}), inputs)
    assert part.columns == ("x0", "x1", "x2", "x3", "x4")
    assert operators(packed) == ["Gather", "Identity", "Mul"]


def test_columns_joined_twice_in_another_order() -> None:
    inputs = columns(6)
    nodes = [join(["x4", "x1", "x0", "x5"], "first"), join(["x0", "x2", "x3", "x4"], "second"), join(["first", "second"])]
    _, [part] = assert_same_answers(model(nodes, inputs, {"y": TensorProto.FLOAT}), inputs)
    assert part.columns == ("x4", "x1", "x0", "x5", "x2", "x3")


def test_a_column_read_inside_a_branch() -> None:
    inputs = columns(4)
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x2"], ["negative"])],
        "then",
        [],
        [helper.make_tensor_value_info("negative", TensorProto.FLOAT, [None, 1])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x1"], ["same"])],
        "else",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, [None, 1])],
    )
    truth = numpy_helper.from_array(np.array(True), "truth")
    nodes = [
        helper.make_node("If", ["truth"], ["chosen"], then_branch=branch, else_branch=other),
        join([*names(inputs), "chosen"]),
    ]
    assert_same_answers(model(nodes, inputs, {"y": TensorProto.FLOAT}, [truth]), inputs)


def test_names_that_are_taken_are_left_alone() -> None:
    inputs = [*columns(4), TensorSpec(name="packed_fp32", datatype="FP32", shape=(-1, 3))]
    nodes = [join(names(inputs), "joined"), helper.make_node("Neg", ["joined"], ["packed_fp32_"]), join(["packed_fp32_", "x1"])]
    _, [part] = assert_same_answers(model(nodes, inputs, {"y": TensorProto.FLOAT}), inputs)
    assert part.name == "packed_fp32__"


def test_text_columns_that_are_joined() -> None:
    inputs = columns(4, "BYTES")
    _, [part] = assert_same_answers(model([join(names(inputs))], inputs, {"y": TensorProto.STRING}), inputs)
    assert (part.name, part.datatype) == ("packed_bytes", "BYTES")


def _single_reads(count: int, datatype: Datatype) -> Callable[[], tuple[onnx.ModelProto, list[TensorSpec]]]:
    def build() -> tuple[onnx.ModelProto, list[TensorSpec]]:
        inputs = columns(count, datatype)
        if datatype == "BYTES":
            nodes = [
                helper.make_node(
                    "LabelEncoder",
                    [spec.name],
                    [f"{spec.name} code"],
                    domain="ai.onnx.ml",
                    keys_strings=["a", "b"],
                    values_floats=[1.0, 2.0],
                )
                for spec in inputs
            ]
        else:
            nodes = [helper.make_node("Neg", [spec.name], [f"{spec.name} code"]) for spec in inputs]
        return model([*nodes, join([node.output[0] for node in nodes])], inputs, {"y": TensorProto.FLOAT}), inputs

    return build


def _fixed_batch() -> tuple[onnx.ModelProto, list[TensorSpec]]:
    inputs = [TensorSpec(name=f"x{number}", datatype="FP32", shape=(-1, 2)) for number in range(6)]
    return model([join(names(inputs))], inputs, {"y": TensorProto.FLOAT}), inputs


def _rows_joined() -> tuple[onnx.ModelProto, list[TensorSpec]]:
    inputs = columns(6)
    return model([join(names(inputs), axis=0)], inputs, {"y": TensorProto.FLOAT}), inputs


def _few() -> tuple[onnx.ModelProto, list[TensorSpec]]:
    inputs = columns(3)
    return model([join(names(inputs))], inputs, {"y": TensorProto.FLOAT}), inputs


def _joined_with_others() -> tuple[onnx.ModelProto, list[TensorSpec]]:
    inputs = [*columns(4), TensorSpec(name="wide", datatype="FP32", shape=(-1, 3))]
    joins = [join([f"x{number}", "wide"], f"y{number}") for number in range(4)]
    return model(joins, inputs, {node.output[0]: TensorProto.FLOAT for node in joins}), inputs


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(_joined_with_others, id="joined with other things than columns"),
        pytest.param(_few, id="too few columns to pay"),
        pytest.param(_single_reads(9, "FP32"), id="too few columns, each read by itself"),
        pytest.param(_single_reads(20, "BYTES"), id="texts, each read by itself"),
        pytest.param(_fixed_batch, id="inputs of two columns"),
        pytest.param(_rows_joined, id="joined below each other"),
    ],
)
def test_where_packing_does_not_pay_the_graph_stays(
    build: Callable[[], tuple[onnx.ModelProto, list[TensorSpec]]],
) -> None:
    graph, inputs = build()
    packed, packing = pack_graph(graph, inputs)
    assert packed is graph
    assert packing == ()


def test_many_numbers_that_are_each_read_by_themselves_are_packed() -> None:
    graph, inputs = _single_reads(12, "FP32")()
    _, [part] = assert_same_answers(graph, inputs)
    assert len(part.columns) == 12


def test_a_column_that_is_an_output_itself_stays_an_input() -> None:
    inputs = columns(5)
    _, [part] = assert_same_answers(
        model([join(names(inputs))], inputs, {"y": TensorProto.FLOAT, "x2": TensorProto.FLOAT}), inputs
    )
    assert "x2" not in part.columns


def test_the_batch_axis_keeps_its_name() -> None:
    inputs = columns(4)
    graph = model([join(names(inputs))], inputs, {"y": TensorProto.FLOAT})
    for value in graph.graph.input:
        value.type.tensor_type.shape.dim[0].dim_param = "rows"
    packed, _ = pack_graph(graph, inputs)
    assert packed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[TensorSpec]]:
    """Return a graph like those of scikit-learn's converter: casts, joins of whatever has the same type, joins of joins."""
    datatypes = draw(st.lists(st.sampled_from(["FP32", "FP32", "INT64", "BYTES"]), min_size=6, max_size=24))
    inputs = [column(f"in {number}", datatype) for number, datatype in enumerate(datatypes)]
    values: dict[int, list[str]] = {kind: [] for kind in KINDS.values()}
    nodes: list[onnx.NodeProto] = []
    for spec in inputs:
        values[KINDS[spec.datatype]].append(spec.name)
        if spec.datatype != "BYTES" and draw(st.booleans()):
            to = draw(st.sampled_from([TensorProto.FLOAT, KINDS[spec.datatype]]))
            nodes.append(cast(spec.name, f"{spec.name} cast", to))
            values[to].append(f"{spec.name} cast")
        if draw(st.integers(0, 5)) == 0:
            nodes.append(helper.make_node("Identity", [spec.name], [f"{spec.name} same"]))
            values[KINDS[spec.datatype]].append(f"{spec.name} same")
    outputs: dict[str, int] = {}
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from([kind for kind, found in values.items() if found]))
        joined = draw(st.lists(st.sampled_from(values[kind]), min_size=1, max_size=12))
        nodes.append(join(joined, f"joined {number}", axis=draw(st.sampled_from([1, -1]))))
        values[kind].append(f"joined {number}")
        outputs[f"joined {number}"] = kind
    for number, value in enumerate(draw(st.lists(st.sampled_from(values[TensorProto.FLOAT] or [""]), max_size=3))):
        if value:
            nodes.append(helper.make_node("Abs", [value], [f"abs {number}"]))
            outputs[f"abs {number}"] = TensorProto.FLOAT
    return model(nodes, inputs, outputs), inputs


@settings(max_examples=25, deadline=None)
@given(graphs())
def test_any_graph_of_columns_answers_the_same(made: tuple[onnx.ModelProto, list[TensorSpec]]) -> None:
    assert_same_answers(*made)
