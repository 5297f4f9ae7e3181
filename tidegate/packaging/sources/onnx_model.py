"""Source models that are ONNX already: checked, kept in one file, and run without any optimization as their own truth."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import TensorProto, external_data_helper

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.bfloat16_graphs import signature_datatype, with_float_boundary
from tidegate.packaging.format.manifest import Datatype, Runtime, SourceFacts, Task, TensorSpec
from tidegate.packaging.running.session import open_session
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

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx.preview.training")
_OLDEST_OPSET = 7  # ONNX Runtime promises no older ones


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, and the files beside it that hold its weights; raises PackageError if it is none."""
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own kinds of errors
        raise PackageError(f"source model {path}: not a readable ONNX file: {in_one_line(error)}") from error
    check_size(str(path), path.stat().st_size + sum(file.stat().st_size for file in _weight_files(model, path)))
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise PackageError(f"source model {path}: its weights cannot be read: {in_one_line(error)}") from error
    return model


class OnnxModel:
    """An ONNX graph."""

    task: Task = "tensors"
    classes: tuple[str, ...] = ()

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        """Check the graph; raises PackageError if it is malformed, or needs operators that ONNX Runtime has not."""
        _check(model, name)
        model = with_float_boundary(model)
        self._name, self._graph = name, model
        self.facts = SourceFacts(framework="ONNX", version=onnx.__version__, kind=_made_by(model))
        self._declared = _declared(model, name)
        self._outputs = [value.name for value in model.graph.output]
        self._session = _opened(model, name)
        self.columns = required_names(self._declared)

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs as the graph declares them; raises PackageError as `accept_declared` does."""
        return accept_declared(self._name, self._declared, inputs)

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs by name; raises PackageError if it refuses the rows."""
        bound = bind(self._name, self._declared, list(inputs))

        def run(rows: dict[str, Array]) -> dict[str, Array]:
            feeds = {one.name: as_read(rows[name], one) for name, one in bound.items()}
            return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))

        return answers(self._name, run, inputs)

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return a copy of the graph, its inputs called and shaped as the signature says."""
        bound = bind(self._name, self._declared, [spec.name for spec in inputs])
        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        weights = {tensor.name for tensor in copy.graph.initializer}
        given = [value for value in copy.graph.input if value.name not in weights]
        del copy.graph.input[:]
        copy.graph.input.extend(given)
        names = {one.name: name for name, one in bound.items()}
        return with_boundary(copy, names, {name: name for name in self._outputs}, columns_of(bound))


def _check(model: onnx.ModelProto, name: str) -> None:
    domains = {opset.domain for opset in model.opset_import}
    unknown = sorted({node.domain for node in model.graph.node} - set(_KNOWN_DOMAINS) - _own_domains(model))
    if unknown:
        raise PackageError(
            f"model {name}: it uses operators of {', '.join(unknown)}, which ONNX Runtime does not know; export it without them"
        )
    version = next((opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")), _OLDEST_OPSET)
    if version < _OLDEST_OPSET:
        raise PackageError(
            f"model {name}: its opset is {version}, and {_OLDEST_OPSET} is the oldest that runs; "
            "convert it with onnx.version_converter"
        )
    try:
        if domains <= {"", "ai.onnx", "ai.onnx.ml"}:  # the checker knows no others
            onnx.checker.check_model(model)
    except Exception as error:  # the checker raises its own kinds of errors
        raise PackageError(f"model {name}: not a valid ONNX graph: {in_one_line(error)}") from error


def _own_domains(model: onnx.ModelProto) -> set[str]:
    return {function.domain for function in model.functions}


def _declared(model: onnx.ModelProto, name: str) -> list[DeclaredInput]:
    weights = {tensor.name for tensor in model.graph.initializer}
    declared = [
        DeclaredInput(name=value.name, datatype=_datatype(value, name), shape=_shape(value, name))
        for value in model.graph.input
        if value.name not in weights
    ]
    if not declared:
        raise PackageError(f"model {name}: its graph has no inputs; a package needs at least one")
    return declared


def _datatype(value: onnx.ValueInfoProto, name: str) -> Datatype:
    datatype = signature_datatype(value)
    if datatype is None:
        kind = value.type.tensor_type.elem_type
        what = TensorProto.DataType.Name(kind) if value.type.HasField("tensor_type") else "no tensor"
        raise PackageError(f"model {name}: input {value.name!r} is {what}, which no signature can say")
    return datatype


def _shape(value: onnx.ValueInfoProto, name: str) -> tuple[int, ...]:
    if not value.type.tensor_type.HasField("shape"):
        raise PackageError(f"model {name}: input {value.name!r} declares no shape; export it with one")
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in value.type.tensor_type.shape.dim)


def _opened(model: onnx.ModelProto, name: str) -> ort.InferenceSession:
    try:
        return open_session(model.SerializeToString(), Runtime(graph_optimization="disabled"))
    except PackageError as error:
        raise PackageError(f"model {name}: {error}") from error


def _made_by(model: onnx.ModelProto) -> str:
    made = " ".join(part for part in (model.producer_name, model.producer_version) if part)
    return f"graph of {made}" if made else "graph"


def _weight_files(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """The files beside a graph that hold weights of it; whether they may be read is onnx's to judge."""
    kept = {
        entry.value
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    yield from (path.parent / name for name in sorted(kept) if (path.parent / name).is_file())
