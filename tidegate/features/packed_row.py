"""The packed row: how one entity's features of one view are written in the online store, and the key they lie under.

Both the Feast online store, which writes, and the server's reader, which must not import Feast, use this module.

    key   project, view (msgpack strings), then the array of entity key values in the order of the sorted join keys
    row   msgpack map of feature name to value: null, boolean, integer, float or string; anything else is an opaque extension
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tidegate.errors import FeatureError

KeyValue = str | int

_encode = msgspec.msgpack.Encoder().encode
_decode_map = msgspec.msgpack.Decoder(dict[str, Any]).decode


def view_prefix(project: str, view: str) -> bytes:
    """Return what every key of a view begins with, and no key of another view does."""
    return _encode(project) + _encode(view)


def key_order(join_keys: Iterable[str]) -> tuple[str, ...]:
    """Return the order in which a key holds the values of `join_keys`."""
    return tuple(sorted(join_keys))


def pack_key(prefix: bytes, values: tuple[KeyValue, ...]) -> bytes:
    """Return the key of the entity whose key values, in `key_order`, are `values`; raises FeatureError on other types."""
    try:
        return prefix + _encode(values)
    except (TypeError, OverflowError) as error:
        raise FeatureError(f"entity key {values!r}: every value must be a string or a 64-bit integer") from error


def pack_row(features: Mapping[str, Any]) -> bytes:
    """Return the packed row of `features`."""
    return _encode(features)


unpack_row: Callable[[bytes], dict[str, Any]] = _decode_map
"""Return the features of a packed row."""
