"""What several sources do to the ONNX graph that an exporter gave them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import compose, helper, numpy_helper

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.onnx_graphs import drop_unread, every_graph

_MOST_BYTES = 2**31 - 1  # a protobuf message can be no larger
_INNER = "inner/"
_VECTOR = "shape of a vector"


def with_boundary(
    model: onnx.ModelProto, inputs: Mapping[str, str], outputs: Mapping[str, str], columns: Sequence[str] = ()
) -> onnx.ModelProto:
    """Return the graph with other names at its boundary; inner tensors get a prefix, so that no names collide.

    Args:
        model: The graph.
        inputs: The new name of each of its inputs, by the old one.
        outputs: The new name of each output to keep, by the old one.
        columns: New names of inputs which are to be read as columns, [-1, 1], where the graph reads vectors, [-1].
    """
    if not columns and all(old == new for old, new in (*inputs.items(), *outputs.items())):
        return model
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    types = {value.name: value.type for value in (*model.graph.input, *model.graph.output)}
    inner = compose.add_prefix(model, _INNER)
    graph = inner.graph
    del graph.input[:], graph.output[:]
    for position, (old, new) in enumerate(inputs.items()):
        operator, shape = ("Reshape", [_VECTOR]) if new in columns else ("Identity", [])
        graph.node.insert(position, helper.make_node(operator, [new, *shape], [f"{_INNER}{old}"]))
        column = helper.make_tensor_value_info(new, kinds[old], ["batch", 1])
        graph.input.append(column if new in columns else helper.make_value_info(new, types[old]))
    for old, new in outputs.items():
        graph.node.append(helper.make_node("Identity", [f"{_INNER}{old}"], [new]))
        graph.output.append(helper.make_value_info(new, types[old]))
    if columns:
        graph.initializer.append(numpy_helper.from_array(np.asarray([-1], dtype=np.int64), _VECTOR))
    drop_unread(graph)
    return inner


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without what an exporter noted in it: source lines and paths of the machine it ran on."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in every_graph(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            part.doc_string = ""
            if hasattr(part, "metadata_props"):
                del part.metadata_props[:]
    return model


def checked(model: onnx.ModelProto, name: str, converter: str) -> onnx.ModelProto:
    """Return the graph that a converter made; raises PackageError if it is malformed."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own kinds of errors
        said = in_one_line(error)
        raise PackageError(f"model {name}: {converter} made a malformed graph of it: {said}") from error
    return model


def check_size(name: str, weight_bytes: int) -> None:
    """Refuse weights that no ONNX graph in one file can hold; raises PackageError."""
    if weight_bytes > _MOST_BYTES:
        raise PackageError(
            f"model {name}: its weights are {weight_bytes / 2**30:.1f} GiB; a package's graph holds at most 2 GiB, "
            "so prune it or store it in half precision"
        )
