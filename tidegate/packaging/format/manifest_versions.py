"""Reads the manifests of earlier schema versions: each is lifted by one version at a time until it is of the newest.

A package is never rewritten for this. What an earlier version could not say has the value that was the only one possible then.
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import SCHEMA_VERSION, Manifest

_Document = dict[str, Any]


def decode_any_version(raw: bytes, *, where: str) -> Manifest:
    """Decode the bytes of a `package.json` of any schema version; raises PackageError naming the field at fault."""
    try:
        version = written_version(raw)
        if not 1 <= version <= SCHEMA_VERSION:
            raise PackageError(
                f"{where}: schema_version is {version}, this Tidegate reads 1 to {SCHEMA_VERSION}; use a newer Tidegate"
            )
        document = json.loads(raw, object_pairs_hook=_without_repetition)
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(raw, type=Manifest)
        for known in range(version, SCHEMA_VERSION):
            document = _LIFTS[known](document)
        return msgspec.convert(document, type=Manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{where}: not a manifest of its schema_version: {error!r}; package again") from error
    except RecursionError as error:
        raise PackageError(f"{where}: is nested deeper than any manifest; package again") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise PackageError(f"{where}: {in_one_line(error)}; package again") from error


def written_version(raw: bytes) -> int:
    """Return the schema version that a decodable `package.json` was written in."""
    return msgspec.json.decode(raw, type=_OnlyVersion).schema_version


class _OnlyVersion(msgspec.Struct):
    schema_version: int


def _without_repetition(pairs: list[tuple[str, Any]]) -> _Document:
    """Build a JSON object; of a field that is there twice one reader takes the first, another the last."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {repeated[:80]!r} is there twice")
    return document


def _lift_1(document: _Document) -> _Document:
    """Version 1 knew binary classifiers only, and one flag for every reduced precision."""
    _refuse_later_fields(document, "task", "source", "tools", "packing", "search")
    _refuse_later_fields(document["variant"], "precision")
    variant = dict(document["variant"])
    reduced = variant.pop("reduced_precision", False)
    if not isinstance(reduced, bool):
        raise ValueError("variant.reduced_precision is not true or false")
    variant["precision"] = ("half" if variant["name"] == "fp16" else "int8") if reduced else "full"
    return {**document, "schema_version": 2, "task": "binary-classification", "variant": variant}


def _lift_2(document: _Document) -> _Document:
    """Version 2 counted whatever training did not hold, and had no BF16."""
    for spec in (*document["signature"]["inputs"], *document["signature"]["outputs"]):
        _refuse_later_fields(spec, "policy")
        if spec["datatype"] == "BF16":
            raise ValueError("its schema_version has no datatype 'BF16'")
    return {**document, "schema_version": 3}


def _refuse_later_fields(document: _Document, *fields: str) -> None:
    for field in fields:
        if field in document:
            raise ValueError(f"its schema_version has no field {field!r}")


_LIFTS: dict[int, Callable[[_Document], _Document]] = {1: _lift_1, 2: _lift_2}
