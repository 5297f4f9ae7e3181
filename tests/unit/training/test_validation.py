from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.packaging.format.manifest import Verdict
from tidegate.project import Project
from tidegate.training.training_set import build_training_set
from tidegate.training.validation import validate_training_set

UNTIL = datetime(2013, 4, 1, tzinfo=UTC)
MakeProject = Callable[..., Project]


@pytest.fixture
def training_set(make_project: MakeProject, repository: Any) -> pa.Table:
    return build_training_set(make_project(), repository, UNTIL)


def failed(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(verdict.subject, verdict.measure.split(",")[0]) for verdict in verdicts if not verdict.passed]


def replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    position = table.schema.get_field_index(name)
    return table.set_column(position, name, pa.array(values, table.schema.field(name).type))


def test_a_sound_training_set_passes_everything(make_project: MakeProject, training_set: pa.Table) -> None:
    verdicts = validate_training_set(make_project(), training_set)

    assert failed(verdicts) == []
    assert {verdict.gate for verdict in verdicts} == {"data"}
    by_subject = {(verdict.subject, verdict.measure): verdict for verdict in verdicts}
    assert by_subject["weather__temp", "share missing, at most"].value == pytest.approx(0.1, abs=0.01)
    assert by_subject["rows", "rows, at least"].value == training_set.num_rows


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        pytest.param({"min_rows": 100_000}, [("rows", "rows")], id="too few rows"),
        pytest.param({"max_null_share": 0.05}, [("weather__temp", "share missing")], id="too many missing"),
        pytest.param(
            {"max_null_share_of": {"weather__temp": 0.01}}, [("weather__temp", "share missing")], id="a column's own bound"
        ),
        pytest.param({"max_null_share": 0.0, "max_null_share_of": {"weather__temp": 0.2}}, [], id="own bound overrides"),
        pytest.param({"label_rate": [0.5, 0.9]}, [("late", "share of class 1")], id="too few of class 1"),
        pytest.param({"label_rate": [0.0, 0.1]}, [("late", "share of class 1")], id="too many of class 1"),
    ],
)
def test_bounds(
    make_project: MakeProject, training_set: pa.Table, gate: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    project = make_project(gates={"data": {"min_rows": 10, **gate}, "accuracy": {"minimum": 0.5}})

    assert failed(validate_training_set(project, training_set)) == expected


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(
            lambda t: pa.concat_tables([t, t.slice(0, 5)]), [("id", "share of rows whose id occurred before")], id="ids"
        ),
        pytest.param(
            lambda t: replaced(t, "late", [2, *t["late"].to_pylist()[1:]]),
            [("late", "labels other than 0 and 1")],
            id="label 2",
        ),
        pytest.param(
            lambda t: replaced(t, "split", ["train"] * len(t)), [("holdout", "rows of the rarer class")], id="no holdout"
        ),
        pytest.param(
            lambda t: replaced(t, "late", [1] * len(t)),
            [("late", "share of class 1"), ("train", "rows of the rarer class"), ("holdout", "rows of the rarer class")],
            id="one class",
        ),
    ],
)
def test_spoiled_data(
    make_project: MakeProject,
    training_set: pa.Table,
    spoil: Callable[[pa.Table], pa.Table],
    expected: list[tuple[str, str]],
) -> None:
    assert failed(validate_training_set(make_project(), spoil(training_set))) == expected


def test_nan_is_missing(make_project: MakeProject, training_set: pa.Table) -> None:
    table = replaced(training_set, "weather__temp", [float("nan")] * len(training_set))

    assert ("weather__temp", "share missing") in failed(validate_training_set(make_project(), table))


def test_a_constant_column_is_noted(make_project: MakeProject, training_set: pa.Table) -> None:
    table = replaced(training_set, "origin", ["EWR"] * len(training_set))

    noted = [verdict for verdict in validate_training_set(make_project(), table) if verdict.note]

    assert [(verdict.subject, verdict.passed, verdict.note) for verdict in noted] == [
        ("origin", True, "constant: it tells the model nothing")
    ]


def test_a_bound_for_a_column_that_is_not_there_is_refused(make_project: MakeProject, training_set: pa.Table) -> None:
    project = make_project(gates={"data": {"max_null_share_of": {"tmp": 0.1}}, "accuracy": {"minimum": 0.5}})

    with pytest.raises(DataError, match=r"gates\.data\.max_null_share_of: no model input 'tmp'"):
        validate_training_set(project, training_set)
