"""The demo's summary on the terminal."""

import io

import msgspec
import pytest
from rich.console import Console

from tidegate.reporting.story_tables import print_story


def printed(story, width=150):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_story(story, console)
    return console.file.getvalue()


def test_all_tables_are_printed(story):
    text = printed(story)

    for title in ("Releases", "Rollouts", "Drift checks", "Same later rows, old and new", "What users waited"):
        assert title in text
    assert "v4 (broken on purpose)" in text
    assert "+0.0277 [+0.0204, +0.0350]" in text
    assert "41,872 requests (30.0 % of all)" in text


def test_what_is_missing_is_said(bare_story):
    text = printed(bare_story)

    for words in (
        "No traffic was replayed.",
        "No release was made.",
        "No rollout was started.",
        "No drift check was made.",
        "No two versions could be compared on the same later, labelled rows.",
        "No latency was measured.",
    ):
        assert words in text


@pytest.mark.parametrize("nasty", ["[red]x", "[/]", "[link=x]y", "\\[bold]"])
def test_recorded_words_are_no_markup(story, nasty):
    release = msgspec.structs.replace(story.releases[2], stopped_by=nasty, selected=nasty)
    check = msgspec.structs.replace(story.drift_checks[3], decision=nasty)

    text = printed(msgspec.structs.replace(story, releases=(release,), drift_checks=(check,), notes=(nasty,), project=nasty))

    assert text.count(nasty) >= 5


def test_narrow_terminal_is_not_overrun(story):
    assert max(map(len, printed(story, width=80).splitlines())) <= 80
