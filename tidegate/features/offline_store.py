"""A Feast offline store that joins point-in-time training sets with DuckDB's ASOF joins.

In `feature_store.yaml`:

    offline_store:
      type: tidegate.features.offline_store.AsofOfflineStore

`get_historical_features` keeps every entity row, also duplicates and rows without key or timestamp, in the order given. A
row is missing once it is older than its view's TTL; of rows with the same key and event time, the one created last counts.
Times are compared in whole microseconds, rounded down. Everything else is inherited from Feast's DuckDB store.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt
from feast import FeatureView, OnDemandFeatureView, RepoConfig
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.saved_dataset import SavedDatasetStorage

from tidegate.errors import DataError, FeatureError
from tidegate.features.asof_join import MOMENT, ROW, ViewJoin, asof_join, entity_column
from tidegate.features.source import ViewSource, open_connection, open_source

_NAT = np.iinfo(np.int64).min


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Settings of `AsofOfflineStore`: those of Feast's DuckDB store."""

    type: Literal["tidegate.features.offline_store.AsofOfflineStore"] = "tidegate.features.offline_store.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB offline store with an exact and fast `get_historical_features`."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Return the job that joins `feature_refs` to `entity_df`, a DataFrame or a DuckDB query for one.

        Raises:
            DataError: The entity rows lack a key or timestamp, or a source lacks a column or has a wrong type.
            FeatureError: There are no entity rows, only a time range.
        """
        if entity_df is None:
            raise FeatureError("entity rows: not given; a point-in-time join needs rows to join to, not only a time range")
        connection = open_connection()
        rows = _entity_rows(connection, entity_df)
        timestamp = infer_event_timestamp_from_entity_df(_pandas_dtypes(rows.schema))
        joins = [
            _view_join(connection, view, feature_refs, full_feature_names=full_feature_names, config=config)
            for view in feature_views
        ]
        return AsofRetrievalJob(
            connection=connection,
            rows=rows,
            timestamp=timestamp,
            joins=joins,
            on_demand=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            feature_refs=feature_refs,
            full_feature_names=full_feature_names,
            only_created=filter_by_created_timestamp,
        )


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A point-in-time join, run when its result is asked for."""

    def __init__(
        self,
        *,
        connection: duckdb.DuckDBPyConnection,
        rows: pa.Table,
        timestamp: str,
        joins: list[ViewJoin],
        on_demand: list[OnDemandFeatureView],
        feature_refs: list[str],
        full_feature_names: bool,
        only_created: bool,
    ) -> None:
        self._connection = connection
        self._rows = rows
        self._joins = joins
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names
        self._only_created = only_created
        self._moments = _moments(rows, timestamp)
        known = self._moments[self._moments != _NAT]
        self._metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in rows.column_names if name != timestamp],
            min_event_timestamp=_to_datetime(known.min()) if known.size else None,
            max_event_timestamp=_to_datetime(known.max()) if known.size else None,
        )

    @property
    def full_feature_names(self) -> bool:
        """Whether a feature is called `<view>__<feature>`."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The requested on-demand views; the base class computes them."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        keys = dict.fromkeys(column for join in self._joins for column in join.keys.values())
        entities = pa.table(
            {
                **{entity_column(name): _key_column(self._rows, name, self._joins) for name in keys},
                MOMENT: pa.array(self._moments, mask=self._moments == _NAT),
                ROW: np.arange(self._rows.num_rows),
            }
        )
        result = self._rows
        for name, column in asof_join(self._connection, entities, self._joins, only_created=self._only_created):
            result = result.append_column(name, column)
        return result

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as one Parquet file; raises FeatureError if it exists and must not be overwritten."""
        if not isinstance(storage, SavedDatasetFileStorage):
            raise FeatureError(f"saved dataset: {type(storage).__name__} is not supported; use SavedDatasetFileStorage")
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise FeatureError(f"saved dataset: {path} exists; pass allow_overwrite=True to replace it")
        partial = path.with_name(f".{path.name}.partial")
        pq.write_table(self.to_arrow(timeout=timeout), partial)
        partial.replace(path)


def _entity_rows(connection: duckdb.DuckDBPyConnection, entity_df: pd.DataFrame | str) -> pa.Table:
    if isinstance(entity_df, pd.DataFrame):
        return pa.Table.from_pandas(entity_df, preserve_index=False)
    try:
        return connection.sql(entity_df).to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"entity rows: the query failed: {' '.join(str(error).split())}") from error


def _pandas_dtypes(schema: pa.Schema) -> dict[str, Any]:
    dtypes: dict[str, Any] = schema.empty_table().to_pandas().dtypes.to_dict()
    return dtypes


def _view_join(
    connection: duckdb.DuckDBPyConnection, view: FeatureView, feature_refs: list[str], *, full_feature_names: bool, config: Any
) -> ViewJoin:
    asked = f"{view.projection.name_to_use()}:"
    features = list(dict.fromkeys(ref.removeprefix(asked) for ref in feature_refs if ref.startswith(asked)))
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    return ViewJoin(
        source=open_source(connection, view, features, config.repo_path),
        keys={key.name: view.projection.join_key_map.get(key.name, key.name) for key in view.entity_columns},
        features={name: f"{prefix}{name}" for name in features},
        ttl=view.ttl,
    )


def _moments(rows: pa.Table, timestamp: str) -> npt.NDArray[np.int64]:
    """Return the entity rows' times in microseconds since the epoch, rounded down; int64's minimum for none."""
    kind = rows.schema.field(timestamp).type
    if not pt.is_timestamp(kind):
        raise DataError(f"entity rows: column {timestamp!r} is {kind}, not a timestamp")
    times = rows.column(timestamp).to_numpy()
    microseconds: npt.NDArray[np.int64] = times.astype("datetime64[us]").view(np.int64)  # rounds down, and keeps NaT
    return microseconds


def _key_column(rows: pa.Table, name: str, joins: list[ViewJoin]) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise DataError(f"entity rows: no column {name!r}, which a feature view is looked up by; there are {rows.column_names}")
    column = rows.column(name)
    if pt.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    for join in joins:
        for key, entity in join.keys.items():
            if entity == name:
                _check_key_type(column.type, name, join.source, key)
    return column


def _check_key_type(kind: pa.DataType, name: str, source: ViewSource, key: str) -> None:
    is_text = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind)
    if not pt.is_null(kind) and is_text != (source.types[key] == "VARCHAR"):
        raise DataError(
            f"entity rows: column {name!r} is {kind}, but the key {key!r} of feature view {source.view} is {source.types[key]}"
        )


def _to_datetime(microseconds: np.int64) -> datetime:
    moment: datetime = pd.Timestamp(int(microseconds), unit="us", tz="UTC").to_pydatetime()
    return moment
