"""Verdicts of gates as tables, and a release's gates as one strip."""

from collections.abc import Sequence

from tidegate.packaging.manifest import Verdict
from tidegate.reporting.formats import number, plural
from tidegate.reporting.page import Column, Gate, GateStrip, Table, passed_badge

GATES = ("data", "parity", "accuracy", "benchmark", "champion")

_VERDICT_COLUMNS = (
    Column("Subject"),
    Column("Measure"),
    Column("Value", numeric=True),
    Column("Bound", numeric=True),
    Column("Outcome"),
    Column("Note"),
)


def verdict_table(verdicts: Sequence[Verdict], caption: str = "") -> Table:
    """Return every verdict with its number and bound, the failed ones first."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.passed)
    rows = [
        (
            verdict.subject,
            verdict.measure,
            number(verdict.value),
            number(verdict.bound),
            passed_badge(verdict.passed),
            verdict.note,
        )
        for verdict in ordered
    ]
    return Table(_VERDICT_COLUMNS, rows, caption)


def gate_strip(verdicts: Sequence[Verdict], *, selected: str | None = None) -> GateStrip:
    """Return the five gates in order, each with its outcome.

    Variants that missed a gate do not fail a release whose `selected` variant passed, so only the selected variant's verdicts
    decide the colour of parity, accuracy and benchmark; the others are counted in words.
    """
    return GateStrip(tuple(_gate(name, [verdict for verdict in verdicts if verdict.gate == name], selected) for name in GATES))


def _gate(name: str, verdicts: Sequence[Verdict], selected: str | None) -> Gate:
    if not verdicts:
        return Gate(name, "none", "not reached")
    deciding = verdicts
    if selected is not None and name in ("parity", "accuracy", "benchmark"):
        deciding = [verdict for verdict in verdicts if verdict.subject == selected] or verdicts
    failed = [verdict for verdict in deciding if not verdict.passed]
    if failed:
        return Gate(name, "fail", f"{failed[0].subject}: {_held(failed[0])}")
    missed_elsewhere = {verdict.subject for verdict in verdicts if not verdict.passed}
    if missed_elsewhere:
        return Gate(name, "pass", f"{selected or 'winner'} passed; {plural(len(missed_elsewhere), 'other')} did not")
    if len(deciding) == 1:
        return Gate(name, "pass", _held(deciding[0]))
    return Gate(name, "pass", f"all {plural(len(deciding), 'check')} passed")


def _held(verdict: Verdict) -> str:
    if verdict.value is None:
        return verdict.note or verdict.measure
    bound = "" if verdict.bound is None else f", bound {number(verdict.bound, 3)}"
    return f"{verdict.measure} {number(verdict.value, 3)}{bound}"
