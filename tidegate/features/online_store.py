"""A Feast online store that keeps one packed row per view and entity in SQLite or Redis, readable without Feast.

In `feature_store.yaml`:

    online_store:
      type: tidegate.features.online_store.PackedOnlineStore
      path: /absolute/path/online.db                   # or: connection_string: redis://HOST:PORT/DB

An older event never overwrites a newer one. As with Feast's own stores, `get_online_features` does not check the TTL;
`tidegate.features.online.OnlineReader` does.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String
from pydantic import model_validator

from tidegate.features.address import configured_address
from tidegate.features.online_opening import open_row_writer
from tidegate.features.online_rows import RowWriter
from tidegate.features.packed_row import key_order, pack_key, pack_row, unpack_row, view_prefix
from tidegate.features.times import from_microseconds, to_microseconds

_PROTO = 1  # code of the msgpack extension that holds a value without a msgpack form, as Feast's own protobuf

_FIELDS: dict[FeastType, str] = {
    Float32: "float_val",
    Float64: "double_val",
    Int32: "int32_val",
    Int64: "int64_val",
    String: "string_val",
    Bool: "bool_val",
}


class PackedOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Settings of `PackedOnlineStore`."""

    type: Literal["tidegate.features.online_store.PackedOnlineStore"] = "tidegate.features.online_store.PackedOnlineStore"
    path: str | None = None
    """The SQLite file; relative to the repository unless absolute."""
    connection_string: str | None = None
    """A Redis: `redis://HOST:PORT/DB`, or `rediss://…` for TLS; the password is in TIDEGATE_ONLINE_STORE_PASSWORD."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.connection_string is None):
            raise ValueError("online_store: give either path or connection_string")
        return self


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]
    """One packed row per view and entity, in a SQLite file or a Redis."""

    _rows: RowWriter | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write feature rows; a timestamp without a zone is UTC."""
        prefix = view_prefix(config.project, table.name)
        rows = [
            (
                _key(prefix, entity),
                to_microseconds(event),
                to_microseconds(created) if created is not None else 0,
                pack_row({name: _to_packed(value) for name, value in features.items()}),
            )
            for entity, features, event, created in data
        ]
        self._writer(config).write(rows, [])
        if progress is not None:
            progress(len(rows))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Return event time and feature values for each entity key, or two times None."""
        prefix = view_prefix(config.project, table.name)
        fields = {field.name: field.dtype for field in table.features}
        wanted = requested_features if requested_features is not None else list(fields)
        keys = [_key(prefix, entity) for entity in entity_keys]
        found = self._writer(config).read(keys)
        result: list[tuple[datetime | None, dict[str, Value] | None]] = []
        for key in keys:
            hit = found.get(key)
            if hit is None:
                result.append((None, None))
                continue
            row = unpack_row(hit[1])
            values = {name: _to_proto(row[name], fields[name]) for name in wanted if name in row}
            result.append((from_microseconds(hit[0]), values))
        return result

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Remove the rows of views that are gone; where none is, the store is not even opened."""
        self.teardown(config, tables_to_delete, entities_to_delete)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the rows of the views `tables`."""
        for view in tables:
            self._writer(config).delete_view(config.project, view.name)

    def _writer(self, config: RepoConfig) -> RowWriter:
        if self._rows is None:
            self._rows = open_row_writer(packed_store_address(config))
        return self._rows


def packed_store_address(config: RepoConfig) -> str:
    """Return the address of the online store that `config` describes: `sqlite:///ABSOLUTE/PATH` or `redis://HOST:PORT/DB`."""
    return configured_address(config.online_store.model_dump(), Path(config.repo_path or "."))


def _key(prefix: bytes, entity: EntityKey) -> bytes:
    values = dict(zip(entity.join_keys, map(_to_packed, entity.entity_values), strict=True))
    return pack_key(prefix, tuple(values[name] for name in key_order(values)))


def _to_packed(value: Value) -> Any:
    field = value.WhichOneof("val")
    if field is None or field == "null_val":
        return None
    if field in _FIELDS.values():
        return getattr(value, field)
    return msgspec.msgpack.Ext(_PROTO, value.SerializeToString())


def _to_proto(value: Any, dtype: FeastType) -> Value:
    if value is None:
        return Value()
    if isinstance(value, msgspec.msgpack.Ext):
        proto: Value = Value.FromString(value.data)
        return proto
    return Value(**{_FIELDS[dtype]: value})
