from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tidegate.errors import ProjectError
from tidegate.project import AccuracyGate, GatesSection, OutputTolerances, ParityGate, Tolerance, load_gates, load_project

LOOSE = Tolerance(max_absolute=2, max_relative=0, max_flip_rate=0.3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gates.yaml"


def test_the_gates_of_a_project_file(file: Path, project_text: str) -> None:
    file.write_text(project_text)

    assert load_gates(file) == load_project(file).gates


@pytest.mark.parametrize(
    ("fields", "metric", "rounds"),
    [
        pytest.param({"benchmark": {"rounds": 4}}, None, 4, id="only how to measure"),
        pytest.param({"accuracy": {"metric": "rmse"}}, "rmse", 15, id="a metric without a bound"),
        pytest.param({"accuracy": {"metric": "mae", "maximum": 3.5}}, "mae", 15, id="a metric and its bound"),
        pytest.param({"parity": {"outputs": {"logits": {"int8": LOOSE.model_dump()}}}}, None, 15, id="any model's outputs"),
    ],
)
def test_a_file_of_gates_alone(file: Path, fields: dict[str, Any], metric: str | None, rounds: int) -> None:
    file.write_text(yaml.safe_dump(fields))

    gates = load_gates(file)

    assert (gates.accuracy.metric if gates.accuracy else None) == metric
    assert gates.benchmark.rounds == rounds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "rounds: 3", "gates file {file}: rounds: no such field (allowed: data, parity, accuracy, ", id="a stray field"
        ),
        pytest.param("accuracy: {metric: f1}", "gates file {file}: accuracy.metric: 'f1': input should be", id="a metric"),
        pytest.param(
            "accuracy: {metric: rmse, minimum: 1}",
            "gates file {file}: accuracy.minimum: 1.0: rmse has none; give maximum",
            id="the wrong bound",
        ),
        pytest.param("- 1", "gates file {file}: expected fields at the top, found list", id="a list"),
        pytest.param("gates: {}", "project file {file}: schema_version: required", id="half a project"),
        pytest.param("a: [", "gates file {file}: not YAML: ", id="not YAML"),
    ],
)
def test_a_mistake_is_one_line(file: Path, text: str, says: str) -> None:
    file.write_text(text)

    with pytest.raises(ProjectError) as caught:
        load_gates(file)

    assert str(caught.value).startswith(says.format(file=file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_of_gates_is_named(file: Path) -> None:
    with pytest.raises(ProjectError, match=f"gates file {file}: No such file or directory"):
        load_gates(file)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(
        st.sampled_from(sorted(GatesSection.model_fields)),
        st.none() | st.floats() | st.text(max_size=5) | st.dictionaries(st.text(max_size=5), st.floats(), max_size=2),
        max_size=3,
    )
)
def test_whatever_a_file_holds_the_outcome_is_gates_or_a_project_error(file: Path, fields: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(fields))

    try:
        outcome: GatesSection | str = load_gates(file)
    except ProjectError as error:
        outcome = str(error)
    assert isinstance(outcome, GatesSection) or outcome.isprintable()


@pytest.mark.parametrize(
    ("output", "precision", "expected"),
    [
        pytest.param("logits", "int8", 2, id="its own"),
        pytest.param("logits", "half", 0.01, id="its own, but for another precision"),
        pytest.param("other", "int8", 0.05, id="another output's"),
        pytest.param("logits", "pruned", 1, id="that of pruned weights"),
    ],
)
def test_an_output_may_have_a_tolerance_of_its_own(output: str, precision: Any, expected: float) -> None:
    gate = ParityGate(outputs={"logits": OutputTolerances(int8=LOOSE)})

    assert gate.tolerance(output, precision).max_absolute == expected


@pytest.mark.parametrize(
    ("output", "precision", "share"),
    [("label", "int8", 0.3), ("label", "full", 0.0), ("other", "int8", 0.0)],
)
def test_outputs_without_numbers_differ_nowhere_unless_it_is_said(output: str, precision: Any, share: float) -> None:
    gate = ParityGate(outputs={"label": OutputTolerances(int8=LOOSE)})

    assert gate.differing(output, precision) == share


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"metric": "roc_auc", "maximum": 1}, id="a maximum of what should be large"),
        pytest.param({"metric": "log_loss", "minimum": 0}, id="a minimum of what should be small"),
        pytest.param({"metric": "accuracy", "minimum": 1.01}, id="more than all"),
        pytest.param({"metric": "rmse", "maximum": -1}, id="less than none"),
    ],
)
def test_a_bound_that_no_metric_can_have_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AccuracyGate(**fields)


@pytest.mark.parametrize(
    ("gate", "name", "bound"),
    [
        pytest.param(AccuracyGate(minimum=0.7), "minimum", 0.7, id="roc_auc"),
        pytest.param(AccuracyGate(metric="log_loss", maximum=0.4), "maximum", 0.4, id="log_loss"),
        pytest.param(AccuracyGate(metric="mae"), "maximum", None, id="no bound"),
    ],
)
def test_the_bound_of_a_metric(gate: AccuracyGate, name: str, bound: float | None) -> None:
    assert (gate.bound_name, gate.bound) == (name, bound)
