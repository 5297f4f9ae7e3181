"""The demo page's view of the replayed period: what happened when, how good each version was, and which drift was found."""

from datetime import datetime
from textwrap import shorten

from markupsafe import Markup

from tidegate.reporting.formats import day, fixed, percent, plural, span
from tidegate.reporting.page import Badge, Block, Cell, Column, Details, Event, Figure, Notice, Section, Status, Table, Timeline
from tidegate.reporting.story import DriftCheckFacts, Release, Story
from tidegate.reporting.story_words import (
    RELEASE_STATUS,
    compared,
    difference,
    drifted,
    kinds,
    outcome_words,
    release_name,
    sentence,
    served,
)
from tidegate.reporting.timelines import Mark, Series, Value, drift_heatmap, lived_through

_HEATMAP_ROWS = 14
_REASON_LENGTH = 105
_STYLES = ("s1", "s2", "s3", "s4", "s5")


def period_section(story: Story) -> Section:
    """Return the wide picture of the whole period and the list of its events."""
    title = "The period, week by week"
    moments = _moments(story)
    if not moments:
        return Section(title, (Notice("Nothing that happened at a time was recorded.", "warn"),))
    positive = story.classes[1].replace("_", " ")
    drawing = lived_through(
        min(moments),
        max(moments),
        _quality_lines(story),
        [Value(label.start, label.end, label.share) for label in story.labels],
        f"share {positive}",
        "ROC AUC",
        [Mark(_moment(release), _mark(release), RELEASE_STATUS[release.outcome]) for release in story.releases],
        [
            Mark(check.window_end, f"{day(check.window_end)}: {kinds(check)}", _check_status(check))
            for check in story.drift_checks
        ],
    )
    caption = (
        "From top to bottom: releases; the ROC AUC of every version on the same labelled rows, each only in weeks after "
        f"its own training and drawn solid while it held the traffic; the share of rows that were {positive}; and the drift "
        "checks (✓ no drift, ! drift, \u2013 not judged). Rest the pointer on a mark for its numbers."
    )
    events = Timeline(tuple(_event(release) for release in story.releases))
    return Section(title, (Figure(drawing, caption=caption), events) if story.releases else (Figure(drawing, caption=caption),))


