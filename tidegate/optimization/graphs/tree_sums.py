"""Rewrites a binary classifier of trees, of which one probability is taken, to a plain sum of the trees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tidegate.optimization.graphs.reading import fresh_name, readers, value_names

_CLASSIFIER, _REGRESSOR = "TreeEnsembleClassifier", "TreeEnsembleRegressor"
_POSITIVE = 1  # the class whose probability is taken


@dataclass(frozen=True, slots=True)
class BinaryTrees:
    """A classifier of trees and the node that takes the probability of class 1 from its two."""

    classifier: onnx.NodeProto
    taker: onnx.NodeProto


def binary_trees(model: onnx.ModelProto) -> BinaryTrees | str:
    """Return the one classifier of trees that can be rewritten, or why there is none."""
    found = [node for node in model.graph.node if node.op_type == _CLASSIFIER]
    if len(found) != 1:
        return f"it has {len(found)} tree classifiers; exactly one can be rewritten"
    reads = readers(model.graph)
    label, scores = found[0].output
    takers = [node for node in model.graph.node if scores in node.input]
    if reads.get(label, 0) or reads.get(scores, 0) != 1 or not takers or not _takes_class_1(takers[0], model.graph):
        return "more is read from its tree classifier than the probability of class 1"
    attributes = _attributes(found[0])
    transform, classes = attributes.get("post_transform", b"NONE"), set(attributes.get("class_ids", ()))
    if transform == b"LOGISTIC" and len(classes) == 1:
        return BinaryTrees(found[0], takers[0])
    if transform == b"NONE" and classes == {0, _POSITIVE}:
        return BinaryTrees(found[0], takers[0])
    return f"its trees vote in another way ({transform.decode()} of classes {', '.join(map(str, sorted(classes)))})"


def as_sum(model: onnx.ModelProto, trees: BinaryTrees) -> onnx.ModelProto:
    """Return a copy of `model` whose trees are summed for class 1 alone, by a regressor, followed by a Sigmoid if there was one.

    The classifier adds up two classes, works out a label, and writes two columns, for each row.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = value_names(copy.graph)
    total, shape = fresh_name("sum of trees", taken), fresh_name("shape of the probability", taken)
    attributes = _attributes(trees.classifier)
    nodes = [_regressor(trees.classifier, attributes, total)]
    if attributes.get("post_transform") == b"LOGISTIC":
        probability = fresh_name("sigmoid of the sum", taken)
        nodes.append(helper.make_node("Sigmoid", [total], [probability], name=probability))
        total = probability
    column = _index(trees.taker, model.graph).ndim == 1
    copy.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1] if column else [-1], dtype=np.int64), shape))
    nodes.append(helper.make_node("Reshape", [total, shape], list(trees.taker.output), name=trees.taker.name))
    rewritten = []
    for node in copy.graph.node:
        if node.output == trees.classifier.output:
            rewritten += nodes
        elif node.output != trees.taker.output:
            rewritten.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(rewritten)
    return copy


def _regressor(classifier: onnx.NodeProto, attributes: Mapping[str, Any], output: str) -> onnx.NodeProto:
    classes = np.asarray(attributes["class_ids"])
    ours = np.flatnonzero(classes == _POSITIVE) if len(set(attributes["class_ids"])) > 1 else np.arange(len(classes))
    base = attributes.get("base_values")
    return helper.make_node(
        _REGRESSOR,
        list(classifier.input),
        [output],
        name=classifier.name,
        domain=classifier.domain,
        n_targets=1,
        post_transform="NONE",
        target_ids=[0] * len(ours),
        target_nodeids=np.asarray(attributes["class_nodeids"])[ours].tolist(),
        target_treeids=np.asarray(attributes["class_treeids"])[ours].tolist(),
        target_weights=np.asarray(attributes["class_weights"], dtype=np.float32)[ours].tolist(),
        **({"base_values": [float(base[-1])]} if base else {}),
        **{name: value for name, value in attributes.items() if name.startswith("nodes_")},
    )


def _takes_class_1(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    if node.op_type != "Gather" or _attributes(node).get("axis", 0) != 1:
        return False
    index = _index(node, graph)
    return index.ndim <= 1 and index.size == 1 and int(index.reshape(-1)[0]) == _POSITIVE


def _index(taker: onnx.NodeProto, graph: onnx.GraphProto) -> np.ndarray:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    return numpy_helper.to_array(constants[taker.input[1]]) if taker.input[1] in constants else np.empty(0)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
