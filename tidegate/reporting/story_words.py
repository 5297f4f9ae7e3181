"""What a story's facts say in words: the same for the page and for the terminal, and no more than the facts hold."""

from datetime import datetime
from typing import Literal

from tidegate.reporting.formats import count, fixed, plural
from tidegate.reporting.page import Status
from tidegate.reporting.story import DriftCheckFacts, LaterComparison, Release, Rollout, Story

RELEASE_STATUS: dict[str, Status] = {"promoted": "pass", "rolled_back": "warn", "stopped": "warn"}
LOOK_STATUS: dict[str, Status] = {"continue": "none", "advance": "pass", "rollback": "fail"}


def headline(story: Story) -> str:
    """Return the story in one line: how many versions were promoted, what was turned away, what users saw."""
    if not story.releases:
        return "No release was made"
    promoted = sum(release.outcome == "promoted" for release in story.releases)
    parts = [f"{plural(promoted, 'version')} promoted"]
    if back := sum(release.outcome == "rolled_back" for release in story.releases):
        parts.append(f"{back} rolled back")
    if stopped := sum(release.outcome == "stopped" for release in story.releases):
        parts.append(f"{stopped} stopped by a gate")
    if story.replay is not None:
        failures = story.replay.user_failures
        failed = plural(failures, "failed request") if failures else "no failed request"
        parts.append(f"{failed} in {count(story.replay.requests)}")
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def renewal(story: Story) -> tuple[Status, str]:
    """Return whether the loop closed: drift called for a retraining, and what became of it."""
    renewed = [release for release in story.releases if release.trigger == "drift"]
    if any(release.outcome == "promoted" for release in renewed):
        numbers = ", ".join(f"v{release.version}" for release in renewed if release.outcome == "promoted")
        return "pass", f"The loop closed: drift led to {numbers}"
    if renewed:
        return "warn", "Drift led to a retraining, but no new version was promoted"
    if not story.drift_checks:
        return "none", "No drift check was made"
    if any(drifted(check) for check in story.drift_checks):
        return "info", "Drift was found, but the policy called for no retraining"
    return "info", "No drift was found, so nothing was retrained"


def drifted(check: DriftCheckFacts) -> bool:
    """Say whether any of the three kinds of drift was found."""
    return any((check.data_drift, check.prediction_drift, check.concept_drift))


def kinds(check: DriftCheckFacts) -> str:
    """Name the kinds of drift that a check found."""
    found = {"data": check.data_drift, "prediction": check.prediction_drift, "concept": check.concept_drift}
    if all(value is None for value in found.values()):
        return "not judged"
    return ", ".join(name for name, value in found.items() if value) or "no drift"


def compared(comparison: LaterComparison) -> tuple[Literal["better", "worse", "no difference shown", "not judged"], Status]:
    """Say whether the newer version is shown to be better or worse on the same later rows."""
    low, high = comparison.difference_low, comparison.difference_high
    if low is None or high is None:
        return "not judged", "none"
    if low > 0:
        return "better", "pass"
    return ("worse", "fail") if high < 0 else ("no difference shown", "info")


def difference(comparison: LaterComparison) -> str:
    """Write the difference of two AUCs with its confidence interval."""
    value = f"{comparison.new_auc - comparison.old_auc:+.4f}"
    if comparison.difference_low is None or comparison.difference_high is None:
        return value
    return f"{value} [{comparison.difference_low:+.4f}, {comparison.difference_high:+.4f}]"


def sentence(text: str) -> str:
    """Write recorded words as a sentence, with a capital and a full stop."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    capital = text[:1].upper() + text[1:] if first.rstrip(":;,").isalpha() else text
    return capital if capital.endswith((".", "!", "?")) else f"{capital}."


def outcome_words(release: Release) -> str:
    """Name a release's outcome in a word or two."""
    return "stopped by a gate" if release.outcome == "stopped" else release.outcome.replace("_", " ")


def release_name(release: Release) -> str:
    """Name a release by its version, or say that it has none."""
    return f"v{release.version}" if release.version is not None else "No version"


def seen_by_users(rollout: Rollout) -> str:
    """Say what users saw during a rollout."""
    if rollout.user_failures is None or rollout.user_requests is None:
        return "What users saw during it was not counted."
    if rollout.user_requests == 0:
        return "No user request was made during it."
    failures = "none of them failed" if not rollout.user_failures else f"{count(rollout.user_failures)} of them failed"
    return f"Users made {plural(rollout.user_requests, 'request')} during it; {failures}."


def served(story: Story, moment: datetime) -> int | None:
    """Return the version that held the traffic at a moment of event time, if the releases say so."""
    holder = None
    for release in story.releases:
        if release.outcome == "promoted" and (release.decided_at or release.started_at) <= moment:
            holder = release.version
    return holder


def auc_words(release: Release) -> str:
    """Write a release's ROC AUC on its holdout, if it was measured."""
    return fixed(release.metrics.get("roc_auc"), 4)
