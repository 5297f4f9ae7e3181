"""Source models of PyTorch: modules, run by themselves, converted by torch.onnx's exporter.

A module's inputs are the parameters of its `forward`. Its outputs are what `forward` returns: a tensor is `output`, a dict's
tensors have its keys, a tuple's are `output_0`, `output_1`, …. Its batch axis may vary, and every other axis named so.

    TorchModel(classifier, "digits")
    TorchModel(encoder, "encoder", varying={"tokens": [1]})
"""

import inspect
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx

from tidegate.extras import needing
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Datatype, SourceFacts, Task, TensorSpec
from tidegate.packaging.sources.graphs import check_size, with_boundary
from tidegate.packaging.sources.source import Array
from tidegate.packaging.sources.tensors import DeclaredInput, accept_declared, answers, bind, required_names
from tidegate.packaging.sources.torch_export import as_arrays, as_tensors, datatype_of, export, named_outputs

with needing("pytorch"):
    import torch

_Parameter = inspect.Parameter


class TorchModel:
    """An `nn.Module`, run on the CPU in the mode for inference."""

    task: Task = "tensors"
    classes: tuple[str, ...] = ()

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        *,
        varying: Mapping[str, Sequence[int]] | None = None,
        facts: SourceFacts | None = None,
    ) -> None:
        """Put the module on the CPU and into eval mode.

        Args:
            module: The module.
            name: How messages call it.
            varying: The axes after the batch that may vary in length, by input.
            facts: What the model was, if more is known than that it is PyTorch's.

        Raises:
            PackageError: Its weights are too large, or of a datatype that no signature can say.
        """
        self._name, self._module, self._varying = name, module.cpu().eval(), dict(varying or {})
        self.facts = facts or SourceFacts(framework="PyTorch", version=str(torch.__version__), kind=type(module).__name__)
        check_size(name, sum(tensor.nbytes for tensor in self._module.state_dict().values()))
        self._float = _float(self._module, name)
        self._declared = _parameters(self._module)
        self.columns = required_names(self._declared)

    def accept(self, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Return the inputs that `forward` reads, floats as the weights are; raises PackageError as `accept_declared` does.

        A table has integers where a network computes with floats, such as an age: if the module refuses them, they are floats.
        """
        by_name = {spec.name: spec for spec in inputs}
        bound = bind(self._name, self._parameters_for(list(by_name)), list(by_name))
        declared = [self._declaration(by_name[name], one.name) for name, one in bound.items()]
        accepted = accept_declared(self._name, declared, [by_name[name] for name in bound])
        if self._float is None or self._runs_on(accepted):
            return accepted
        floats = tuple(msgspec.structs.replace(spec, datatype=self._float) if _is_integer(spec) else spec for spec in accepted)
        return floats if self._runs_on(floats) else accepted

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the module's outputs by name; raises PackageError if it refuses the rows."""
        return answers(self._name, lambda rows: as_arrays(self._call(rows)), inputs)

    def to_onnx(self, inputs: Sequence[TensorSpec], example: Mapping[str, Array]) -> onnx.ModelProto:
        """Return the ONNX graph; raises PackageError if the exporter cannot convert the module, or fixes a varying axis."""
        example = _longer_than_one(example, inputs)
        names = [spec.name for spec in inputs]
        varying = torch.export.Dim.DYNAMIC  # refuses a module that works for one length only; AUTO would fix it in silence
        shapes = tuple({axis: varying for axis, size in enumerate(spec.shape) if size == -1} for spec in inputs)
        outputs = list(self._call(example))
        graph = export(
            self._name,
            _ByPosition(self._module, self._keywords(names)).eval(),
            tuple(as_tensors({name: example[name] for name in names}).values()),
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(shapes,),
        )
        return with_boundary(graph, {name: name for name in names}, {name: name for name in outputs})

    def _runs_on(self, inputs: Sequence[TensorSpec]) -> bool:
        """Try the module on two rows of the least values that the sample had."""
        if any(spec.datatype == "BYTES" for spec in inputs):
            return False
        try:
            self._call({spec.name: _least_rows(spec) for spec in inputs})
        except Exception:  # a module raises whatever its layers raise
            return False
        return True

    def _call(self, inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        adapted = _ByPosition(self._module, self._keywords(list(inputs)))
        with torch.no_grad():
            return named_outputs(adapted.answer(*as_tensors(inputs).values()))

    def _parameters_for(self, given: Sequence[str]) -> Sequence[DeclaredInput]:
        return self._declared or [DeclaredInput(name=name) for name in given]

    def _keywords(self, given: Sequence[str]) -> list[str] | None:
        """The parameters that the given inputs are passed as, or None if `forward` takes them by position alone."""
        return [one.name for one in bind(self._name, self._declared, given).values()] if self._declared else None

    def _declaration(self, spec: TensorSpec, parameter: str) -> DeclaredInput:
        """What the module takes: shapes as the sample has them, but for the axes that are named as varying."""
        axes = self._varying.get(spec.name, self._varying.get(parameter, ()))
        return DeclaredInput(
            name=spec.name,
            datatype=self._float if spec.datatype in ("FP16", "FP32", "FP64") else None,
            shape=tuple(-1 if axis in axes else size for axis, size in enumerate(spec.shape)),
        )


class _ByPosition(torch.nn.Module):  # type: ignore[misc]  # torch is not looked into
    """A module that takes its inputs in order, by whatever names, and returns a plain tuple of tensors."""

    def __init__(self, module: torch.nn.Module, keywords: Sequence[str] | None) -> None:
        super().__init__()
        self.module, self.keywords = module, keywords

    def answer(self, *tensors: torch.Tensor) -> object:
        if self.keywords is None:
            return self.module(*tensors)
        return self.module(**dict(zip(self.keywords, tensors, strict=True)))

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(named_outputs(self.answer(*tensors)).values())


def _parameters(module: torch.nn.Module) -> list[DeclaredInput]:
    """The parameters of `forward`; none if it takes any number of tensors by position."""
    found = inspect.signature(module.forward).parameters.values()
    if any(one.kind is _Parameter.VAR_POSITIONAL for one in found):
        return []
    named = [one for one in found if one.kind is not _Parameter.VAR_KEYWORD]
    return [DeclaredInput(name=one.name, required=one.default is _Parameter.empty) for one in named]


def _float(module: torch.nn.Module, name: str) -> Datatype | None:
    """The datatype of the module's floating-point weights, which its inputs have to be of too; None without any."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return datatype_of(parameter.dtype, f"model {name}: a weight")
    return None


def _is_integer(spec: TensorSpec) -> bool:
    return "INT" in spec.datatype


def _least_rows(spec: TensorSpec) -> Array:
    lengths = [most for _, most in spec.sizes] or list(spec.shape[1:])
    return np.full((2, *lengths), spec.minimum or 0, dtype=NUMPY_TYPES[spec.datatype])


def _longer_than_one(example: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Repeat rows along every varying axis of length 1, since the exporter takes a length of 1 for one that never varies."""
    longer = dict(example)
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if size == -1 and longer[spec.name].shape[axis] == 1:
                longer[spec.name] = np.repeat(longer[spec.name], 2, axis=axis)
    return {spec.name: longer[spec.name] for spec in inputs}
