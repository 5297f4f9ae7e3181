"""The demo's page: self-contained, escaped, and truthful about what was not seen."""

import re
from datetime import timedelta
from html.parser import HTMLParser

import msgspec
import pytest

from tidegate.reporting.demo import render_demo
from tidegate.reporting.story import Story
from tidegate.reporting.story_words import compared, headline, renewal, sentence, served

NASTY = "<script>alert('x')</script>&\"quoted\""
NAMESPACES = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
FREE_WORDS = {
    *("reason", "note", "stopped_by", "guard_note", "name", "column", "decision", "project", "predicts", "machine", "report"),
    *("source", "classes", "commands", "notes", "request_inputs", "selected", "subject", "measure", "rows_per_request"),
}
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks that every tag is closed, and collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    assert parsed.open == []
    return parsed


@pytest.mark.parametrize("which", ["story", "bare_story"])
def test_page_is_self_contained_and_small(which, request):
    html = render_demo(request.getfixturevalue(which))

    page = outline(html)
    assert set(re.findall(r"https?://[^\s\"'<>)]+", html)) <= NAMESPACES
    assert not re.search(r"@import|url\(", html)
    assert page.tags.isdisjoint({"script", "iframe", "link", "img", "object", "embed"})
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert len(html.encode()) < 1_000_000
    assert "prefers-color-scheme: dark" in html


def test_long_rollout_stays_small(story):
    rollout = story.rollouts[1]
    look = msgspec.structs.replace(rollout.looks[0], reason="error rate is shown to be at most 2.31%, not yet 1.00%")
    looks = tuple(msgspec.structs.replace(look, at_seconds=float(second)) for second in range(200))
    rollouts = tuple(msgspec.structs.replace(rollout, looks=looks) for _ in range(5))

    html = render_demo(msgspec.structs.replace(story, rollouts=rollouts))

    assert len(html.encode()) < 1_000_000
    assert html.count("All 200 looks of the judge") == 5


def test_every_chapter_is_told_with_its_numbers(story):
    text = outline(render_demo(story)).text

    for words in (
        "3 versions promoted, 1 rolled back, 1 stopped by a gate and 3 failed requests in 41,872",
        "The loop closed: drift led to v2, v3",
        "0.007 % of all",
        "v1 → v2 27 May \u2013 1 Sep 2013 22,310 0.6712 0.6989 +0.0277 [+0.0204, +0.0350] ✓ better",
        "no difference shown",
        "Stopped by the champion gate: trees/graph-optimized",
        "caught and rolled back",
        "82, 82 errors",
        "Users made 1,640 requests during it; 3 of them failed.",
        "10 checks, 4 with drift; 2 decisions to retrain.",
        "26 features from 5 views of feature service flights_late_v1.",
        "41,872 of 139,573 (30.0 %), seed 2013",
        "make demo",
        "Version 4 reads features that no other version logged",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("field", "said"),
    [
        pytest.param("releases", ("No release was made", "No release was made."), id="releases"),
        pytest.param("rollouts", ("No rollout was started.",), id="rollouts"),
        pytest.param("drift_checks", ("No drift check was made.",), id="drift checks"),
        pytest.param("quality", ("No ROC AUC was measured.",), id="quality"),
        pytest.param("labels", ("No labels arrived.",), id="labels"),
        pytest.param("comparisons", ("No two versions could be compared on the same later, labelled rows.",), id="comparisons"),
        pytest.param("latency", ("No latency was measured.",), id="latency"),
        pytest.param("phases", ("The wall clock of the phases was not recorded.",), id="phases"),
        pytest.param("replay", ("No traffic was replayed.", "there was none"), id="replay"),
        pytest.param("features", ("No features are looked up online.",), id="features"),
        pytest.param("request_inputs", ("No request input was recorded.",), id="request inputs"),
        pytest.param("data", ("Data not recorded",), id="data"),
        pytest.param("commands", ("No command was recorded.",), id="commands"),
        pytest.param("notes", ("No notes.",), id="notes"),
    ],
)
def test_what_is_missing_is_said(story, field, said):
    without = msgspec.structs.replace(story, **{field: None if field in ("replay", "features", "data") else ()})

    text, before = outline(render_demo(without)).text, outline(render_demo(story)).text

    for words in said:
        assert words in text
        assert words not in before


