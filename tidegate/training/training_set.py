"""Builds a point-in-time training set: the examples of the training window, their features, and the holdout split.

    table = build_training_set(project, repository, until=datetime(2013, 4, 1, tzinfo=UTC))

The table holds the id, the timestamp, the entity keys, every model input, the label, when it became known, and `split`:
`train`, or `holdout` for the last days of the window, which training never sees.
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import FeatureContract
from tidegate.project import Project

if TYPE_CHECKING:
    from tidegate.features.repository import FeatureRepository

SPLIT_COLUMN = "split"
_TIMESTAMP = pa.timestamp("us", tz="UTC")


def build_training_set(project: Project, repository: "FeatureRepository", until: datetime) -> pa.Table:
    """Return the examples in [until - window_days, until) whose label was known by `until`, with their features.

    Args:
        project: The project file.
        repository: The Feast repository that the project names, applied.
        until: Event time of the training, with a time zone. Nothing that became knowable later is in the table.

    Raises:
        DataError: The entity rows miss a column, one has a type that no model input can have, or no example lies in the window.
        FeatureError: The features could not be joined.
    """
    until = _in_utc("until", until)
    start = until - timedelta(days=project.training.window_days)
    typed = _join(project, repository, start, until, known_by=until)
    holdout_start = pa.scalar(until - timedelta(days=project.training.holdout_days), type=_TIMESTAMP)
    held_out = pc.greater_equal(typed[project.features.timestamp_column], holdout_start)
    return typed.append_column(SPLIT_COLUMN, pc.if_else(held_out, "holdout", "train"))


def join_window(project: Project, repository: "FeatureRepository", start: datetime, end: datetime) -> pa.Table:
    """Return every example in [start, end), labelled or not, with its features as they were known at its timestamp.

    Raises:
        DataError: As `build_training_set`.
        FeatureError: The features could not be joined.
    """
    return _join(project, repository, _in_utc("start", start), _in_utc("end", end), known_by=None)


def model_input_columns(project: Project, table: pa.Table) -> list[str]:
    """Return the model's inputs among a training set's columns: request inputs, then looked-up features, each once."""
    features = [name for name in table.column_names if "__" in name]
    return list(dict.fromkeys([*project.features.request_inputs, *features]))


def read_training_set(project: Project, path: str) -> pa.Table:
    """Read a training set from Parquet; raises DataError if it cannot be read or misses a column."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"training set {path}: not a readable Parquet file: {error}") from error
    wanted = [*project.features.request_inputs, project.label.column, SPLIT_COLUMN]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(f"training set {path}: no column {missing[0]!r}; it has {', '.join(table.column_names)}")
    return table


def _in_utc(name: str, moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise DataError(f"{name} {moment.isoformat()} has no time zone; event time is UTC")
    return moment.astimezone(UTC)


def _join(
    project: Project, repository: "FeatureRepository", start: datetime, end: datetime, *, known_by: datetime | None
) -> pa.Table:
    contract = repository.contract(project.features.service)
    examples = _examples(project, contract, start, end, known_by)
    joined = repository.training_set(examples, project.features.service, project.features.timestamp_column)
    return _with_model_types(project, joined)


def _examples(
    project: Project, contract: FeatureContract, start: datetime, end: datetime, known_by: datetime | None
) -> pa.Table:
    path = project.paths.entity_rows
    if not path.exists():
        raise DataError(f"features.entity_rows: {path} does not exist; write the examples there as Parquet")
    try:
        rows = ds.dataset(path, format="parquet")
        _check_schema(project, contract, rows.schema)
        moment = pc.field(project.features.timestamp_column).cast(_TIMESTAMP, safe=False)
        wanted = (moment >= _scalar(start)) & (moment < _scalar(end))
        if known_by is not None:
            known_at = pc.field(project.label.known_at_column).cast(_TIMESTAMP, safe=False)
            wanted &= known_at.is_valid() & (known_at <= _scalar(known_by)) & pc.field(project.label.column).is_valid()
        examples = rows.to_table(columns=_columns(project, contract), filter=wanted)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"features.entity_rows: {path} is not readable Parquet: {' '.join(str(error).split())}") from error
    if examples.num_rows == 0:
        raise DataError(
            f"no {'' if known_by is None else 'labelled '}example in the window {start.isoformat()} to {end.isoformat()}; "
            f"{path.name} {_range(project, rows)}"
        )
    return _with_timestamps(project, examples)


def _columns(project: Project, contract: FeatureContract) -> list[str]:
    features, label = project.features, project.label
    return list(
        dict.fromkeys(
            [
                features.id_column,
                features.timestamp_column,
                *contract.join_keys,
                *features.request_inputs,
                label.column,
                label.known_at_column,
            ]
        )
    )


def _check_schema(project: Project, contract: FeatureContract, schema: pa.Schema) -> None:
    path = project.paths.entity_rows
    for name in _columns(project, contract):
        if name not in schema.names:
            raise DataError(f"{path}: no column {name!r}; it has {', '.join(schema.names)}")
    for name in (project.features.timestamp_column, project.label.known_at_column):
        if not pa.types.is_timestamp(schema.field(name).type):
            raise DataError(f"{path}: column {name!r} is {schema.field(name).type}; a timestamp (UTC) is needed")
    label = schema.field(project.label.column).type
    if not (pa.types.is_integer(label) or pa.types.is_boolean(label)):
        raise DataError(f"{path}: label column {project.label.column!r} is {label}; an integer, 0 or 1, is needed")
    for name in project.features.request_inputs:
        _model_type(name, schema.field(name).type)


def _range(project: Project, rows: ds.Dataset) -> str:
    moments = rows.to_table(columns=[project.features.timestamp_column])[project.features.timestamp_column]
    limits = pc.min_max(moments.cast(_TIMESTAMP, safe=False)).as_py()
    if limits["min"] is None:
        return "holds no rows"
    return f"holds rows from {limits['min'].isoformat()} to {limits['max'].isoformat()}"


def _scalar(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, type=_TIMESTAMP)


def _with_timestamps(project: Project, examples: pa.Table) -> pa.Table:
    for name in (project.features.timestamp_column, project.label.known_at_column):
        position = examples.schema.get_field_index(name)
        examples = examples.set_column(position, name, examples[name].cast(_TIMESTAMP, safe=False))
    position = examples.schema.get_field_index(project.label.column)
    return examples.set_column(position, project.label.column, examples[project.label.column].cast(pa.int8()))


def _with_model_types(project: Project, table: pa.Table) -> pa.Table:
    for name in model_input_columns(project, table):
        column = table[name]
        wanted = _model_type(name, column.type)
        if wanted == pa.int64() and column.null_count:
            wanted = pa.float32()
        table = table.set_column(table.schema.get_field_index(name), name, column.cast(wanted, safe=False))
    return table


def _model_type(name: str, found: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_integer(found) or pa.types.is_boolean(found):
        return pa.int64()
    if pa.types.is_floating(found):
        return pa.float32()
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return pa.string()
    raise DataError(f"column {name!r} is {found}; a model input is a string, an integer or a float")
