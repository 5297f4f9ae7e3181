"""Gives graphs of bfloat16 a boundary of 32 bits, since neither NumPy nor ONNX Runtime's Python interface has bfloat16 arrays.

    x: BFLOAT16 -> … -> y: BFLOAT16      becomes      x: FLOAT -> Cast -> … -> Cast -> y: FLOAT

A bfloat16 is a float of 32 bits without its lower 16, so nothing is lost: values that come as BF16 pass the first Cast as they
are, any other is rounded to the nearest bfloat16 (ties to even), and what the second Cast gives can be sent as BF16 exactly.
"""

import onnx
from onnx import TensorProto, helper

from tidegate.packaging.format.datatypes import DATATYPES
from tidegate.packaging.format.manifest import Datatype
from tidegate.packaging.onnx_graphs import fresh_name, rename_reads, value_names

_BFLOAT16_VALUES = "tidegate.bfloat16"  # ONNX's denotation of a type: what a tensor means beyond its elements' type


def with_float_boundary(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with floats for its bfloat16 inputs and outputs, marked so that `signature_datatype` calls them BF16.

    A graph without any is returned as it is; the given one is not changed.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    given = [value.name for value in model.graph.input if value.name not in weights and _is_bfloat16(value)]
    answered = [value.name for value in model.graph.output if _is_bfloat16(value)]
    if not given and not answered:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, taken = copy.graph, value_names(copy.graph)
    inner = {name: fresh_name(f"{name} as bfloat16", taken) for name in (*given, *answered)}
    rename_reads(graph, inner)
    for node in graph.node:
        for position, name in enumerate(node.output):
            node.output[position] = inner.get(name, name)
    for name in given:
        graph.node.insert(0, helper.make_node("Cast", [name], [inner[name]], to=TensorProto.BFLOAT16))
    graph.node.extend(helper.make_node("Cast", [inner[name]], [name], to=TensorProto.FLOAT) for name in answered)
    for value in (*graph.input, *graph.output):
        if value.name in inner:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
            value.type.denotation = _BFLOAT16_VALUES
    return copy


def signature_datatype(value: onnx.ValueInfoProto) -> Datatype | None:
    """Return the datatype that a signature gives to a graph's input or output; None if there is none for it."""
    if value.type.denotation == _BFLOAT16_VALUES:
        return "BF16"
    kind = value.type.tensor_type.elem_type
    if kind == TensorProto.STRING:
        return "BYTES"
    try:
        return DATATYPES.get(helper.tensor_dtype_to_np_dtype(kind))
    except (KeyError, TypeError):
        return None


def _is_bfloat16(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.BFLOAT16)
