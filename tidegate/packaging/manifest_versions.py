"""Reads the manifests of earlier schema versions: each is lifted by one version at a time until it is of the newest.

A package is never rewritten for this. What `schema_version` 1 could not say has the value that was the only one possible then.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from tidegate.errors import PackageError
from tidegate.packaging.manifest import SCHEMA_VERSION, Manifest


def decode_any_version(raw: bytes, *, where: str) -> Manifest:
    """Decode the bytes of a `package.json` of any schema version; raises PackageError naming the field at fault."""
    try:
        version = msgspec.json.decode(raw, type=_OnlyVersion).schema_version
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(raw, type=Manifest)
        if not 1 <= version < SCHEMA_VERSION:
            raise PackageError(
                f"{where}: schema_version is {version}, this Tidegate reads 1 to {SCHEMA_VERSION}; use a newer Tidegate"
            )
        document = msgspec.json.decode(raw, type=dict[str, Any])
        for known in range(version, SCHEMA_VERSION):
            document = _LIFTS[known](document)
        return msgspec.convert(document, type=Manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise PackageError(f"{where}: not a manifest of its schema_version: {error!r}") from error
    except msgspec.MsgspecError as error:
        raise PackageError(f"{where}: {error}") from error


class _OnlyVersion(msgspec.Struct):
    schema_version: int


def _lift_1(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew binary classifiers only, and one flag for every reduced precision."""
    variant = dict(document["variant"])
    reduced = variant.pop("reduced_precision", False)
    variant["precision"] = ("half" if variant["name"] == "fp16" else "int8") if reduced else "full"
    return {**document, "schema_version": 2, "task": "binary-classification", "variant": variant}


_LIFTS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _lift_1}
