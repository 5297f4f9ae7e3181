"""What sources of tensors share: the inputs that a model declares, held against a sample, and its answers, checked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Datatype, TensorSpec
from tidegate.packaging.sources.source import Array

_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredInput:
    """An input as a model declares it.

    Attributes:
        name: The model's own name for it.
        datatype: None if the model takes what the sample holds.
        shape: With the batch axis first; -1 is an axis of varying length. None if the model takes what the sample holds.
        required: Whether the model cannot do without it.
        least: The least length of each varying axis after the first, by its number; 1 where nothing is said.
    """

    name: str
    datatype: Datatype | None = None
    shape: tuple[int, ...] | None = None
    required: bool = True
    least: tuple[tuple[int, int], ...] = ()


def required_names(declared: Sequence[DeclaredInput]) -> tuple[str, ...]:
    """Return the names of a source's `columns`: empty if the sample decides, since some inputs are optional or there is one."""
    if len(declared) == 1 or not all(one.required for one in declared):
        return ()
    return tuple(one.name for one in declared)


def bind(model: str, declared: Sequence[DeclaredInput], given: Sequence[str]) -> dict[str, DeclaredInput]:
    """Return which declared input each given name is, in the model's order; what the model does not read is left out.

    The only input that a model needs takes the only column of a sample, whatever either is called.

    Raises:
        PackageError: An input that the model cannot do without is not given, or none that it reads.
    """
    needed = [one for one in declared if one.required]
    if len(needed) == len(given) == 1 and given[0] not in [one.name for one in declared]:
        return {given[0]: needed[0]}
    for one in declared:
        if one.required and one.name not in given:
            raise PackageError(f"model {model}: it reads input {one.name!r}, which is not among {', '.join(given) or 'none'}")
    bound = {one.name: one for one in declared if one.name in given}
    if not bound:
        names = ", ".join(one.name for one in declared)
        raise PackageError(f"model {model}: it reads {names}, and none of them is among {', '.join(given) or 'none'}")
    return bound


def accept_declared(model: str, declared: Sequence[DeclaredInput], given: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the given inputs as the model declares them, in the model's order.

    The length of a varying axis reaches from the least that the model takes to what the sample holds.

    Raises:
        PackageError: An input is missing, or its datatype or shape is none that the model takes.
    """
    by_name = {spec.name: spec for spec in given}
    bound = bind(model, declared, list(by_name))
    return tuple(_as_declared(model, by_name[name], one) for name, one in bound.items())


def _as_declared(model: str, spec: TensorSpec, declared: DeclaredInput) -> TensorSpec:
    datatype = declared.datatype or spec.datatype
    if not _readable(spec.datatype, datatype):
        raise PackageError(
            f"model {model}: input {spec.name!r} is {spec.datatype} in the sample, but the model reads {datatype}"
        )
    shape = _shape(model, spec, declared)
    varies = any(size == -1 for size in shape[1:])
    least = dict(declared.least)
    sizes = tuple(
        (least.get(axis, 1) if shape[axis] == -1 else size, size) for axis, size in enumerate(spec.shape[1:], start=1)
    )
    return msgspec.structs.replace(spec, datatype=datatype, shape=shape, sizes=sizes if varies else ())


def _shape(model: str, spec: TensorSpec, declared: DeclaredInput) -> tuple[int, ...]:
    wanted = declared.shape
    if wanted is None:
        return spec.shape
    if wanted[:1] != (-1,):
        fixed = f"takes exactly {wanted[0]} rows" if wanted else "has no axes"
        raise PackageError(
            f"model {model}: input {spec.name!r} {fixed}; export the model with a first axis of any length, the batch"
        )
    if len(wanted) == 1 and spec.shape == (-1, 1):
        return spec.shape
    fits = len(wanted) == len(spec.shape) and all(
        size in (-1, found) for size, found in zip(wanted[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise PackageError(
            f"model {model}: input {spec.name!r} has shape {list(spec.shape)} in the sample, but the model reads {list(wanted)}"
        )
    return wanted


def _readable(found: Datatype, wanted: Datatype) -> bool:
    if found == wanted:
        return True
    if "BYTES" in (found, wanted):
        return False
    return NUMPY_TYPES[found].kind != "f" or NUMPY_TYPES[wanted].kind == "f"


def as_read(array: Array, declared: DeclaredInput) -> Array:
    """Return an input in the model's own shape and datatype: a column is [rows] where the model declares one axis."""
    shaped = array.reshape(-1) if declared.shape is not None and len(declared.shape) == 1 else array
    return shaped if declared.datatype is None else shaped.astype(NUMPY_TYPES[declared.datatype], copy=False)


def columns_of(bound: Mapping[str, DeclaredInput]) -> list[str]:
    """Return the given names whose declared inputs have one axis only, which `as_read` flattens."""
    return [name for name, one in bound.items() if one.shape is not None and len(one.shape) == 1]


def answers(
    model: str, run: Callable[[dict[str, Array]], Mapping[str, Array]], inputs: Mapping[str, Array], *, chunk: int = _CHUNK_ROWS
) -> dict[str, Array]:
    """Return what `run` answers for the inputs, a chunk of rows at a time, checked to have one row for each of theirs.

    Raises:
        PackageError: The framework raises, gives an output without a row for each row, or one that no signature can say.
    """
    parts = [_answer(model, run, part) for part in _in_chunks(inputs, chunk)]
    try:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    except ValueError as error:
        raise PackageError(f"model {model}: its outputs differ in shape from batch to batch: {error}") from error


def _in_chunks(inputs: Mapping[str, Array], chunk: int) -> Iterator[dict[str, Array]]:
    rows = len(next(iter(inputs.values())))
    for start in range(0, rows, chunk):
        yield {name: array[start : start + chunk] for name, array in inputs.items()}


def _answer(model: str, run: Callable[[dict[str, Array]], Mapping[str, Array]], inputs: dict[str, Array]) -> dict[str, Array]:
    try:
        found = dict(run(inputs))
    except PackageError:
        raise
    except Exception as error:  # a framework raises whatever its operators raise
        raise PackageError(f"model {model}: it cannot predict the given rows: {in_one_line(error)}") from error
    rows = len(next(iter(inputs.values())))
    for name, array in found.items():
        if name in inputs:
            raise PackageError(f"model {model}: {name!r} is an input and an output; give one of them another name")
        if array.ndim == 0 or len(array) != rows:
            raise PackageError(
                f"model {model}: output {name!r} has shape {list(array.shape)} for {rows} rows; it needs one row for each"
            )
        if array.dtype not in NUMPY_TYPES.values():
            raise PackageError(f"model {model}: output {name!r} is {array.dtype}, which no signature can say")
    return found
