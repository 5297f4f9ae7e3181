"""Rewrites a graph so that columns which it joins anyway reach it joined, as one input [-1, columns] a datatype.

ONNX Runtime spends about a microsecond on every input of a call, which for a tabular model is most of the call. So

    a, b, c, d: FP32 [-1, 1]     n: INT64 [-1, 1]     Concat(a, b, Cast(n), c, d) -> joined

becomes

    packed_fp32: FP32 [-1, 4]    n: INT64 [-1, 1]     Concat(packed_fp32[a, b], Cast(n), packed_fp32[c, d]) -> joined

Outputs stay equal to the last bit: columns are only moved, and casts of numbers are the same by column or by matrix.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Datatype, PackedInput, TensorSpec
from tidegate.packaging.onnx_graphs import every_node, fresh_name, readers, rename_reads, value_names

# Measured on one row: joining k columns outside the graph costs about 1 µs + 0.1 µs k and saves k - 1 inputs of 1 µs each.
_FEWEST_JOINED = 4
# A column that the graph reads by itself must be taken out of its matrix again, 0.6 µs a column: only many pay for that, and
# texts never do, since each is copied.
_FEWEST_SINGLE = 10


def pack_graph(graph: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> tuple[onnx.ModelProto, tuple[PackedInput, ...]]:
    """Return the graph with its columns packed where that pays, and the packing; the graph itself and () where it does not.

    Args:
        graph: A graph of exactly these inputs; it is not changed.
        inputs: The signature's. Those of shape [-1, 1] are columns, which may be packed with others of their datatype.
    """
    columns = _Columns(graph, inputs)
    packing = tuple(_choose(columns, _taken_names(graph, inputs)))
    if not packing:
        return graph, ()
    packed = onnx.ModelProto()
    packed.CopyFrom(graph)
    _Rewriting(packed, columns, packing).run()
    return packed, packing


def unpack_graph(graph: onnx.ModelProto, packing: Sequence[PackedInput]) -> onnx.ModelProto:
    """Return the graph with the signature's own inputs, each [-1, 1], for a runtime that cannot be told of the packing."""
    unpacked = onnx.ModelProto()
    unpacked.CopyFrom(graph)
    packed = {part.name: part for part in packing}
    values = list(unpacked.graph.input)
    del unpacked.graph.input[:]
    for value in values:
        if value.name not in packed:
            unpacked.graph.input.append(value)
            continue
        columns = packed[value.name].columns
        unpacked.graph.input.extend(_like(value, column, width=1) for column in columns)
        join = helper.make_node("Concat", columns, [value.name], f"join {value.name}", axis=1)
        unpacked.graph.node.insert(0, join)
    return unpacked


@dataclass(frozen=True, slots=True)
class _Read:
    """A value that is one column, perhaps cast to another type; `kind` is ONNX's number of the type."""

    column: str
    kind: int


