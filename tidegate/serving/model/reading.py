"""Reads what was sent into what the graph takes: fast where everything is usual, exactly where anything is not.

Nearly all requests hold single values per row, of the right names and datatypes, within what training held. Those are read in
one of two short ways, without an array for each input:

    one row           a list of Python values in the signature's order; requests of one row are joined to matrices by `feeds`
    rows by columns   one matrix for each input of the graph that is numbers, [columns, rows], and a column for each text

Whatever is not so is read once more by `InputValidator`, tensor by tensor, which says what is wrong, counts what is unusual and
applies the policies. So there is one place for each rule, and the two fast ways decide nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Manifest, PackedInput, TensorSpec
from tidegate.serving.model.validation import InputValidator
from tidegate.serving.protocol.errors import bad_request
from tidegate.serving.protocol.tensors import Array, Tensor, array_of

_ONE_ROW = ([1], [1, 1])
_NUMBERS = frozenset({float, int})
_INTEGERS = frozenset({int})

_Place = tuple[int, str, type, Any, Any, bool]
"""Index in a row, datatype, type of the Python value, lowest and highest usual value (or categories), may it be missing."""


class Inputs:
    """A request's rows, checked: in one of three forms, of which the other two are None.

    Attributes:
        rows: Number of rows.
        row: A single row's values in the signature's order; None where a feature is to be looked up. A missing float is NaN.
        blocks: One matrix for each of `blocks_of`, shape [columns, rows]; zero where features are to be looked up.
        columns: Model inputs by name, in the signature's shapes; beside blocks, those that are in none.
        keys: Entity keys by name, one value a row; a null key has no features.
        features_given: The caller sent the features itself, so that none are to be looked up.
        as_sent: What a policy changed, as it was before.
    """

    __slots__ = ("as_sent", "blocks", "columns", "features_given", "keys", "row", "rows")

    def __init__(
        self,
        rows: int,
        *,
        row: list[Any] | None = None,
        blocks: list[Array] | None = None,
        columns: dict[str, Array] | None = None,
        keys: Mapping[str, Sequence[Any]],
        features_given: bool = False,
        as_sent: Mapping[str, Array] = {},
    ) -> None:
        self.rows = rows
        self.row = row
        self.blocks = blocks
        self.columns = columns
        self.keys = keys
        self.features_given = features_given
        self.as_sent = as_sent


class RequestReader:
    """Reads requests for one model package."""

    def __init__(self, manifest: Manifest, *, max_rows: int, count_unusual: Callable[[str, int], None]) -> None:
        """Prepare for the signature; `max_rows` and `count_unusual` are those of `InputValidator`."""
        inputs = manifest.signature.inputs
        self._validator = InputValidator(manifest, max_rows=max_rows, count_unusual=count_unusual)
        self._max_rows = max_rows
        self._datatypes = {spec.name: spec.datatype for spec in inputs}
        self._names = tuple(self._datatypes)
        self._in_rows = all(_is_single(spec) for spec in inputs)
        join_keys = manifest.features.join_keys if manifest.features else ()
        own_keys = [key for key in join_keys if key not in self._datatypes]
        self._places = {spec.name: _place(index, spec) for index, spec in enumerate(inputs) if spec.source == "request"}
        self._key_places = {key: len(inputs) + index for index, key in enumerate(own_keys)}
        indexes = {name: index for index, name in enumerate(self._names)} | self._key_places
        self._keys = tuple((key, indexes[key]) for key in join_keys)
        self._wanted = len(self._places) + len(own_keys)
        self._blank = [None] * (len(inputs) + len(own_keys))
        self._inputs = len(inputs)
        self._blocks = _BlockReader(manifest, own_keys) if self._in_rows else None
        self._block_places = block_places(manifest)
        self._texts = [spec.name for spec in inputs if spec.datatype == "BYTES" and spec.source == "request"]

    def read(self, tensors: list[Tensor]) -> Inputs:
        """Return a request's rows; raises RequestError (400) that names tensor, row, value and bound."""
        if self._blocks is None or len(tensors) != self._wanted:
            return self._exactly(tensors)
        first = tensors[0]
        if first.shape in _ONE_ROW and type(first.data) is list:
            row = self._usual_row(tensors)
            if row is not None:
                return self._with_keys(row)
        elif first.shape and 0 < first.shape[0] <= self._max_rows:
            found = self._blocks.read(tensors, first.shape[0])
            if found is not None:
                return self._with_block_keys(first.shape[0], *found)
        return self._exactly(tensors)

    def _usual_row(self, tensors: list[Tensor]) -> list[Any] | None:
        places, key_places = self._places, self._key_places
        row: list[Any] = self._blank.copy()
        for tensor in tensors:
            data = tensor.data
            if type(data) is not list or len(data) != 1 or tensor.shape not in _ONE_ROW:
                return None
            value = data[0]
            place = places.get(tensor.name)
            if place is None:
                index = key_places.get(tensor.name, -1)
                if index < 0 or type(value) is not str or tensor.datatype != "BYTES":
                    return None
            else:
                index, datatype, kind, low, high, may_be_missing = place
                if tensor.datatype != datatype:
                    return None
                if kind is float:
                    if type(value) is float or type(value) is int:
                        if not low <= value <= high:
                            return None
                    elif value is None and may_be_missing:
                        value = math.nan
                    else:
                        return None
                elif kind is str:
                    if type(value) is not str or (low is not None and value not in low):
                        return None
                elif type(value) is not kind or not low <= value <= high:
                    return None
            if row[index] is not None:
                return None
            row[index] = value
        return row

    def _with_keys(self, row: list[Any]) -> Inputs:
        keys = {key: (row[index],) for key, index in self._keys}
        del row[self._inputs :]
        return Inputs(1, row=row, keys=keys)

    def _with_block_keys(self, rows: int, blocks: list[Array], columns: dict[str, Array]) -> Inputs:
        keys = {key: self._key_values(key, blocks, columns) for key, _ in self._keys}
        return Inputs(rows, blocks=blocks, columns={name: columns[name] for name in self._texts}, keys=keys)

    def _key_values(self, key: str, blocks: list[Array], columns: dict[str, Array]) -> list[Any]:
        where = self._block_places.get(key)
        values = columns[key].ravel() if where is None else blocks[where[0]][where[1]]
        listed: list[Any] = values.tolist()
        return listed

    def _check_names(self, tensors: list[Tensor]) -> None:
        """Refuse what no input is called, and what is given twice, before any of it is read."""
        names = set()
        for tensor in tensors:
            if tensor.name in names:
                raise bad_request(f"tensor {tensor.name!r} is given twice")
            names.add(tensor.name)
            if tensor.name not in self._validator.known:
                raise self._validator.unknown(tensor.name)

    def _exactly(self, tensors: list[Tensor]) -> Inputs:
        self._check_names(tensors)
        arrays = {tensor.name: array_of(tensor) for tensor in tensors}
        for tensor in tensors:
            wanted = self._datatypes.get(tensor.name, tensor.datatype)
            if wanted != tensor.datatype:
                raise bad_request(f"tensor {tensor.name!r} is {tensor.datatype}, but this model takes {wanted}")
        checked = self._validator.check(arrays)
        found = checked.tensors
        if checked.rows != 1 or not self._in_rows:
            return Inputs(
                checked.rows,
                columns=found,
                keys=checked.keys,
                features_given=checked.features_given,
                as_sent=checked.as_sent,
            )
        row = [found[name].item() if name in found else None for name in self._names]
        return Inputs(1, row=row, keys=checked.keys, features_given=checked.features_given, as_sent=checked.as_sent)


