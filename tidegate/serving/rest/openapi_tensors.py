"""A model's tensors as JSON Schemas (draft 2020-12, which OpenAPI 3.1 uses), as exact as that language can be.

What it cannot say is said in words instead: that all tensors have the same number of rows, and that there are as many values
as the shape promises.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tidegate.packaging.format.datatypes import NUMPY_TYPES
from tidegate.packaging.format.manifest import Manifest, TensorSpec

Schema = dict[str, Any]

_KEY_VALUES: Schema = {"type": ["string", "integer", "null"], "description": "An entity key; a null key has no features."}
_KEY_DATATYPES = ("BYTES", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_PARAMETERS: Schema = {"type": "object", "description": "Parameters that this server does not know are ignored."}
_MOST_EXAMPLE_VALUES = 64


class TensorSchemas:
    """Schemas of what one model is sent and answers, in both versions of the protocol.

    Attributes:
        keys: Entity keys by which features are looked up.
        sent: Inputs that callers must send.
        features: Inputs that are looked up, unless callers send all of them.
        outputs: What is answered.
    """

    def __init__(
        self, manifest: Manifest, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_rows: int
    ) -> None:
        """Describe a model that is sent `inputs`, entity keys among them, and answers `outputs`, its label among them."""
        named = {spec.name for spec in manifest.signature.inputs}
        self.keys = [spec for spec in inputs if spec.name not in named]
        self.sent = [spec for spec in inputs if spec.name in named]
        self.features = [spec for spec in manifest.signature.inputs if spec.source == "feature"]
        self.outputs = list(outputs)
        self._max_rows = max_rows

    def request_tensors(self) -> Schema:
        """Return the schema of v2's `inputs`."""
        tensors = [*(_key_tensor(spec, self._max_rows) for spec in self.keys), *map(self._sent, (*self.sent, *self.features))]
        schema: Schema = {
            "type": "array",
            "description": self._rows_in_words(),
            "items": {"oneOf": tensors} if len(tensors) > 1 else tensors[0],
            "minItems": max(1, len(self.sent)),
            "maxItems": len(tensors),
            "allOf": _all_named(self.sent),
        }
        if self.features:
            schema["anyOf"] = [{"allOf": _all_named(self.keys)}, {"allOf": _all_named(self.features)}]
        return schema

    def answer_tensors(self) -> Schema:
        """Return the schema of v2's `outputs` in an answer."""
        return {"type": "array", "items": {"oneOf": [_answered(spec) for spec in self.outputs]}, "minItems": 1}

    def wanted_outputs(self) -> Schema:
        """Return the schema of v2's `outputs` in a request."""
        wanted = {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"enum": [spec.name for spec in self.outputs]},
                "parameters": {**_PARAMETERS, "properties": {"binary_data": {"type": "boolean"}}},
            },
        }
        return {"type": "array", "description": "Outputs to answer, in this order; all if left out or empty.", "items": wanted}

    def row(self) -> Schema:
        """Return the schema of one of v1's `instances`; its values are in the shape of one row of each input."""
        properties: dict[str, Schema] = {spec.name: _KEY_VALUES for spec in self.keys}
        properties |= {spec.name: _nested(_value(spec), _row_shape(spec)) for spec in (*self.sent, *self.features)}
        return {"type": "object", "properties": properties, "required": self._required(), "additionalProperties": False}

    def columns(self) -> Schema:
        """Return the schema of v1's `inputs`: one list of rows for each input."""
        properties = {
            name: {"type": "array", "items": values, "minItems": 1} for name, values in self.row()["properties"].items()
        }
        return {"type": "object", "properties": properties, "required": self._required(), "additionalProperties": False}

    def answer_row(self) -> Schema:
        """Return the schema of one of v1's `predictions`: a value of each output by name, or the only output's itself."""
        values = self._answered_values()
        if len(values) == 1:
            return next(iter(values.values()))
        return {"type": "object", "properties": values, "required": list(values)}

    def answer_columns(self) -> Schema:
        """Return the schema of v1's `outputs`, likewise."""
        columns = {name: {"type": "array", "items": value} for name, value in self._answered_values().items()}
        if len(columns) == 1:
            return next(iter(columns.values()))
        return {"type": "object", "properties": columns, "required": list(columns)}

    def _answered_values(self) -> dict[str, Schema]:
        return {spec.name: _nested(_value(spec, answered=True), spec.shape[1:]) for spec in self.outputs}

    def example(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return a v2 request of one row, and the same row for v1; None for tensors too large to show, or of BF16."""
        tensors, row = [], {}
        for spec in (*self.keys, *self.sent):
            shape = _example_shape(spec)
            count = int(np.prod(shape))
            if count > _MOST_EXAMPLE_VALUES or spec.datatype == "BF16":
                return None
            values = [_example_value(spec)] * count
            tensors.append({"name": spec.name, "datatype": spec.datatype, "shape": [1, *shape], "data": values})
            row[spec.name] = values[0] if count == 1 else np.array(values, object).reshape(shape).tolist()
        return {"inputs": tensors}, row

    def _required(self) -> list[str]:
        return [spec.name for spec in (self.sent if self.features else (*self.keys, *self.sent))]

    def _rows_in_words(self) -> str:
        words = f"Each tensor once, all of the same number of rows, 1 to {self._max_rows}, which is their first axis."
        if not self.features:
            return words
        keys, features = (", ".join(spec.name for spec in specs) for specs in (self.keys, self.features))
        return f"{words} Features are looked up by {keys or 'the entity keys'}, unless all of them are sent: {features}."

    def _sent(self, spec: TensorSpec) -> Schema:
        shape = _shape(spec.shape, self._max_rows)
        if _is_column(spec):
            shape = {"type": "array", "prefixItems": shape["prefixItems"][:1], "items": {"const": 1}, "minItems": 1}
        return _tensor(spec, [spec.datatype], shape, _data(_value(spec), len(spec.shape)))


def _all_named(specs: Sequence[TensorSpec]) -> list[Schema]:
    """Return what a list must fulfil to hold a tensor of each of these names."""
    return [{"contains": {"properties": {"name": {"const": spec.name}}, "required": ["name"]}} for spec in specs] or [{}]


def _key_tensor(spec: TensorSpec, max_rows: int) -> Schema:
    return _tensor(spec, _KEY_DATATYPES, _shape((-1,), max_rows), _data(_KEY_VALUES, 2))


def _answered(spec: TensorSpec) -> Schema:
    axes = len(spec.shape)  # prefixItems would say more, but not every tool that reads answers by this document knows it
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": axes, "maxItems": axes}
    return _tensor(spec, [spec.datatype], shape, {"type": "array", "items": _value(spec, answered=True)})


def _tensor(spec: TensorSpec, datatypes: Sequence[str], shape: Schema, data: Schema) -> Schema:
    size = {"type": "integer", "minimum": 0, "description": "Bytes of this tensor among those after the JSON."}
    described = _in_words(spec)
    in_binary = {"properties": {"parameters": {"required": ["binary_data_size"]}}, "required": ["parameters"]}
    return {
        "title": spec.name,
        "type": "object",
        **({"description": described} if described else {}),
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": spec.name},
            "datatype": {"enum": list(datatypes)},
            "shape": shape,
            "data": data,
            "parameters": {**_PARAMETERS, "properties": {"binary_data_size": size}},
        },
        **(in_binary if spec.datatype == "BF16" else {"anyOf": [{"required": ["data"]}, in_binary]}),
    }


def _shape(shape: Sequence[int], max_rows: int) -> Schema:
    rows = {"type": "integer", "minimum": 1, "maximum": max_rows}
    axes = [rows, *({"type": "integer", "minimum": 1} if size == -1 else {"const": size} for size in shape[1:])]
    return {"type": "array", "prefixItems": axes, "items": False, "minItems": len(axes)}


def _data(value: Schema, axes: int) -> Schema:
    """Return the schema of `data`: a flat list, or lists nested as the axes are."""
    nested: Schema = {"type": "array", "items": value}
    for _ in range(axes - 1):
        nested = {"type": "array", "items": nested}
    if axes == 1:
        return nested
    return {"anyOf": [{"type": "array", "items": value}, nested]}


def _nested(value: Schema, shape: Sequence[int]) -> Schema:
    for size in reversed(shape):
        fixed = {} if size == -1 else {"minItems": size, "maxItems": size}
        value = {"type": "array", "items": value, **fixed}
    return value


def _row_shape(spec: TensorSpec) -> Sequence[int]:
    """Return the shape of one row as v1 is sent it: a row of one value is that value."""
    return () if _is_column(spec) else spec.shape[1:]


def _is_column(spec: TensorSpec) -> bool:
    return all(size == 1 for size in spec.shape[1:])


def _value(spec: TensorSpec, *, answered: bool = False) -> Schema:
    dtype = NUMPY_TYPES[spec.datatype]
    null_too = answered or spec.nullable or spec.policy.missing == "impute"
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        schema: Schema = {"type": "integer", "minimum": int(bounds.min), "maximum": int(bounds.max)}
    elif dtype.kind == "f":
        greatest = float(np.finfo(dtype).max)
        schema = {"type": "number", "minimum": -greatest, "maximum": greatest}
    else:
        schema = {"type": "string"}
        if spec.policy.unknown_category == "reject" and spec.categories is not None:
            schema["enum"] = list(spec.categories)
    if spec.policy.out_of_range == "reject" and dtype.kind in "iuf":
        schema |= {} if spec.minimum is None else {"minimum": spec.minimum}
        schema |= {} if spec.maximum is None else {"maximum": spec.maximum}
    if null_too and dtype.kind in "fO":
        schema["type"] = [schema["type"], "null"]
        if "enum" in schema:
            schema["enum"].append(None)
    return schema


def _in_words(spec: TensorSpec) -> str:
    words = []
    if spec.minimum is not None and spec.maximum is not None:
        treated = {"count": "answered and counted", "reject": "refused", "clamp": "replaced by the nearer bound"}
        words.append(
            f"Training held {spec.minimum:g} to {spec.maximum:g}; what is beyond is {treated[spec.policy.out_of_range]}."
        )
    if spec.categories is not None:
        treated = {"count": "answered and counted", "reject": "refused", "impute": f"replaced by {spec.policy.imputed!r}"}
        listed = ", ".join(spec.categories[:20]) + (", …" if len(spec.categories) > 20 else "")
        words.append(f"Training held {listed}; any other text is {treated[spec.policy.unknown_category]}.")
    if spec.policy.missing == "impute":
        words.append(f"A missing value is replaced by {spec.policy.imputed!r}.")
    elif spec.nullable:
        words.append("May be missing: null.")
    if spec.sizes:
        words.append(f"Lengths of a row's axes in training: {', '.join(f'{least} to {most}' for least, most in spec.sizes)}.")
    if spec.datatype == "BF16":
        words.append("BF16 has no JSON form: it is sent and answered in binary.")
    return " ".join(words)


def _example_shape(spec: TensorSpec) -> list[int]:
    least = [low for low, _ in spec.sizes] or [1] * len(spec.shape[1:])
    return [low if size == -1 else size for size, low in zip(spec.shape[1:], least, strict=False)]


def _example_value(spec: TensorSpec) -> Any:
    kind = NUMPY_TYPES[spec.datatype].kind
    if kind == "O":
        return spec.categories[0] if spec.categories else "text"
    if kind == "b":
        return True
    low, high = spec.minimum or 0.0, spec.maximum if spec.maximum is not None else spec.minimum or 0.0
    middle = (low + high) / 2
    return round(middle) if kind in "iu" else float(f"{middle:.6g}")