def comparison_section(story: Story) -> Section:
    """Return whether each newer version was better than the one before, on rows later than both versions' training."""
    title = "Did the new versions help?"
    if not story.comparisons:
        return Section(title, (Notice("No two versions could be compared on the same later, labelled rows.", "info"),))
    columns = (
        Column("Versions"), Column("Rows of"), Column("Labelled rows", numeric=True), Column("Old AUC", numeric=True),
        Column("New AUC", numeric=True), Column("Difference", numeric=True), Column("The newer is"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for comparison in story.comparisons:
        words, status = compared(comparison)
        rows.append(
            (
                f"v{comparison.old_version} → v{comparison.new_version}",
                span(comparison.start, comparison.end),
                comparison.rows,
                fixed(comparison.old_auc, 4),
                fixed(comparison.new_auc, 4),
                difference(comparison),
                Badge(status, words),
            )
        )
    confidences = sorted({comparison.confidence for comparison in story.comparisons if comparison.confidence is not None})
    intervals = (
        f" In brackets: {' and '.join(percent(each, 0) for each in confidences)} confidence intervals." if confidences else ""
    )
    lead = "Both versions score the very same rows, all of them later than what either was trained on." + intervals
    return Section(title, (Table(columns, rows),), lead)


def drift_section(story: Story) -> Section:
    """Return the heatmap of drift by column and window, and every check with its decision."""
    checks = story.drift_checks
    if not checks:
        return Section("Drift", (Notice("No drift check was made.", "warn"),))
    blocks: list[Block] = []
    names = _columns_by_drift(checks)
    if names:
        caption = (
            "Every window is compared with the reference of the version that answered it, so a promotion changes the reference."
        )
        blocks.append(Figure(_heatmap(checks, names[:_HEATMAP_ROWS]), "Population stability index of the inputs", caption))
        if rest := names[_HEATMAP_ROWS:]:
            blocks.append(Details(f"{plural(len(rest), 'column')} that moved less", (Figure(_heatmap(checks, rest)),)))
    else:
        blocks.append(Notice("No column was watched.", "warn"))
    blocks.append(_checks_table(checks))
    blocks.append(Details("Why: every decision in full", (_reasons(checks),)))
    found, retraining = sum(map(drifted, checks)), sum(check.retrains for check in checks)
    lead = (
        f"{plural(len(checks), 'check')}, {found} with drift; {plural(retraining, 'decision')} to retrain. One moved input is "
        "no data drift yet: it takes the share of inputs that the project file names."
    )
    return Section("Drift", tuple(blocks), lead)


def _moments(story: Story) -> list[datetime]:
    return [
        *(moment for release in story.releases for moment in (release.started_at, _moment(release))),
        *(check.window_end for check in story.drift_checks),
        *(moment for period in story.quality for moment in (period.start, period.end)),
        *(moment for period in story.labels for moment in (period.start, period.end)),
        *((story.replay.simulated_from, story.replay.simulated_until) if story.replay else ()),
    ]


def _moment(release: Release) -> datetime:
    return release.decided_at or release.started_at


def _mark(release: Release) -> str:
    return "release stopped" if release.outcome == "stopped" else f"{release_name(release)} {outcome_words(release)}"


def _event(release: Release) -> Event:
    stopped = f" {sentence(f'stopped by the {release.stopped_by}')}" if release.stopped_by else ""
    title = f"{release_name(release)}: {outcome_words(release)}"
    return Event(
        day(_moment(release)),
        title,
        shorten(sentence(release.reason), _REASON_LENGTH, placeholder=" …") + stopped,
        RELEASE_STATUS[release.outcome],
    )


def _quality_lines(story: Story) -> list[Series]:
    lines = []
    for index, version in enumerate(sorted({period.version for period in story.quality})):
        values = []
        for period in sorted((each for each in story.quality if each.version == version), key=lambda each: each.start):
            middle = period.start + (period.end - period.start) / 2
            emphasized = served(story, middle) == version
            values.append(Value(period.start, period.end, period.auc, period.low, period.high, emphasized))
        lines.append(Series(f"v{version}", _STYLES[index % len(_STYLES)], tuple(values)))
    return lines


def _check_status(check: DriftCheckFacts) -> Status:
    if drifted(check):
        return "warn"
    return "none" if check.data_drift is None else "pass"


def _columns_by_drift(checks: tuple[DriftCheckFacts, ...]) -> list[str]:
    most: dict[str, float] = {}
    for check in checks:
        for column in check.columns:
            most[column.column] = max(column.psi, most.get(column.column, 0.0))
    return sorted(most, key=lambda name: -most[name])


def _heatmap(checks: tuple[DriftCheckFacts, ...], names: list[str]) -> Markup:
    found = [{column.column: column for column in check.columns} for check in checks]
    thresholds = [next(columns[name].threshold for columns in found if name in columns) for name in names]
    values = [[columns[name].psi if name in columns else None for columns in found] for name in names]
    return drift_heatmap(names, [(check.window_start, check.window_end) for check in checks], values, thresholds)


def _checks_table(checks: tuple[DriftCheckFacts, ...]) -> Table:
    columns = (
        Column("Window"), Column("Rows", numeric=True), Column("Version"), Column("Inputs beyond bound", numeric=True),
        Column("Data"), Column("Prediction"), Column("Concept"), Column("Decision"), Column("Report"),
    )  # fmt: skip
    rows = [
        (
            span(check.window_start, check.window_end),
            check.rows,
            f"v{check.version}" if check.version is not None else None,
            f"{sum(column.psi >= column.threshold for column in check.columns)} of {len(check.columns)}",
            *(_kind(value) for value in (check.data_drift, check.prediction_drift, check.concept_drift)),
            Badge("info", check.decision) if check.retrains else check.decision,
            _link(check.report),
        )
        for check in checks
    ]
    return Table(columns, rows, emphasized=frozenset(index for index, check in enumerate(checks) if check.retrains))


def _reasons(checks: tuple[DriftCheckFacts, ...]) -> Table:
    rows = [(day(check.window_end), check.decision, check.reason) for check in checks]
    return Table((Column("Window until"), Column("Decision"), Column("Reason")), rows)


def _kind(value: bool | None) -> Cell:
    if value is None:
        return Badge("none", "not judged")
    return Badge("warn", "drift") if value else Badge("pass", "none")


def _link(report: str | None) -> Cell:
    if report is None:
        return None
    if ":" in report or report.startswith("/"):
        return report
    return Markup('<a href="{}" target="_blank" rel="noopener">Evidently</a>').format(report)
