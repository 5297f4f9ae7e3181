"""Finds the self-attention of transformers in a graph, and puts it into ONNX Runtime's own operator.

PyTorch's exporter writes attention as three dense layers, two products and a softmax, and works out the shape of each
transposition at run time. ONNX Runtime's fusions, and those of `onnxruntime.transformers`, know the forms of older exporters.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from tidegate.packaging.onnx_graphs import drop_unread_nodes, drop_unread_weights, fresh_name, value_names

_DOMAIN = "com.microsoft"
_HEADS_FIRST = [0, 2, 1, 3]  # [rows, tokens, heads, width] to [rows, heads, tokens, width], and back
_HEADS_FIRST_TRANSPOSED = [0, 2, 3, 1]


@dataclass(frozen=True, slots=True)
class _Dense:
    """A dense layer that makes queries, keys or values: `source` [rows, tokens, …] by `weight` [in, heads * width] + `bias`."""

    source: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    heads: int


@dataclass(frozen=True, slots=True)
class _Attention:
    """softmax(scale * queries · keysᵀ + mask) · values, of which `merged` puts the heads side by side again."""

    queries: _Dense
    keys: _Dense
    values: _Dense
    scale: float
    mask: str  # added to the scores, [rows or 1, heads or 1, tokens, tokens]; empty if there is none
    merged: NodeProto


def with_fused_attention(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return a copy of `model` with every self-attention that is recognized as one operator, and how many there are.

    Queries, keys and values become one product by the three weights side by side, and no transposition is left.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = list(_Reader(copy.graph).attentions())
    taken = value_names(copy.graph)
    for attention in found:
        _replace(copy.graph, attention, taken)
    drop_unread_nodes(copy.graph)
    drop_unread_weights(copy.graph)
    if found and not any(entry.domain == _DOMAIN for entry in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return copy, len(found)


def _replace(graph: onnx.GraphProto, attention: _Attention, taken: set[str]) -> None:
    layers = (attention.queries, attention.keys, attention.values)
    output = attention.merged.output[0]
    weight, bias = fresh_name(f"{output} weights", taken), fresh_name(f"{output} biases", taken)
    graph.initializer.append(numpy_helper.from_array(np.concatenate([layer.weight for layer in layers], axis=1), weight))
    graph.initializer.append(numpy_helper.from_array(np.concatenate([layer.bias for layer in layers]), bias))
    fused = helper.make_node(
        "Attention",
        [attention.queries.source, weight, bias, "", "", attention.mask],
        [output],
        name=fresh_name(f"{output} attention", taken),
        domain=_DOMAIN,
        num_heads=attention.queries.heads,
        scale=attention.scale,
    )
    place = list(graph.node).index(attention.merged)
    del graph.node[place]
    graph.node.insert(place, fused)


class _Reader:
    """Reads a graph backwards from what makes a value, and forwards to the one node that takes it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.node for name in node.output}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._takers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)

    def attentions(self) -> Iterator[_Attention]:
        """Yield every self-attention whose parts are all where they are looked for."""
        for node in self._graph.node:
            if node.op_type == "Softmax" and (attention := self._around(node)) is not None:
                yield attention

    def _around(self, softmax: NodeProto) -> _Attention | None:
        product = self._only_taker(softmax.output[0], "MatMul")
        apart = product and self._only_taker(product.output[0], "Transpose")
        merged = apart and self._only_taker(apart.output[0], "Reshape")
        if not product or not apart or not merged or _permutation(apart) != _HEADS_FIRST:
            return None
        scores, mask = self._without_mask(softmax.input[0])
        scores, factor = self._without_factor(scores)
        similar = self._maker(scores, "MatMul")
        if similar is None:
            return None
        left, of_queries = self._without_factor(similar.input[0])
        right, of_keys = self._without_factor(similar.input[1])
        queries, keys = self._dense(self._heads_first(left)), self._dense(self._heads_first_transposed(right))
        values = self._dense(self._heads_first(product.input[1]))
        if queries is None or keys is None or values is None or not _fit(queries, keys, values):
            return None
        return _Attention(queries, keys, values, factor * of_queries * of_keys, mask, merged)

    def _without_mask(self, value: str) -> tuple[str, str]:
        """Split a sum into the product in it and what is added to that."""
        total = self._maker(value, "Add")
        if total is None:
            return value, ""
        first, second = total.input
        return (second, first) if self._maker(second, "MatMul") else (first, second)

    def _without_factor(self, value: str) -> tuple[str, float]:
        """Split a value into what is multiplied, or divided, by one constant number, and that factor."""
        if (product := self._maker(value, "Mul")) is not None:
            for number, other in (product.input, reversed(product.input)):
                if (factor := self._number(number)) is not None:
                    return other, factor
        if (ratio := self._maker(value, "Div")) is not None and (divisor := self._number(ratio.input[1])):
            return ratio.input[0], 1 / divisor
        return value, 1.0

    def _heads_first_transposed(self, value: str) -> str | None:
        """As `_heads_first`, with tokens and width exchanged: in one step, or in two."""
        at_once = self._maker(value, "Transpose")
        if at_once and _permutation(at_once) == _HEADS_FIRST_TRANSPOSED:
            return str(at_once.input[0])
        return self._heads_first(self._transposed(value))

    def _transposed(self, value: str) -> str | None:
        """Return whose last two axes are exchanged in `value`: by one Transpose, or with the axes before them as one."""
        flat = self._maker(value, "Reshape")
        swap = self._maker(flat.input[0] if flat else value, "Transpose")
        if swap is None:
            return None
        if flat is None:
            return swap.input[0] if _permutation(swap) == [0, 1, 3, 2] else None
        before = self._maker(swap.input[0], "Reshape")
        return before.input[0] if before and _permutation(swap) == [0, 2, 1] else None

    def _heads_first(self, value: str | None) -> str | None:
        apart = self._maker(value, "Transpose")
        return apart.input[0] if apart and _permutation(apart) == _HEADS_FIRST else None

    def _dense(self, value: str | None) -> _Dense | None:
        """Return the dense layer whose output `value` splits into heads."""
        split = self._maker(value, "Reshape")
        total = self._maker(split.input[0] if split else None, "Add")
        if split is None or total is None:
            return None
        heads = self._heads(split.input[1])
        for product, bias in (total.input, reversed(total.input)):
            layer = self._maker(product, "MatMul")
            weight, added = self._constants.get(layer.input[1] if layer else ""), self._constants.get(bias)
            if layer and heads and weight is not None and added is not None and weight.dtype == added.dtype == np.float32:
                fits = weight.ndim == 2 and added.shape == weight.shape[1:] and weight.shape[1] % heads == 0
                return _Dense(layer.input[0], weight, added, heads) if fits else None
        return None

    def _heads(self, shape: str) -> int | None:
        """Return the third number of a shape [rows, tokens, heads, width]."""
        parts = self._maker(shape, "Concat")
        if parts is not None:
            heads = self._number(parts.input[2]) if len(parts.input) == 4 else None
        else:
            whole = self._constants.get(shape)
            heads = float(whole[2]) if whole is not None and whole.shape == (4,) else None
        return int(heads) if heads and heads > 0 else None

    def _number(self, name: str) -> float | None:
        constant = self._constants.get(name)
        return float(constant.item()) if constant is not None and constant.size == 1 else None

    def _maker(self, value: str | None, operator: str) -> NodeProto | None:
        node = self._makers.get(value or "")
        return node if node is not None and node.op_type == operator else None

    def _only_taker(self, value: str, operator: str) -> NodeProto | None:
        takers = self._takers.get(value, [])
        return takers[0] if len(takers) == 1 and takers[0].op_type == operator else None


def _fit(queries: _Dense, keys: _Dense, values: _Dense) -> bool:
    """Whether the three read the same tokens and are equally wide, so that one product can make them."""
    layers = (queries, keys, values)
    return len({(layer.source, layer.weight.shape, layer.heads) for layer in layers}) == 1


def _permutation(transpose: NodeProto) -> list[int]:
    return next((list(attribute.ints) for attribute in transpose.attribute if attribute.name == "perm"), [])
