"""Rewrites a binary classifier, of which one probability is taken, to work out that one alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tidegate.packaging.onnx_graphs import drop_unread_weights, fresh_name, readers, value_names

_CLASSIFIER, _REGRESSOR = "TreeEnsembleClassifier", "TreeEnsembleRegressor"
_IDLE = frozenset({"Cast", "Identity"})
_POSITIVE = 1  # the class whose probability is taken


def takes_one_score(model: onnx.ModelProto) -> str | None:
    """Return why `with_one_score` cannot rewrite a model, or None if it can."""
    end = _end(model.graph)
    if end is None:
        return "no probability of class 1 is taken from those of two"
    reads = readers(model.graph)
    if any(reads[name] > 1 for name in (end.scores, *(node.output[0] for node in end.casts))):
        return "the probability of class 0 is read too"
    if end.maker.op_type == "Concat":
        return None if len(end.maker.input) == 2 else "the probabilities are not two columns side by side"
    if end.maker.op_type != _CLASSIFIER:
        return f"the probabilities come from {end.maker.op_type}, not from trees or two columns side by side"
    if reads.get(end.maker.output[0], 0):
        return "the label of its tree classifier is read"
    attributes = _attributes(end.maker)
    transform, classes = attributes.get("post_transform", b"NONE"), set(attributes.get("class_ids", ()))
    if (len(classes) == 1 and transform in (b"LOGISTIC", b"NONE")) or (classes == {0, _POSITIVE} and transform == b"NONE"):
        return None
    return f"its trees vote in another way ({transform.decode()} of classes {', '.join(map(str, sorted(classes)))})"


def with_one_score(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model`, for which `takes_one_score` is None, without what the one probability does not need.

    Of two columns side by side the second stays. Trees are summed for class 1 by a regressor, and a Sigmoid follows if there
    was one: the classifier adds up two classes, works out a label and writes two columns, for every row.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    end = _end(graph)
    if end is None:
        raise ValueError("there is no score to keep; ask takes_one_score first")
    taken = value_names(graph)
    made = [] if end.maker.op_type == "Concat" else _sum_of_trees(end.maker, taken)
    score = made[-1].output[0] if made else end.maker.input[1]
    for cast in end.casts:
        made.append(helper.make_node(cast.op_type, [score], list(cast.output), name=cast.name))
        made[-1].attribute.extend(cast.attribute)
        score = cast.output[0]
    shape = fresh_name("shape of the score", taken)
    sizes = [-1, 1] if _index(end.taker, graph).ndim else [-1]
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, dtype=np.int64), shape))
    made.append(helper.make_node("Reshape", [score, shape], list(end.taker.output), name=end.taker.name))
    replaced = {end.maker.name, end.taker.name, *(cast.name for cast in end.casts)}
    place = [node.name for node in graph.node].index(end.taker.name)
    before, after = list(graph.node)[:place], list(graph.node)[place + 1 :]
    _keep_read(graph, [*(node for node in before if node.name not in replaced), *made, *after])
    del graph.value_info[:]  # it describes two columns
    return copy


def _sum_of_trees(classifier: onnx.NodeProto, taken: set[str]) -> list[onnx.NodeProto]:
    attributes, total = _attributes(classifier), fresh_name("sum of trees", taken)
    nodes = [_regressor(classifier, attributes, total)]
    if attributes.get("post_transform") == b"LOGISTIC":
        probability = fresh_name("sigmoid of the sum", taken)
        nodes.append(helper.make_node("Sigmoid", [total], [probability], name=probability))
    return nodes


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


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a binary classifier: what makes the probabilities of both classes, casts, and what takes that of class 1."""

    maker: onnx.NodeProto
    scores: str
    casts: tuple[onnx.NodeProto, ...]
    taker: onnx.NodeProto


def _end(graph: onnx.GraphProto) -> _End | None:
    makers = {name: node for node in graph.node for name in node.output}
    for taker in graph.node:
        if taker.op_type != "Gather" or _attributes(taker).get("axis", 0) != 1 or not _is_positive(_index(taker, graph)):
            continue
        casts: list[onnx.NodeProto] = []
        scores = taker.input[0]
        while scores in makers and makers[scores].op_type in _IDLE:
            casts.insert(0, makers[scores])
            scores = makers[scores].input[0]
        if scores in makers:
            return _End(makers[scores], scores, tuple(casts), taker)
    return None


def _is_positive(index: NDArray[np.int64]) -> bool:
    return index.ndim <= 1 and index.size == 1 and index.item() == _POSITIVE


def _index(taker: onnx.NodeProto, graph: onnx.GraphProto) -> NDArray[np.int64]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    return numpy_helper.to_array(constants[taker.input[1]]) if taker.input[1] in constants else np.empty(0, dtype=np.int64)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def _keep_read(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give the graph `nodes`, without those that nothing reads any more."""
    outputs = {output.name for output in graph.output}
    while True:
        del graph.node[:]
        graph.node.extend(nodes)
        read = readers(graph)
        nodes = [node for node in nodes if any(read.get(name, 0) or name in outputs for name in node.output)]
        if len(nodes) == len(graph.node):
            break
    drop_unread_weights(graph)
