"""A release's gates as one strip."""

import pytest

from tidegate.packaging.format.manifest import Verdict
from tidegate.reporting.gates import gate_strip, verdict_table


def verdict(gate, subject, *, passed, value=0.5, note=""):
    return Verdict(gate=gate, subject=subject, measure="measure", value=value, bound=1.0, passed=passed, note=note)


def strip(verdicts, selected=None):
    return {gate.name: (gate.status, gate.note) for gate in gate_strip(verdicts, selected=selected).gates}


def test_gates_come_in_order_and_unreached_ones_are_said():
    assert [gate.name for gate in gate_strip([]).gates] == ["data", "parity", "accuracy", "benchmark", "champion"]
    assert set(strip([]).values()) == {("none", "not reached")}


@pytest.mark.parametrize(
    ("selected", "outcomes", "status", "note"),
    [
        pytest.param("a", {"a": True, "b": False}, "pass", "1 of 2 variants passed", id="another variant missed"),
        pytest.param("a", {"a": False, "b": True}, "fail", "a: measure: 0.5 (bound 1)", id="the selected one missed"),
        pytest.param(None, {"a": True, "b": False}, "pass", "1 of 2 variants passed", id="none selected, one passed"),
        pytest.param(None, {"a": False, "b": False}, "fail", "a: measure: 0.5 (bound 1)", id="all missed"),
        pytest.param("a", {"a": True, "b": True}, "pass", "measure: 0.5 (bound 1)", id="all passed, one selected"),
        pytest.param(None, {"a": True, "b": True}, "pass", "2 variants passed", id="all passed"),
        pytest.param("c", {"a": True}, "pass", "1 variant passed", id="selected one has no verdict"),
    ],
)
def test_variants_decide_by_the_selected_one(selected, outcomes, status, note):
    verdicts = [verdict("parity", name, passed=passed) for name, passed in outcomes.items()]

    assert strip(verdicts, selected)["parity"] == (status, note)


def test_one_missed_data_check_fails_the_gate():
    verdicts = [verdict("data", "rows", passed=True), verdict("data", "temp", passed=False)]

    assert strip(verdicts, "temp")["data"] == ("fail", "temp: measure: 0.5 (bound 1)")
    assert strip(verdicts[:1] * 2)["data"] == ("pass", "2 checks passed")


def test_verdict_without_a_value_shows_its_note():
    assert strip([verdict("champion", "a", passed=True, value=None, note="no champion")])["champion"] == ("pass", "no champion")


def test_table_puts_failures_first():
    table = verdict_table([verdict("data", "good", passed=True), verdict("data", "bad", passed=False)])

    assert [row[0] for row in table.rows] == ["bad", "good"]
