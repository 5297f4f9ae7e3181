"""Verdicts of gates as tables, and a release's gates as one strip."""

from collections.abc import Sequence

from tidegate.packaging.format.manifest import Verdict
from tidegate.reporting.formats import number, plural
from tidegate.reporting.page import Column, Gate, GateStrip, Table, passed_badge

GATES = ("data", "parity", "accuracy", "benchmark", "champion")
_VARIANT_GATES = frozenset({"parity", "accuracy", "benchmark"})

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

    A variant that misses parity, accuracy or benchmark does not stop a release while another passes, so these gates are decided
    by the `selected` variant or, if none is named, by the best one; the others are counted in words.
    """
    return GateStrip(tuple(_gate(name, [verdict for verdict in verdicts if verdict.gate == name], selected) for name in GATES))


def _gate(name: str, verdicts: Sequence[Verdict], selected: str | None) -> Gate:
    if not verdicts:
        return Gate(name, "none", "not reached")
    missed = {verdict.subject for verdict in verdicts if not verdict.passed}
    passed = {verdict.subject for verdict in verdicts} - missed
    if name not in _VARIANT_GATES or not passed:
        return _all_must_pass(name, verdicts)
    if selected in missed:
        return _all_must_pass(name, [verdict for verdict in verdicts if verdict.subject == selected])
    if missed:
        return Gate(name, "pass", f"{len(passed)} of {plural(len(passed) + len(missed), 'variant')} passed")
    own = [verdict for verdict in verdicts if verdict.subject == selected]
    return Gate(name, "pass", _held(own[0]) if len(own) == 1 else f"{plural(len(passed), 'variant')} passed")


def _all_must_pass(name: str, verdicts: Sequence[Verdict]) -> Gate:
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        return Gate(name, "fail", f"{failed[0].subject}: {_held(failed[0])}")
    return Gate(name, "pass", _held(verdicts[0]) if len(verdicts) == 1 else f"{plural(len(verdicts), 'check')} passed")


def _held(verdict: Verdict) -> str:
    if verdict.value is None:
        return verdict.note or verdict.measure
    bound = "" if verdict.bound is None else f" (bound {number(verdict.bound, 3)})"
    return f"{verdict.measure}: {number(verdict.value, 3)}{bound}"
