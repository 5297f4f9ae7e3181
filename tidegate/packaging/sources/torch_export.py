"""What PyTorch's modules and exported programs share: how their answers are named, and how they become ONNX."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx

from tidegate.errors import PackageError, in_one_line
from tidegate.extras import needing
from tidegate.packaging.format.manifest import Datatype
from tidegate.packaging.sources.graphs import without_traces
from tidegate.packaging.sources.source import Array

with needing("pytorch"):
    import torch

DATATYPES: dict[torch.dtype, Datatype] = {
    torch.bool: "BOOL",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.uint8: "UINT8",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}
_OUTPUT = "output"
# What the exporter says, and what its users can do about it.
_WAYS_OUT = {
    "inferred a static shape": "the model works for one length of that axis only: take lengths from the tensors themselves",
    "data-dependent": "the model decides by the values in its tensors: use torch.where or torch.cond for that",
}


def datatype_of(dtype: torch.dtype, what: str) -> Datatype:
    """Return the datatype of a tensor; raises PackageError for one that no signature can say, such as bfloat16."""
    if dtype not in DATATYPES:
        raise PackageError(f"{what} is {dtype}, which no signature can say; convert the model with .float()")
    return DATATYPES[dtype]


def as_tensors(inputs: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Return copies of arrays as tensors; raises PackageError for text, which PyTorch has no tensors of."""
    for name, array in inputs.items():
        if array.dtype.kind in "OU":
            raise PackageError(
                f"input {name!r} is text, of which PyTorch has no tensors; give the numbers that it is encoded as"
            )
    return {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}


def named_outputs(answer: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors in what a model returned: `output`, or by key and position; what is None is left out.

    >>> sorted(named_outputs({"logits": torch.zeros(2, 3), "layers": (torch.zeros(2), torch.zeros(2))}))
    ['layers_0', 'layers_1', 'logits']

    Raises:
        PackageError: It holds something that is no tensor.
    """
    if answer is None:
        return {}
    if isinstance(answer, torch.Tensor):
        return {path or _OUTPUT: answer}
    if isinstance(answer, Mapping):
        parts = {str(key): value for key, value in answer.items()}
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        parts = dict(zip(answer._fields, answer, strict=True))
    elif isinstance(answer, (tuple, list)):
        parts = {f"{path or _OUTPUT}_{position}": value for position, value in enumerate(answer)}
        path = ""
    else:
        raise PackageError(
            f"output {path or _OUTPUT!r} is a {type(answer).__name__}; tensors, or dicts and tuples of them, are needed"
        )
    prefix = f"{path}_" if path else ""
    return {name: tensor for key, value in parts.items() for name, tensor in named_outputs(value, f"{prefix}{key}").items()}


def as_arrays(outputs: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Return tensors as arrays; raises PackageError for a datatype that no signature can say."""
    for name, tensor in outputs.items():
        datatype_of(tensor.dtype, f"output {name!r}")
    return {name: tensor.detach().numpy() for name, tensor in outputs.items()}


def export(name: str, model: Any, *arguments: Any, **options: Any) -> onnx.ModelProto:
    """Return the graph that torch.onnx's exporter makes; raises PackageError, naming the cause, if it cannot."""
    with needing("pytorch"):
        import onnxscript  # noqa: F401 - the exporter needs it, and would not name the extra
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(model, *arguments, dynamo=True, verbose=False, **options)
    except Exception as error:  # the exporter raises whatever its parts raise
        raise PackageError(f"model {name}: torch.onnx cannot convert it: {_cause(error)}") from error
    return without_traces(exported.model_proto)


def _cause(error: BaseException) -> str:
    """What the innermost error says: the outer ones speak of the exporter's own stages, at length."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = in_one_line(error)
    return "; ".join([said, *(way_out for sign, way_out in _WAYS_OUT.items() if sign in said)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks from the user: on other packages, on its workings, and whole graphs that it fails on."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
