"""The demo's last words on the terminal: the story as a few small tables."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tidegate.reporting.formats import count, day, duration, fixed, milliseconds, number, percent, span
from tidegate.reporting.gates import GATES
from tidegate.reporting.page import Status
from tidegate.reporting.story import Story
from tidegate.reporting.story_words import (
    RELEASE_STATUS,
    auc_words,
    compared,
    difference,
    headline,
    kinds,
    outcome_words,
    release_name,
    renewal,
    seen_by_users,
)

_STYLES: dict[Status, str] = {"pass": "green", "fail": "red", "warn": "yellow", "info": "cyan", "none": "dim"}
_MARKS: dict[Status, str] = {"pass": "✓", "fail": "✕", "warn": "!", "info": "i", "none": "-"}


def print_story(story: Story, console: Console) -> None:
    """Print the story; the page of `render_demo` tells the same at length."""
    status, words = renewal(story)
    console.print()
    console.rule(f"[bold]{escape(story.project)}[/bold]")
    console.print(f"[bold]{escape(headline(story))}.[/bold]")
    console.print(_marked(status, words))
    console.print(escape(_traffic(story)))
    for table in (_releases(story), _gates(story), _rollouts(story), _checks(story), _comparisons(story), _latency(story)):
        console.print()
        console.print(table)
    for note in story.notes:
        console.print(f"[dim]{escape(note)}[/dim]")


def _traffic(story: Story) -> str:
    replay = story.replay
    if replay is None:
        return "No traffic was replayed."
    share = f" ({percent(replay.rows / replay.eligible_rows)} of all)" if replay.eligible_rows else ""
    return (
        f"{count(replay.requests)} requests{share} replayed {span(replay.simulated_from, replay.simulated_until)} in "
        f"{duration((story.finished_at - story.started_at).total_seconds())}, everything included; "
        f"{replay.requests_per_second:,.0f} per second; {count(replay.user_failures)} failed. "
        f"{replay.protocol}, rows a request: {replay.rows_per_request}; sampled with seed {replay.seed}."
    )


def _releases(story: Story) -> Table | str:
    if not story.releases:
        return "No release was made."
    table = _table("Releases", "Day", "Version", "Trigger", "Selected", "AUC on holdout", "Outcome", right=("AUC on holdout",))
    for release in story.releases:
        why = f": {release.stopped_by}" if release.stopped_by else ""
        table.add_row(
            day(release.started_at),
            release_name(release),
            release.trigger,
            escape(release.selected or "n/a"),
            auc_words(release),
            _marked(RELEASE_STATUS[release.outcome], outcome_words(release) + why),
        )
    return table


def _gates(story: Story) -> Table | str:
    if not any(release.verdicts for release in story.releases):
        return "No gate was reached."
    table = _table("Gates", "Version", "Gate", "Measure", "Value", "Bound", "Outcome", right=("Value", "Bound"))
    for release in story.releases:
        for gate in GATES:
            verdicts = [verdict for verdict in release.verdicts if verdict.gate == gate]
            shown = [verdict for verdict in verdicts if verdict.subject == release.selected or gate == "champion"]
            if verdicts and not shown:
                failed = sum(not verdict.passed for verdict in verdicts)
                words = f"{count(len(verdicts) - failed)} of {count(len(verdicts))} checks passed"
                table.add_row(release_name(release), gate, words, "", "", _marked("fail" if failed else "pass", ""))
            for verdict in shown:
                value, bound = (number(each, 3) if each is not None else "" for each in (verdict.value, verdict.bound))
                outcome = _marked("pass" if verdict.passed else "fail", "" if verdict.value is not None else verdict.note)
                table.add_row(release_name(release), gate, escape(verdict.measure), value, bound, outcome)
    return table


def _rollouts(story: Story) -> Table | str:
    if not story.rollouts:
        return "No rollout was started."
    table = _table("Rollouts", "Version", "Beside", "Looks", "Outcome", "Users", right=("Looks",))
    for rollout in story.rollouts:
        good = rollout.outcome == ("rolled_back" if rollout.guard else "promoted")
        status: Status = "pass" if good else "fail" if rollout.guard else "warn"
        table.add_row(
            f"v{rollout.version}" + (" (broken on purpose)" if rollout.guard else ""),
            "n/a" if rollout.stable_version is None else f"v{rollout.stable_version}",
            count(len(rollout.looks)),
            _marked(status, f"{rollout.outcome.replace('_', ' ')}: {rollout.reason}"),
            seen_by_users(rollout),
        )
    return table


def _checks(story: Story) -> Table | str:
    if not story.drift_checks:
        return "No drift check was made."
    table = _table("Drift checks", "Window", "Rows", "Version", "Found", "Most drifted", "Decision", right=("Rows",))
    for check in story.drift_checks:
        most = max(check.columns, key=lambda column: column.psi, default=None)
        table.add_row(
            span(check.window_start, check.window_end),
            count(check.rows),
            "n/a" if check.version is None else f"v{check.version}",
            kinds(check),
            "n/a" if most is None else escape(f"{most.column} {fixed(most.psi, 2)}"),
            f"[bold]{escape(check.decision)}[/bold]" if check.retrains else escape(check.decision),
        )
    return table


def _comparisons(story: Story) -> Table | str:
    if not story.comparisons:
        return "No two versions could be compared on the same later, labelled rows."
    table = _table("Same later rows, old and new", "Versions", "Rows", "Old AUC", "New AUC", "Difference", "The newer is")
    for comparison in story.comparisons:
        words, status = compared(comparison)
        table.add_row(
            f"v{comparison.old_version} → v{comparison.new_version}",
            count(comparison.rows),
            fixed(comparison.old_auc, 4),
            fixed(comparison.new_auc, 4),
            escape(difference(comparison)),
            _marked(status, words),
        )
    return table


def _latency(story: Story) -> Table | str:
    if not story.latency:
        return "No latency was measured."
    table = _table("What users waited", "Version", "Requests", "p50", "p95", "p99", right=("Requests", "p50", "p95", "p99"))
    for each in story.latency:
        percentiles = (milliseconds(value) for value in (each.p50_ms, each.p95_ms, each.p99_ms))
        table.add_row(f"v{each.version}", count(each.requests), *percentiles)
    return table


def _table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def _marked(status: Status, words: str) -> str:
    return f"[{_STYLES[status]}]{_MARKS[status]} {escape(words)}[/{_STYLES[status]}]"
