"""The Markdown summary of a release for the Kubeflow UI: what was trained, every gate's numbers, and the rollout's outcome."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidegate.packaging.format.manifest import Manifest, Verdict
from tidegate.reporting.formats import number, plural, size
from tidegate.reporting.gates import GATES

_LONGEST_TABLE = 12


def render_release_summary(
    manifest: Manifest, *, version: int | None = None, rollout: Mapping[str, Any] | None = None, stopped_by: str = ""
) -> str:
    """Return the summary.

    Args:
        manifest: The released package's manifest.
        version: Its number in the model registry; None if it was not registered.
        rollout: The rollout record's JSON; None if no rollout was started.
        stopped_by: What stopped the release, with its number, if a gate did.
    """
    parts = [f"# {_plain(manifest.name)}: {_headline(version, rollout, stopped_by)}", _facts(manifest, version), "## Gates"]
    parts += [render_gate(name, [verdict for verdict in manifest.verdicts if verdict.gate == name]) for name in GATES]
    parts += ["## Rollout", _rollout(rollout)]
    return "\n\n".join(parts) + "\n"


def render_gate(name: str, verdicts: Sequence[Verdict]) -> str:
    """Return what a gate found: the failed checks first, each with its number, its bound and its outcome."""
    if not verdicts:
        return f"**{name}**: no verdict was recorded."
    failed = [verdict for verdict in verdicts if not verdict.passed]
    outcome = (
        f"✕ {len(failed)} of {plural(len(verdicts), 'check')} failed"
        if failed
        else f"✓ all {plural(len(verdicts), 'check')} passed"
    )
    shown = [*failed, *(verdict for verdict in verdicts if verdict.passed)][:_LONGEST_TABLE]
    rows = [
        (
            verdict.subject,
            verdict.measure,
            number(verdict.value),
            number(verdict.bound),
            "✓ passed" if verdict.passed else "✕ failed",
            verdict.note,
        )
        for verdict in shown
    ]
    table = _table(("Subject", "Measure", "Value", "Bound", "Outcome", "Note"), rows)
    rest = len(verdicts) - len(shown)
    return f"**{name}**: {outcome}\n\n{table}" + (f"\n\n{plural(rest, 'further check')} passed." if rest else "")


def _headline(version: int | None, rollout: Mapping[str, Any] | None, stopped_by: str) -> str:
    if stopped_by:
        return f"release stopped by {_plain(stopped_by)}"
    if version is None:
        return "not registered"
    state = str(rollout.get("state", "unknown")) if rollout else ""
    return f"version {version} {_plain(state.replace('_', ' '))}" if state else f"version {version} registered"


def _facts(manifest: Manifest, version: int | None) -> str:
    lineage, metrics = manifest.lineage, manifest.metrics
    facts = [
        ("Version", str(version) if version is not None else "none"),
        ("Selected variant", f"{manifest.variant.candidate}/{manifest.variant.name}"),
        ("Model size", size(manifest.files["model.onnx"].size) if "model.onnx" in manifest.files else "n/a"),
        *((name, number(value)) for name, value in sorted(metrics.items())),
    ]
    if lineage is not None:
        facts += [
            ("Reason", lineage.reason or "none given"),
            ("Training window", f"{lineage.window_start} to {lineage.window_end}, holdout from {lineage.holdout_start}"),
            ("Run", lineage.run_id),
            ("Data", lineage.data_digest),
            ("Code", lineage.code_digest),
            ("Project file", lineage.project_digest),
        ]
    return _table(("", ""), facts)


def _rollout(rollout: Mapping[str, Any] | None) -> str:
    if rollout is None:
        return "No rollout was started."
    state = str(rollout.get("state", "unknown")).replace("_", " ")
    mark = {"promoted": "✓ ", "rolled back": "✕ "}.get(state, "")
    outcome = f"{mark}**{_plain(state)}**: {_plain(str(rollout.get('outcome') or 'no reason was recorded'))}"
    looks: Sequence[Mapping[str, Any]] = rollout.get("looks") or ()
    if not looks:
        return f"{outcome}\n\nThe judge did not look."
    decisive = [look for look in looks if look["verdict"] != "continue"] or [looks[-1]]
    rows = [(f"{look['percent']} %", str(look["verdict"]), str(look["reason"])) for look in decisive[-_LONGEST_TABLE:]]
    return f"{outcome}\n\n{_table(('Canary gets', 'Verdict', 'Why'), rows)}\n\n{plural(len(looks), 'look')} in all."


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Take every meaning in Markdown or HTML from a text, and keep it on one line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#!~" else letter for letter in text)
