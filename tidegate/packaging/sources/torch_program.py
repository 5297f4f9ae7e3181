"""Source models of PyTorch: programs that `torch.export` made, whose inputs, datatypes and varying axes are part of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from tidegate.errors import PackageError
from tidegate.extras import needing
from tidegate.packaging.format.manifest import SourceFacts, Task, TensorSpec
from tidegate.packaging.sources.graphs import check_size, with_boundary
from tidegate.packaging.sources.source import Array
from tidegate.packaging.sources.tensors import (
    DeclaredInput,
    accept_declared,
    answers,
    as_read,
    bind,
    columns_of,
    required_names,
)
from tidegate.packaging.sources.torch_export import as_arrays, as_tensors, datatype_of, export, named_outputs

with needing("pytorch"):
    import torch
    from torch.utils import _pytree as pytree

_MOST_ROWS = 256  # in one call, unless the program takes fewer
_SPECIAL = 2  # torch.export writes a least length of 2 where none was asked for, and such programs take a length of 1 too


class TorchProgram:
    """An exported program; inputs that it was exported with as constants stay so."""

    task: Task = "tensors"
    classes: tuple[str, ...] = ()

    def __init__(self, program: torch.export.ExportedProgram, name: str) -> None:
        """Read what the program declares; raises PackageError if a datatype of it is none that a signature can say."""
        self._name, self._program = name, program
        self.facts = SourceFacts(framework="PyTorch", version=str(torch.__version__), kind="ExportedProgram")
        check_size(name, sum(tensor.nbytes for tensor in program.state_dict.values()))
        self._declared, self._rows = _declared(program, name)
        self._module = program.module()
        self.columns = required_names(self._declared)

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as the program declares them; raises PackageError as `accept_declared` does."""
        least, _ = self._rows
        if least > 1:
            raise PackageError(
                f"model {self._name}: it takes {least} rows at least; export it again with "
                "dynamic_shapes={…: {0: torch.export.Dim('batch', min=1)}}"
            )
        return accept_declared(self._name, self._declared, inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the program's outputs by name; raises PackageError if it refuses the rows."""
        _, most = self._rows
        return answers(self._name, lambda rows: as_arrays(self._call(rows)), inputs, chunk=most)

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the ONNX graph; raises PackageError if the exporter cannot convert the program."""
        bound = bind(self._name, self._declared, [spec.name for spec in inputs])
        outputs = list(self._call(example))
        graph = export(self._name, self._program, output_names=outputs)
        names = {one.name: name for name, one in bound.items()}
        return with_boundary(graph, names, {name: name for name in outputs}, columns_of(bound))

    def _call(self, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        bound = bind(self._name, self._declared, list(inputs))
        tensors = as_tensors({one.name: as_read(inputs[name], one) for name, one in bound.items()})
        leaves = [tensors.get(name) if isinstance(name, str) else name for name in self._program.graph_signature.user_inputs]
        arguments, keywords = pytree.tree_unflatten(leaves, self._program.call_spec.in_spec)
        with torch.no_grad():
            return named_outputs(self._module(*arguments, **keywords))


def _declared(program: torch.export.ExportedProgram, name: str) -> tuple[list[DeclaredInput], tuple[int, int]]:
    """The inputs, and the least and greatest number of rows in one call."""
    read = set(program.graph_signature.user_inputs)
    declared, rows = [], (1, _MOST_ROWS)
    for node in program.graph.nodes:
        held = node.meta.get("val")
        if node.op != "placeholder" or node.name not in read or not isinstance(held, torch.Tensor):
            continue
        ranges = [_range(program, size) for size in held.shape]
        if ranges and not isinstance(held.shape[0], int):
            rows = (max(rows[0], ranges[0][0]), min(rows[1], ranges[0][1]))
        declared.append(
            DeclaredInput(
                name=node.name,
                datatype=datatype_of(held.dtype, f"model {name}: input {node.name!r}"),
                shape=tuple(size if isinstance(size, int) else -1 for size in held.shape),
                least=tuple((axis, least) for axis, (least, _) in enumerate(ranges)),
            )
        )
    return declared, rows


def _range(program: torch.export.ExportedProgram, size: Any) -> tuple[int, int]:
    """The least and greatest length of an axis; what is computed from other lengths may have any."""
    if isinstance(size, int):
        return size, size
    found = program.range_constraints.get(size.node.expr)
    if found is None:
        return 1, _MOST_ROWS
    least = 1 if found.lower <= _SPECIAL else int(found.lower)
    return least, int(found.upper) if found.upper < _MOST_ROWS else _MOST_ROWS
