"""The demo page's view of releases: the gates each met, the canary rollouts, and the guard against a broken challenger."""

from tidegate.reporting.formats import count, day, duration, milliseconds, plural, span
from tidegate.reporting.gates import gate_strip, verdict_table
from tidegate.reporting.page import (
    Badge,
    Block,
    Card,
    Cell,
    Column,
    Details,
    Figure,
    Notice,
    Section,
    Table,
    Text,
)
from tidegate.reporting.story import Look, Release, Rollout, Story
from tidegate.reporting.story_words import (
    LOOK_STATUS,
    RELEASE_STATUS,
    auc_words,
    outcome_words,
    release_name,
    seen_by_users,
    sentence,
)
from tidegate.reporting.timelines import TrafficLook, canary_traffic


def release_section(story: Story) -> Section:
    """Return every release as a card: why it was made, its gates, what was selected, and how it ended."""
    title = "Releases and their gates"
    if not story.releases:
        return Section(title, (Notice("No release was made.", "warn"),))
    lead = "A release reaches users only through every gate; each verdict is kept with its number and its bound."
    return Section(title, tuple(_release_card(release) for release in story.releases), lead)


def rollout_section(story: Story) -> Section:
    """Return every rollout but the guard's: the traffic given to the canary and what the judge saw at each look."""
    title = "Canary rollouts"
    rollouts = [rollout for rollout in story.rollouts if not rollout.guard]
    if not rollouts:
        return Section(title, (Notice("No rollout was started.", "warn"),))
    lead = (
        "A new version gets a small share of live traffic first. The judge decides from what is counted on both sides "
        "in the current step; where the stable gets less than half of it, the stable's counts are those of the whole rollout."
    )
    return Section(title, tuple(_rollout_card(rollout) for rollout in rollouts), lead)


def guard_section(story: Story) -> Section:
    """Return what happened to the challenger that was broken on purpose."""
    title = "The guard: a challenger broken on purpose"
    guards = [rollout for rollout in story.rollouts if rollout.guard]
    if guards:
        return Section(title, tuple(_rollout_card(rollout) for rollout in guards))
    stopped = [release for release in story.releases if release.trigger == "guard"]
    if stopped:
        words = stopped[0].stopped_by or stopped[0].reason
        return Section(title, (Notice(f"It never got traffic: {outcome_words(stopped[0])}. {words}", "info"),))
    return Section(title, (Notice("No broken challenger was released in this run, so nothing was shown here.", "warn"),))


def _release_card(release: Release) -> Card:
    facts = [f"Trigger: {release.trigger}"]
    if release.window_start is not None:
        facts.append(f"trained on {span(release.window_start, release.window_end)}")
    if release.training_rows is not None:
        facts.append(plural(release.training_rows, "training row"))
    if release.selected is not None:
        facts.append(f"selected {release.selected}")
    if release.metrics:
        facts.append(f"ROC AUC {auc_words(release)} on its holdout")
    if release.wall_seconds is not None:
        facts.append(f"{duration(release.wall_seconds)} of wall clock")
    blocks: list[Block] = [Text((sentence(release.reason),))]
    if release.verdicts:
        blocks.append(gate_strip(release.verdicts, selected=release.selected))
        if release.stopped_by:
            blocks.append(Notice(sentence(f"stopped by the {release.stopped_by}"), "warn"))
        summary = f"{plural(len(release.verdicts), 'verdict')} with numbers and bounds"
        blocks.append(Details(summary, (verdict_table(release.verdicts),)))
    else:
        blocks.append(Notice(release.stopped_by or "No gate's verdict was recorded.", "warn"))
    return Card(
        f"{release_name(release)}, {day(release.started_at)}",
        tuple(blocks),
        Badge(RELEASE_STATUS[release.outcome], outcome_words(release)),
        " · ".join(facts),
    )


def _rollout_card(rollout: Rollout) -> Card:
    beside = ", the first version" if rollout.stable_version is None else f" beside v{rollout.stable_version}"
    badge = Badge("pass" if rollout.outcome == "promoted" else "warn", rollout.outcome.replace("_", " "))
    if rollout.guard:
        badge = Badge("pass", "caught and rolled back") if rollout.outcome == "rolled_back" else Badge("fail", "promoted")
    blocks: list[Block] = []
    if rollout.guard_note:
        blocks.append(Text((rollout.guard_note,)))
    blocks += _looks(rollout)
    blocks.append(Text((sentence(f"outcome: {rollout.reason}"), seen_by_users(rollout))))
    steps = f"steps {', '.join(f'{step} %' for step in rollout.steps)}" if rollout.steps else "no steps recorded"
    return Card(f"v{rollout.version}{beside}", tuple(blocks), badge, steps)


def _looks(rollout: Rollout) -> list[Block]:
    if not rollout.looks:
        why = (
            "There was no version to compare it with, so it took all of the traffic at once."
            if rollout.stable_version is None
            else "No look of the judge was recorded."
        )
        return [Notice(why, "info" if rollout.stable_version is None else "warn")]
    traffic = [
        TrafficLook(
            look.at_seconds, look.percent, look.canary_p95_ms, look.stable_p95_ms, LOOK_STATUS[look.verdict], look.reason
        )
        for look in rollout.looks
    ]
    decisive = [look for look in rollout.looks if look.verdict != "continue"] or [rollout.looks[-1]]
    blocks: list[Block] = [Figure(canary_traffic(traffic, width=1000)), _looks_table(decisive)]
    if len(decisive) < len(rollout.looks):
        blocks.append(Details(f"All {len(rollout.looks)} looks of the judge", (_looks_table(rollout.looks),)))
    return blocks


def _looks_table(looks: "tuple[Look, ...] | list[Look]") -> Table:
    columns = (
        Column("At", numeric=True), Column("Canary gets", numeric=True), Column("Canary", numeric=True),
        Column("Stable", numeric=True), Column("p95 canary", numeric=True), Column("p95 stable", numeric=True),
        Column("Verdict"), Column("Why"),
    )  # fmt: skip
    return Table(columns, [_look_row(look) for look in looks])


def _look_row(look: Look) -> tuple[Cell, ...]:
    return (
        duration(look.at_seconds),
        f"{look.percent} %",
        _counts(look.canary_requests, look.canary_errors),
        _counts(look.stable_requests, look.stable_errors),
        milliseconds(look.canary_p95_ms),
        milliseconds(look.stable_p95_ms),
        Badge(LOOK_STATUS[look.verdict], {"rollback": "roll back"}.get(look.verdict, look.verdict)),
        look.reason,
    )


def _counts(requests: int, errors: int) -> str:
    return f"{count(requests)}, {plural(errors, 'error')}" if errors else f"{count(requests)}, no error"
