from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.project import Project
from tidegate.training.training_set import build_training_set

UNTIL = datetime(2013, 4, 1, tzinfo=UTC)
MakeProject = Callable[..., Project]


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def test_examples_lie_in_the_window_and_are_labelled_by_then(make_project: MakeProject, repository: Any) -> None:
    table = build_training_set(make_project(), repository, UNTIL)

    moments = table["asked_at"].to_pylist()
    assert min(moments) >= UNTIL - timedelta(days=60)
    assert max(table["landed_at"].to_pylist()) <= UNTIL
    assert max(moments) == UNTIL - timedelta(hours=24) - timedelta(hours=6) * (max(moments) != UNTIL - timedelta(hours=24))
    assert table["late"].null_count == 0


def test_labels_known_later_are_not_there_yet(make_project: MakeProject, repository: Any) -> None:
    until = UNTIL - timedelta(days=20)

    table = build_training_set(make_project(), repository, until)

    assert max(table["landed_at"].to_pylist()) <= until
    assert max(table["asked_at"].to_pylist()) <= until - timedelta(days=1)


def test_the_last_days_are_the_holdout(make_project: MakeProject, repository: Any) -> None:
    table = build_training_set(make_project(), repository, UNTIL)

    for moment, split in zip(table["asked_at"].to_pylist(), table["split"].to_pylist(), strict=True):
        assert split == ("holdout" if moment >= UNTIL - timedelta(days=10) else "train")


def test_columns_are_exactly_what_is_needed_with_the_models_types(make_project: MakeProject, repository: Any) -> None:
    table = build_training_set(make_project(), repository, UNTIL)

    assert table.column_names == ["id", "asked_at", "origin", "distance", "late", "landed_at", "weather__temp", "split"]
    assert table.schema.field("origin").type == pa.string()
    assert table.schema.field("distance").type == pa.int64()
    assert table.schema.field("weather__temp").type == pa.float32()
    assert repository.asked.column_names == table.column_names[:6]


def test_an_integer_with_missing_values_becomes_a_float(
    make_project: MakeProject, repository: Any, entity_rows: pa.Table
) -> None:
    distance = [None if row % 3 == 0 else row for row in range(entity_rows.num_rows)]

    table = build_training_set(make_project(with_column(entity_rows, "distance", distance)), repository, UNTIL)

    assert table.schema.field("distance").type == pa.float32()


@pytest.mark.parametrize(
    ("unit", "zone"),
    [
        pytest.param("ns", "UTC", id="nanoseconds"),
        pytest.param("ms", "UTC", id="milliseconds"),
        pytest.param("us", None, id="naive"),
    ],
)
def test_other_timestamps_are_read_as_utc(
    make_project: MakeProject, repository: Any, entity_rows: pa.Table, unit: str, zone: str | None
) -> None:
    rows = entity_rows
    for name in ("asked_at", "landed_at"):
        column = rows[name].cast(pa.timestamp(unit, tz="UTC"))
        column = column if zone else column.cast(pa.int64()).cast(pa.timestamp(unit))
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)

    expected = build_training_set(make_project(), repository, UNTIL)

    assert build_training_set(make_project(rows), repository, UNTIL).equals(expected)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param(lambda t: t.drop(["distance"]), "no column 'distance'; it has id, asked_at", id="missing input"),
        pytest.param(lambda t: t.drop(["landed_at"]), "no column 'landed_at'", id="missing label time"),
        pytest.param(lambda t: t.drop(["late"]), "no column 'late'", id="missing label"),
        pytest.param(lambda t: with_column(t, "asked_at", ["x"] * len(t)), "'asked_at' is string; a timestamp", id="text time"),
        pytest.param(lambda t: with_column(t, "late", ["x"] * len(t)), "'late' is string; an integer", id="text label"),
        pytest.param(
            lambda t: with_column(t, "distance", [{"km": 1}] * len(t)),
            "'distance' is struct<km: int64>; a model input",
            id="struct",
        ),
        pytest.param(lambda t: t.slice(0, 0), "holds no rows", id="no rows"),
    ],
)
def test_malformed_entity_rows_are_refused(
    make_project: MakeProject, repository: Any, entity_rows: pa.Table, change: Callable[[pa.Table], pa.Table], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        build_training_set(make_project(change(entity_rows)), repository, UNTIL)


def test_an_empty_window_names_itself_and_what_there_is(make_project: MakeProject, repository: Any) -> None:
    with pytest.raises(DataError) as error:
        build_training_set(make_project(), repository, UNTIL + timedelta(days=365))

    assert "2014-01-31T00:00:00+00:00 to 2014-04-01T00:00:00+00:00" in str(error.value)
    assert "holds rows from 2012-12-22T00:00:00+00:00 to 2013-03-31T18:00:00+00:00" in str(error.value)


def test_a_missing_or_broken_file_is_refused(make_project: MakeProject, repository: Any) -> None:
    project = make_project()
    project.paths.entity_rows.write_text("no parquet")
    with pytest.raises(DataError, match="not readable Parquet"):
        build_training_set(project, repository, UNTIL)

    project.paths.entity_rows.unlink()
    with pytest.raises(DataError, match=r"features\.entity_rows: .* does not exist"):
        build_training_set(project, repository, UNTIL)


def test_a_time_without_zone_is_refused(make_project: MakeProject, repository: Any) -> None:
    with pytest.raises(DataError, match="has no time zone"):
        build_training_set(make_project(), repository, datetime(2013, 4, 1))  # noqa: DTZ001


def test_the_feature_of_each_row_is_its_own(make_project: MakeProject, repository: Any) -> None:
    table = build_training_set(make_project(), repository, UNTIL)

    joined = table["weather__temp"].to_pylist()
    assert [value for value in joined if value is not None] == [row for row in np.arange(len(joined)) if row % 10]
