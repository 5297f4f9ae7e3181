"""The demo's last page: the whole story from top to bottom, as one self-contained HTML document.

page.write_text(render_demo(story), encoding="utf-8")
print_story(story, console)
"""

from tidegate.reporting.demo_period import comparison_section, drift_section, period_section
from tidegate.reporting.demo_releases import guard_section, release_section, rollout_section
from tidegate.reporting.formats import count, duration, milliseconds, number, percent, plural, span
from tidegate.reporting.page import (
    Badge,
    Block,
    Cell,
    Code,
    Column,
    Columns,
    Figure,
    Notice,
    Page,
    Section,
    Table,
    Text,
    Tile,
    render_page,
)
from tidegate.reporting.plots import LatencyRow, latency_percentiles
from tidegate.reporting.story import Story
from tidegate.reporting.story_tables import print_story
from tidegate.reporting.story_words import headline, renewal

__all__ = ["print_story", "render_demo"]


def render_demo(story: Story) -> str:
    """Return the page of a demo; what was not seen is said in its place."""
    status, words = renewal(story)
    return render_page(
        Page(
            title=headline(story),
            subtitle=_subtitle(story),
            kicker=f"Tidegate · {story.project}",
            badge=Badge(status, words),
            tiles=_tiles(story),
            sections=(
                period_section(story),
                comparison_section(story),
                release_section(story),
                rollout_section(story),
                guard_section(story),
                drift_section(story),
                _latency_section(story),
                _feature_section(story),
                _run_section(story),
                _reproduce_section(story),
            ),
            footer=f"Tidegate {story.tidegate_version}, {story.finished_at:%Y-%m-%d %H:%M} UTC, {story.machine}.",
        )
    )


def _subtitle(story: Story) -> str:
    lived = f", {span(story.replay.simulated_from, story.replay.simulated_until)}" if story.replay else ""
    traffic = (
        f" {plural(story.replay.requests, 'request')} were replayed as live traffic"
        f" in {duration((story.finished_at - story.started_at).total_seconds())} of wall clock, everything included."
        if story.replay
        else " No traffic was replayed."
    )
    return f"A model predicts {story.predicts}{lived}.{traffic}"


def _tiles(story: Story) -> tuple[Tile, ...]:
    tiles = []
    if story.replay is not None:
        failures, requests = story.replay.user_failures, story.replay.requests
        tiles.append(Tile("Requests", count(requests), f"{story.replay.requests_per_second:,.0f} per second on average"))
        seen = "no request failed" if not failures else f"{percent(failures / max(requests, 1), 3)} of all"
        tiles.append(Tile("Failures seen by users", count(failures), seen, "warn" if failures else "pass"))
    promoted = [release for release in story.releases if release.outcome == "promoted"]
    tiles.append(Tile("Releases", count(len(story.releases)), f"{len(promoted)} promoted", "pass" if promoted else "warn"))
    retrained = sum(check.retrains for check in story.drift_checks)
    tiles.append(Tile("Drift checks", count(len(story.drift_checks)), f"{retrained} called for a retraining"))
    if story.latency:
        most = max(story.latency, key=lambda each: each.requests)
        tiles.append(Tile("p99 for users", milliseconds(most.p99_ms), f"v{most.version}, p50 {milliseconds(most.p50_ms)}"))
    return tuple(tiles)


def _latency_section(story: Story) -> Section:
    title = "What users waited"
    if not story.latency:
        return Section(title, (Notice("No latency was measured.", "warn"),))
    rows = [LatencyRow(f"v{each.version}", each.p50_ms, each.p95_ms, each.p99_ms) for each in story.latency]
    columns = (
        Column("Version"), Column("Requests", numeric=True), Column("p50", numeric=True), Column("p95", numeric=True),
        Column("p99", numeric=True),
    )  # fmt: skip
    table = Table(
        columns,
        [
            (f"v{each.version}", each.requests, *(milliseconds(value) for value in (each.p50_ms, each.p95_ms, each.p99_ms)))
            for each in story.latency
        ],
    )
    lead = "Measured by the replaying client, through the proxy, with online feature lookups and the inference log on."
    return Section(title, (Columns((Figure(latency_percentiles(rows)), table)),), lead)


def _feature_section(story: Story) -> Section:
    title = "What the model reads"
    blocks: list[Block] = []
    if story.request_inputs:
        blocks.append(Text((f"Sent with every request: {', '.join(story.request_inputs)}.",)))
    else:
        blocks.append(Notice("No request input was recorded.", "info"))
    if story.features is None:
        blocks.append(Notice("No features are looked up online.", "info"))
        return Section(title, tuple(blocks))
    rows: list[tuple[Cell, ...]] = [
        (
            view.name,
            ", ".join(view.join_keys),
            f"{number(view.ttl_seconds / 3600)} h" if view.ttl_seconds else "does not expire",
            ", ".join(field.name for field in view.features),
        )
        for view in story.features.views
    ]
    amount = sum(len(view.features) for view in story.features.views)
    columns = (Column("Looked up from"), Column("By"), Column("Valid for"), Column("Features"))
    blocks.append(Table(columns, rows))
    lead = f"{plural(amount, 'feature')} from {plural(len(rows), 'view')} of feature service {story.features.service}."
    return Section(title, tuple(blocks), lead)


def _run_section(story: Story) -> Section:
    return Section("How it was run", (Columns((_facts(story), _phases(story))),))


def _facts(story: Story) -> Block:
    facts: list[tuple[Cell, ...]] = []
    if story.data is not None:
        facts += [
            ("Data", story.data.source or "source not recorded"),
            ("Rows", f"{count(story.data.rows)}, {count(story.data.labelled_rows)} with a label"),
            ("Span of the data", span(story.data.first_event, story.data.last_event)),
        ]
    else:
        facts.append(("Data", "not recorded"))
    if story.replay is not None:
        replay = story.replay
        share = percent(replay.rows / replay.eligible_rows) if replay.eligible_rows else "n/a"
        facts += [
            ("Replayed", span(replay.simulated_from, replay.simulated_until)),
            ("Rows sent", f"{count(replay.rows)} of {count(replay.eligible_rows)} ({share}), seed {replay.seed}"),
            ("Rows a request", replay.rows_per_request),
            ("Protocol", replay.protocol),
        ]
    else:
        facts.append(("Replay", "there was none"))
    facts.append(("Machine", story.machine))
    return Table((Column("What"), Column("Value")), facts, "Facts")


def _phases(story: Story) -> Block:
    if not story.phases:
        return Notice("The wall clock of the phases was not recorded.", "info")
    rows: list[tuple[Cell, ...]] = [(phase.name, duration(phase.seconds)) for phase in story.phases]
    rows.append(("phases together", duration(sum(phase.seconds for phase in story.phases))))
    return Table((Column("Phase"), Column("Time", numeric=True)), rows, "Wall clock", frozenset({len(rows) - 1}))


def _reproduce_section(story: Story) -> Section:
    code: Block = Code("\n".join(story.commands)) if story.commands else Notice("No command was recorded.", "warn")
    notes: Block = Text(story.notes) if story.notes else Text(("No notes.",), quiet=True)
    return Section("Do it again, and what to know", (code, notes))
