"""A Feast repository and its workspace, in process: apply, contracts, training sets, materialization.

    repository = FeatureRepository(project.paths.repository, project.paths.workspace)
    repository.apply()
    contract = repository.contract("flights_late_v1")
    table = repository.training_set(entity_rows, "flights_late_v1", "event_timestamp")
    repository.materialize(clock.now())
    repository.online_store_uri         # what the model server's OnlineReader opens

This module imports Feast, which takes seconds: import it only where it is used.
"""

from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureStore, FeatureView
from feast.errors import FeastObjectNotFoundException
from feast.repo_config import RepoConfig

from tidegate.errors import DataError, FeatureError
from tidegate.features.contract import freeze_contract
from tidegate.features.definitions import load_config, load_definitions
from tidegate.features.feed import ReplayFeed
from tidegate.features.materialize import MaterializationReport, Materializer
from tidegate.features.online_opening import open_row_writer
from tidegate.features.online_store import PackedOnlineStore, packed_store_address
from tidegate.features.source import open_connection
from tidegate.packaging.format.manifest import Datatype, FeatureContract

_PACKED = f"{PackedOnlineStore.__module__}.{PackedOnlineStore.__name__}"
_TIMESTAMP = "event_timestamp"
_ARROW: dict[Datatype, pa.DataType] = {"FP32": pa.float32(), "INT64": pa.int64(), "BYTES": pa.string(), "BOOL": pa.bool_()}