def test_nothing_at_all_is_a_page_too(bare_story):
    text = outline(render_demo(bare_story)).text

    assert "Nothing that happened at a time was recorded." in text
    assert "No broken challenger was released in this run, so nothing was shown here." in text


def test_guard_that_a_gate_stopped_got_no_traffic(story):
    guard = msgspec.structs.replace(story.releases[-1], outcome="stopped", version=None, stopped_by="accuracy gate: too low")
    stopped = msgspec.structs.replace(story, releases=(*story.releases[:-1], guard), rollouts=story.rollouts[:-1])

    assert "It never got traffic: stopped by a gate. accuracy gate: too low" in outline(render_demo(stopped)).text


def test_promoted_guard_is_shown_as_a_failure(story):
    guard = msgspec.structs.replace(story.rollouts[-1], outcome="promoted")

    html = render_demo(msgspec.structs.replace(story, rollouts=(guard,)))

    assert '<span class="badge fail"><span class="mark" aria-hidden="true">✕</span>promoted</span>' in html
    assert "caught and rolled back" not in html


def test_report_is_linked_only_beside_the_page(story):
    kept = story.drift_checks[:3]
    reports = ("reports/a.html", "javascript:alert(1)", "//elsewhere/b.html")
    checks = tuple(msgspec.structs.replace(check, report=report) for check, report in zip(kept, reports, strict=True))

    page = outline(render_demo(msgspec.structs.replace(story, drift_checks=checks)))

    assert [value for name, value in page.attributes if name == "href"] == ["reports/a.html"]


def test_everything_is_escaped(story):
    tainted = msgspec.convert(_tainted(msgspec.to_builtins(story)), Story)

    html = render_demo(tainted)

    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert NASTY in outline(html).text


def _tainted(value: object, key: str = "") -> object:
    if isinstance(value, dict):
        return {name: _tainted(inner, name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_tainted(inner, key) for inner in value]
    return NASTY if isinstance(value, str) and key in FREE_WORDS else value


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        pytest.param({}, "pass", "The loop closed: drift led to v2, v3", id="renewed"),
        pytest.param({"releases": 1}, "info", "Drift was found, but the policy called for no retraining", id="policy waits"),
        pytest.param({"releases": 1, "drift_checks": 2}, "info", "No drift was found, so nothing was retrained", id="no drift"),
        pytest.param({"releases": 1, "drift_checks": 0}, "none", "No drift check was made", id="no check"),
    ],
)
def test_whether_the_loop_closed(story, change, status, words):
    shorter = {field: getattr(story, field)[:amount] for field, amount in change.items()}

    assert renewal(msgspec.structs.replace(story, **shorter)) == (status, words)


def test_retraining_without_promotion_is_no_success(story):
    releases = (story.releases[0], story.releases[2])

    status, words = renewal(msgspec.structs.replace(story, releases=releases))

    assert (status, words) == ("warn", "Drift led to a retraining, but no new version was promoted")


def test_headline_counts_one_as_one(story):
    assert headline(msgspec.structs.replace(story, releases=story.releases[:1], replay=None)) == "1 version promoted"


def test_headline_says_when_nothing_failed(story):
    replay = msgspec.structs.replace(story.replay, user_failures=0)

    assert headline(msgspec.structs.replace(story, replay=replay)).endswith("and no failed request in 41,872")


def test_version_in_service_follows_promotions_only(story):
    first, renewed, stopped, _, guard = story.releases

    assert served(story, first.started_at - timedelta(days=1)) is None
    assert served(story, first.started_at) == 1
    assert served(story, renewed.decided_at - timedelta(seconds=1)) == 1
    assert served(story, stopped.started_at) == 2
    assert served(story, guard.decided_at + timedelta(days=5)) == 3


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.01, "no difference shown"), (None, None, "not judged")],
)
def test_newer_version_is_judged_by_its_interval(story, low, high, words):
    comparison = msgspec.structs.replace(story.comparisons[0], difference_low=low, difference_high=high)

    assert compared(comparison)[0] == words


@pytest.mark.parametrize(
    ("text", "written"),
    [("drift: it moved", "Drift: it moved."), ("p95 too high", "p95 too high."), ("Done.", "Done."), ("", ".")],
)
def test_sentence(text, written):
    assert sentence(text) == written