def blocks_of(manifest: Manifest) -> tuple[PackedInput, ...]:
    """Return the packed inputs of a graph, and each other input that is numbers as one of a single column."""
    packed = {name for part in manifest.packing for name in part.columns}
    loose = [spec for spec in manifest.signature.inputs if spec.name not in packed and spec.datatype != "BYTES"]
    return (
        *manifest.packing,
        *(PackedInput(name=spec.name, datatype=spec.datatype, columns=(spec.name,)) for spec in loose),
    )


def block_places(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Return where each input lies that is in a block: which of `blocks_of`, and which row of its matrix."""
    return {
        name: (block, position) for block, part in enumerate(blocks_of(manifest)) for position, name in enumerate(part.columns)
    }


class _BlockReader:
    """Reads many rows, sent column by column, into one matrix for each block."""

    def __init__(self, manifest: Manifest, own_keys: Sequence[str]) -> None:
        specs = {spec.name: spec for spec in manifest.signature.inputs}
        sent = {name: spec for name, spec in specs.items() if spec.source == "request"}
        self._blocks = tuple(_Block(part, specs) for part in blocks_of(manifest))
        self._where = {name: place for name, place in block_places(manifest).items() if name in sent}
        texts = {name: spec.categories for name, spec in sent.items() if spec.datatype == "BYTES"}
        self._categories = {name: None if known is None else frozenset(known) for name, known in texts.items()}
        self._categories |= dict.fromkeys(own_keys)
        self._datatypes = {name: spec.datatype for name, spec in sent.items()} | dict.fromkeys(own_keys, "BYTES")

    def read(self, tensors: list[Tensor], rows: int) -> tuple[list[Array], dict[str, Array]] | None:
        """Return the matrices and what belongs in none, or None if anything is not as usual."""
        shapes = ([rows], [rows, 1])
        parts: list[dict[int, Any]] = [{} for _ in self._blocks]
        columns: dict[str, Array] = {}
        for tensor in tensors:
            name, data = tensor.name, tensor.data
            if tensor.datatype != self._datatypes.get(name) or tensor.shape not in shapes:
                return None
            where = self._where.get(name)
            if where is not None:
                block, position = where
                if position in parts[block]:
                    return None
                parts[block][position] = data
                continue
            column = self._text(name, data, rows)
            if column is None or name in columns:
                return None
            columns[name] = column
        matrices = []
        for reader, given in zip(self._blocks, parts, strict=True):
            matrix = reader.matrix(given, rows)
            if matrix is None:
                return None
            matrices.append(matrix)
        return matrices, columns

    def _text(self, name: str, data: Any, rows: int) -> Array | None:
        """Return a column of usual texts."""
        if type(data) is not list or len(data) != rows or set(map(type, data)) != {str}:
            return None
        categories = self._categories[name]
        if categories is not None and not categories.issuperset(data):
            return None
        column = np.empty((rows, 1), object)
        column[:, 0] = data
        return column


class _Block:
    """One block: which of its columns are sent, and what is usual in each."""

    def __init__(self, part: PackedInput, specs: Mapping[str, TensorSpec]) -> None:
        self._dtype = NUMPY_TYPES[part.datatype]
        self._columns = len(part.columns)
        self._types = _NUMBERS if self._dtype.kind == "f" else _INTEGERS
        self._plain = self._dtype.kind in "fiu" and part.datatype != "BF16"
        sent = [index for index, name in enumerate(part.columns) if specs[name].source == "request"]
        self._sent = sent
        self._is_whole = len(sent) == self._columns
        bounds = [_bounds(specs[part.columns[index]]) for index in sent]
        low, high = np.array(bounds, np.float64).reshape(-1, 2).T
        self._low, self._high = _inner(low, high, self._dtype)
        missing = [_may_be_missing(specs[part.columns[index]]) for index in sent]
        self._may_be_missing = np.array(missing, np.bool_).reshape(-1, 1) if self._dtype.kind == "f" and any(missing) else None

    def matrix(self, given: Mapping[int, Any], rows: int) -> Array | None:
        """Return [columns, rows], zero where features are yet to be looked up; None if anything is not as usual."""
        if len(given) != len(self._sent) or not self._plain:
            return None
        if not self._sent:
            return np.zeros((self._columns, rows), self._dtype)
        values = self._values([given[index] for index in self._sent], rows)
        if values is None or not self._are_usual(values):
            return None
        if self._is_whole:
            return values
        matrix = np.zeros((self._columns, rows), self._dtype)
        matrix[self._sent] = values
        return matrix

    def _values(self, data: list[Any], rows: int) -> Array | None:
        kinds = set(map(type, data))
        if kinds == {list}:
            if set(map(len, data)) != {rows} or not self._types.issuperset(map(type, chain.from_iterable(data))):
                return None
            try:
                return np.array(data, self._dtype)
            except OverflowError:
                return None
        if kinds == {np.ndarray}:
            return np.array(data).astype(self._dtype)
        if not kinds <= {bytes, memoryview} or set(map(len, data)) != {rows * self._dtype.itemsize}:
            return None
        return np.frombuffer(b"".join(data), self._dtype).reshape(-1, rows)

    def _are_usual(self, values: Array) -> bool:
        usual = (values >= self._low) & (values <= self._high)
        if self._may_be_missing is not None and not usual.all():
            usual |= self._may_be_missing & (values != values)
        return bool(usual.all())


def _is_single(spec: TensorSpec) -> bool:
    return all(size == 1 for size in spec.shape[1:]) and spec.datatype != "BF16"


def _may_be_missing(spec: TensorSpec) -> bool:
    return spec.nullable and spec.policy.missing != "impute"


def _bounds(spec: TensorSpec) -> tuple[float, float]:
    """Return the range of usual numbers: what training held, or else what the datatype holds."""
    dtype = NUMPY_TYPES[spec.datatype]
    if dtype.kind == "b":
        return 0, 1
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)
    return max(low, -math.inf if spec.minimum is None else spec.minimum), min(
        high, math.inf if spec.maximum is None else spec.maximum
    )


def _inner(low: Array, high: Array, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return bounds as columns of `dtype`, rounded inwards, so that nothing outside the exact ones passes."""
    if dtype.kind != "f":
        return np.ceil(low).reshape(-1, 1), np.floor(high).reshape(-1, 1)
    with np.errstate(over="ignore"):
        near_low, near_high = low.astype(dtype), high.astype(dtype)
    largest = np.finfo(dtype).max
    near_low = np.where(near_low < low, np.nextafter(near_low, dtype.type(np.inf)), near_low)
    near_high = np.where(near_high > high, np.nextafter(near_high, dtype.type(-np.inf)), near_high)
    return np.maximum(near_low, -largest).reshape(-1, 1), np.minimum(near_high, largest).reshape(-1, 1)


def _place(index: int, spec: TensorSpec) -> _Place:
    dtype = NUMPY_TYPES[spec.datatype]
    if dtype.kind == "O":
        return index, spec.datatype, str, None if spec.categories is None else frozenset(spec.categories), None, False
    low, high = _bounds(spec)
    if dtype.kind == "f":
        return index, spec.datatype, float, low, high, _may_be_missing(spec)
    if dtype.kind == "b":
        return index, spec.datatype, bool, False, True, False
    limits = np.iinfo(dtype)
    low_int = limits.min if spec.minimum is None else max(int(limits.min), math.ceil(spec.minimum))
    high_int = limits.max if spec.maximum is None else min(int(limits.max), math.floor(spec.maximum))
    return index, spec.datatype, int, int(low_int), int(high_int), False