class _Columns:
    """The columns among a graph's inputs, and where the graph reads them.

    Attributes:
        datatypes: By column, in the signature's order.
        reads: By value name: the columns themselves, and what `Cast` and `Identity` make of them.
        joined: The columns that some Concat joins with others, in the order of the joins.
    """

    def __init__(self, graph: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> None:
        fixed = {tensor.name for tensor in graph.graph.initializer} | {output.name for output in graph.graph.output}
        columns = [spec for spec in inputs if spec.shape == (-1, 1) and spec.name not in fixed]
        self.datatypes: dict[str, Datatype] = {spec.name: spec.datatype for spec in columns}
        self.reads = {spec.name: _Read(spec.name, _kind_of(spec.datatype)) for spec in columns}
        for node in graph.graph.node:
            self._follow(node)
        joins = [self._columns_of(node) for node in graph.graph.node if _joins_columns(node)]
        self.joined = tuple(dict.fromkeys(column for join in joins if len(join) > 1 for column in join))

    def _columns_of(self, node: onnx.NodeProto) -> list[str]:
        return [self.reads[name].column for name in node.input if name in self.reads]

    def _follow(self, node: onnx.NodeProto) -> None:
        read = self.reads.get(node.input[0]) if node.input else None
        if read is None:
            return
        if node.op_type == "Identity":
            self.reads[node.output[0]] = read
        if node.op_type == "Cast" and read.kind == _kind_of(self.datatypes[read.column]) != onnx.TensorProto.STRING:
            self.reads[node.output[0]] = _Read(read.column, _attribute(node, "to"))


def _joins_columns(node: onnx.NodeProto) -> bool:
    return node.op_type == "Concat" and _attribute(node, "axis") in (1, -1)


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """Return an integer attribute; the one that may be absent, the axis of a Concat before opset 4, was 1 then."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), 1)


def _choose(columns: _Columns, taken: set[str]) -> Iterator[PackedInput]:
    for datatype in dict.fromkeys(columns.datatypes.values()):
        joined = [column for column in columns.joined if columns.datatypes[column] == datatype]
        single = [column for column, own in columns.datatypes.items() if own == datatype and column not in joined]
        chosen = joined if len(joined) >= _FEWEST_JOINED else []
        if len(single) >= _FEWEST_SINGLE and datatype != "BYTES":
            chosen = [*joined, *single]
        if chosen:
            yield PackedInput(name=fresh_name(f"packed_{datatype.lower()}", taken), datatype=datatype, columns=tuple(chosen))


class _Rewriting:
    """Turns a graph of single columns into one of matrices; new nodes come first, since they depend on inputs alone."""

    def __init__(self, model: onnx.ModelProto, columns: _Columns, packing: Sequence[PackedInput]) -> None:
        self._graph: onnx.GraphProto = model.graph
        self._reads = columns.reads
        self._packing = {part.name: part for part in packing}
        self._place = {column: (part.name, at) for part in packing for at, column in enumerate(part.columns)}
        self._taken = _taken_names(model, ()) | self._packing.keys()
        self._first: list[onnx.NodeProto] = []
        self._matrices: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        """Rewrite the graph in place."""
        for node in self._graph.node:
            if _joins_columns(node):
                self._join_matrices(node)
        self._drop_unread()
        self._take_out_single_columns()
        self._replace_inputs()
        nodes = [*self._first, *self._graph.node]
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _join_matrices(self, concat: onnx.NodeProto) -> None:
        """Replace every run of packed columns among what `concat` joins by the matrices that hold them."""
        joined: list[str] = []
        for is_packed, run in groupby(concat.input, key=self._is_packed):
            names = list(run)
            joined += self._side_by_side([self._reads[name] for name in names]) if is_packed else names
        del concat.input[:]
        concat.input.extend(joined)
        if len(joined) == 1:
            concat.op_type = "Identity"
            del concat.attribute[:]

    def _is_packed(self, value: str) -> bool:
        return value in self._reads and self._reads[value].column in self._place

    def _side_by_side(self, run: Sequence[_Read]) -> list[str]:
        """Return the values that, joined, are this run of columns: whole matrices if they are in order, else a selection."""
        parts = list(dict.fromkeys(self._place[read.column][0] for read in run))
        starts = dict(zip(parts, np.cumsum([0, *(len(self._packing[part].columns) for part in parts)]).tolist(), strict=False))
        wanted = [starts[part] + at for part, at in (self._place[read.column] for read in run)]
        matrices = [self._matrix(part, run[0].kind) for part in parts]
        if wanted == list(range(sum(len(self._packing[part].columns) for part in parts))):
            return matrices
        if len(matrices) > 1:
            matrices = [self._add("Concat", matrices, "joined", axis=1)]
        return [self._selected(matrices[0], wanted)]

    def _matrix(self, part: str, kind: int) -> str:
        """Return a packed input as a type, cast once."""
        if kind == _kind_of(self._packing[part].datatype):
            return part
        if (part, kind) not in self._matrices:
            self._matrices[part, kind] = self._add("Cast", [part], f"{part} as {_name_of(kind)}", to=kind)
        return self._matrices[part, kind]

    def _take_out_single_columns(self) -> None:
        """Give whatever still reads a packed column that column again, under another name."""
        read = readers(self._graph)
        renamed = {
            column: self._selected(part, [at], name=f"{column} of {part}")
            for column, (part, at) in self._place.items()
            if column in read
        }
        rename_reads(self._graph, renamed)

    def _replace_inputs(self) -> None:
        values = {value.name: value for value in self._graph.input}
        matrices = [_like(values[part.columns[0]], part.name, width=len(part.columns)) for part in self._packing.values()]
        kept = [value for name, value in values.items() if name not in self._place]
        del self._graph.input[:]
        self._graph.input.extend([*kept, *matrices])

    def _drop_unread(self) -> None:
        """Drop casts of single columns that nothing reads any more."""
        read = Counter(readers(self._graph))
        for node in reversed(list(self._graph.node)):
            followed = node.op_type in ("Cast", "Identity") and node.output[0] in self._reads
            if followed and not read[node.output[0]]:
                read.subtract(node.input)
                self._graph.node.remove(node)

    def _selected(self, matrix: str, columns: Sequence[int], name: str | None = None) -> str:
        indices = fresh_name(f"columns of {matrix}", self._taken)
        self._graph.initializer.append(numpy_helper.from_array(np.array(columns, np.int64), indices))
        return self._add("Gather", [matrix, indices], name or f"some of {matrix}", axis=1)

    def _add(self, operator: str, inputs: Sequence[str], name: str, **attributes: int) -> str:
        output = fresh_name(name, self._taken)
        self._first.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output


def _like(value: onnx.ValueInfoProto, name: str, *, width: int) -> onnx.ValueInfoProto:
    """Return a graph input of the same type and batch axis, but of another name and number of columns."""
    like = onnx.ValueInfoProto()
    like.CopyFrom(value)
    like.name = name
    like.type.tensor_type.shape.dim[1].Clear()
    like.type.tensor_type.shape.dim[1].dim_value = width
    return like


def _kind_of(datatype: Datatype) -> int:
    return int(onnx.TensorProto.STRING if datatype == "BYTES" else helper.np_dtype_to_tensor_dtype(NUMPY_TYPES[datatype]))


def _name_of(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind)).lower()


def _taken_names(model: onnx.ModelProto, inputs: Iterable[TensorSpec]) -> set[str]:
    return {spec.name for spec in inputs} | value_names(model.graph) | {node.name for node in every_node(model.graph)}