class FeatureRepository:
    """The feature store of one project. Only its online store outlives a workspace: the rest is applied anew in each."""

    def __init__(self, repository: Path, workspace: Path, online_store: str | None = None) -> None:
        """Open the Feast repository folder `repository`.

        Args:
            repository: The folder that holds feature_store.yaml.
            workspace: What `${TIDEGATE_WORKSPACE}` stands for in it.
            online_store: Address of an online store to use instead of the one in feature_store.yaml.

        Raises:
            FeatureError: The folder holds no feature_store.yaml, or one that Feast refuses.
        """
        self._repository = repository.resolve()
        self._workspace = workspace.resolve()
        config = load_config(self._repository, self._workspace)
        _check_online_store(self._repository, config)
        if online_store is not None:
            config.online_config = {"type": _PACKED, "connection_string": online_store}
            config._online_store = None  # where Feast keeps what it has read of it
        self._store = FeatureStore(config=config)
        self._online_store = packed_store_address(self._store.config)
        self._materializer: Materializer | None = None
        self._online_views: list[FeatureView] | None = None

    @property
    def online_store_uri(self) -> str:
        """The address of the online store: `sqlite:///ABSOLUTE/PATH` or `redis://HOST:PORT/DB`."""
        return self._online_store

    def apply(self) -> None:
        """Register the repository's definitions, and forget those that are gone from it; doing it twice changes nothing.

        Raises:
            FeatureError: A definition file fails, or Feast refuses a definition.
            DataError: A source is missing or cannot be read.
        """
        defined = load_definitions(self._repository, self._workspace)
        names = {(type(value), value.name) for value in defined}
        registered = [*self._store.list_feature_views(), *self._store.list_feature_services()]
        gone = [value for value in registered if (type(value), value.name) not in names]
        try:
            self._store.apply(defined, objects_to_delete=gone, partial=False)
            self._online_views = None
        except Exception as error:  # Feast raises errors of many kinds here
            raise FeatureError(f"feature repository {self._repository}: {_one_line(error)}") from error

    def contract(self, service: str) -> FeatureContract:
        """Return the feature contract of the service called `service`, as registered by `apply`.

        Raises:
            FeatureError: There is no such service, or it cannot be frozen; see `tidegate.features.contract`.
        """
        views = {view.name: view for view in self._store.list_feature_views()}
        return freeze_contract(self._store.project, self._service(service), views)

    def training_set(self, entity_rows: pa.Table, service: str, timestamp_column: str) -> pa.Table:
        """Return `entity_rows`, all rows and columns in order, with the features known at each row's time.

        Args:
            entity_rows: At least the service's join keys and `timestamp_column`; rows may repeat or lack a key or a time.
            service: The feature service.
            timestamp_column: A timestamp; without a zone it is UTC.

        Returns:
            A table with a further column `<view>__<feature>` for every feature, of the contract's datatype (float32, int64,
            string or bool). What is missing is the contract's default, or else null.

        Raises:
            FeatureError: There is no such service.
            DataError: A column is missing, has a wrong type, or clashes with a feature's name.
        """
        contract = self.contract(service)
        _check_entity_rows(entity_rows, contract.join_keys, timestamp_column)
        narrow = entity_rows.select(list(contract.join_keys)).append_column(_TIMESTAMP, entity_rows.column(timestamp_column))
        frame = narrow.to_pandas(types_mapper=pd.ArrowDtype)  # shares the memory of the Arrow table
        job = self._store.get_historical_features(frame, self._service(service), full_feature_names=True)
        joined = job.to_arrow()
        result = entity_rows
        for view in contract.views:
            for field in view.features:
                name = f"{view.name}__{field.name}"
                if name in entity_rows.column_names:
                    raise DataError(f"entity rows: column {name!r} has the name of a feature; rename it")
                column = _cast(joined.column(name), name, _ARROW[field.datatype])
                result = result.append_column(name, column if field.default is None else pc.fill_null(column, field.default))
        return result

    def materialize(self, until: datetime, *, live: bool = False) -> MaterializationReport:
        """Bring the online store to the state of event time `until`, from where the last materialization ended.

        Only views with `online=True` are materialized, each row at most once; a killed call is resumed by the next.

        Args:
            until: Event time, with a time zone.
            live: Event time is the wall clock's, so a Redis may forget a row an hour after its TTL. Never so in a replay.

        Raises:
            FeatureError: `until` has no time zone, or the online store cannot be written.
            DataError: A source is missing, lacks a column or has a wrong type.
        """
        if until.tzinfo is None:
            raise FeatureError(f"materialize: {until.isoformat()} has no time zone; event time is UTC")
        return self._open_materializer().materialize(self._served_views(), until, live=live)

    def open_feed(self, stretch: timedelta = timedelta(days=1)) -> ReplayFeed:
        """Open the materialization of a replay, which goes on from where the online store is and reads `stretch` at once.

        Raises:
            FeatureError: A view is not materialized yet.
        """
        return ReplayFeed(self._open_materializer(), self._served_views(), stretch)

    def clear_online_store(self) -> None:
        """Forget everything materialized, so that a replay can begin at an earlier event time without seeing its future."""
        with closing(open_row_writer(self._online_store)) as online:
            for view in self._store.list_feature_views():
                online.delete_view(self._store.project, view.name)

    def _open_materializer(self) -> Materializer:
        if self._materializer is None:
            online = open_row_writer(self._online_store)
            self._materializer = Materializer(
                open_connection(), online, self._store.project, repository=self._repository, workspace=self._workspace
            )
        return self._materializer

    def _served_views(self) -> list[FeatureView]:
        if self._online_views is None:
            views = [view for view in self._store.list_feature_views() if view.online]
            self._online_views = sorted(views, key=lambda view: view.name)
        return self._online_views

    def _service(self, name: str) -> FeatureService:
        try:
            return self._store.get_feature_service(name)
        except FeastObjectNotFoundException:
            known = ", ".join(sorted(service.name for service in self._store.list_feature_services())) or "none; apply first"
            raise FeatureError(f"feature service {name!r} is not registered; there are: {known}") from None


def _check_online_store(repository: Path, config: RepoConfig) -> None:
    kind = config.online_store.type
    if kind != _PACKED:
        raise FeatureError(f"feature repository {repository}: online_store.type is {kind!r}; use {_PACKED!r}")


def _check_entity_rows(rows: pa.Table, keys: tuple[str, ...], timestamp: str) -> None:
    for name in (*keys, timestamp):
        if name not in rows.column_names:
            raise DataError(f"entity rows: no column {name!r}; there are {', '.join(rows.column_names)}")
    kind = rows.schema.field(timestamp).type
    if not pa.types.is_timestamp(kind):
        raise DataError(f"entity rows: column {timestamp!r} is {kind}, not a timestamp")


def _cast(column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise DataError(f"feature {name}: not {kind}: {error}") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
