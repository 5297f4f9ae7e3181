"""The page builder: every block, its escaping, its statuses in mark and word."""

import pytest
from markupsafe import Markup

from tidegate.reporting.page import (
    Badge,
    Card,
    Code,
    Column,
    Columns,
    Details,
    Event,
    Figure,
    Gate,
    GateStrip,
    Link,
    Links,
    Notice,
    Page,
    Section,
    Table,
    Text,
    Tile,
    Timeline,
    render_page,
)

NASTY = "<b>&\"'"
ESCAPED = "&lt;b&gt;&amp;&#34;&#39;"
BLOCKS = [
    pytest.param(Text((NASTY,)), id="text"),
    pytest.param(Notice(NASTY), id="notice"),
    pytest.param(Table((Column(NASTY),), [(NASTY,), (Badge("pass", NASTY),)], NASTY), id="table"),
    pytest.param(Figure(Markup("<svg></svg>"), NASTY, NASTY), id="figure"),
    pytest.param(GateStrip((Gate(NASTY, "fail", NASTY),)), id="gates"),
    pytest.param(Timeline((Event(NASTY, NASTY, NASTY),)), id="timeline"),
    pytest.param(Code(NASTY), id="code"),
    pytest.param(Links((Link(NASTY, NASTY),)), id="links"),
    pytest.param(Details(NASTY, (Text((NASTY,)),)), id="details"),
    pytest.param(Card(NASTY, (Text((NASTY,)),), Badge("warn", NASTY), NASTY), id="card"),
    pytest.param(Columns((Text((NASTY,)), Notice(NASTY))), id="columns"),
]


def rendered(*blocks):
    return render_page(Page(title="T", sections=(Section("S", blocks),)))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_escapes_its_words(block):
    html = rendered(block)

    assert ESCAPED in html
    assert NASTY not in html


def test_head_of_the_page_is_escaped():
    html = render_page(
        Page(title=NASTY, sections=(), subtitle=NASTY, kicker=NASTY, tiles=(Tile(NASTY, NASTY, NASTY),), footer=NASTY)
    )

    assert NASTY not in html
    assert html.count(ESCAPED) == 9


def test_drawing_is_inserted_as_it_is():
    assert '<svg class="plot">' in rendered(Figure(Markup('<svg class="plot"></svg>')))


@pytest.mark.parametrize(("status", "mark"), [("pass", "✓"), ("fail", "✕"), ("warn", "!"), ("info", "i"), ("none", "\u2013")])
def test_status_is_a_mark_and_a_word(status, mark):
    html = rendered(Table((Column("a"),), [(Badge(status, "word"),)]))

    assert f'<span class="badge {status}"><span class="mark" aria-hidden="true">{mark}</span>word</span>' in html


@pytest.mark.parametrize(
    ("value", "written"),
    [
        pytest.param(1234567, "1,234,567", id="count"),
        pytest.param(0.123456, "0.1235", id="number"),
        pytest.param(True, "yes", id="truth"),
        pytest.param(None, '<span class="absent">n/a</span>', id="absent"),
        pytest.param(Markup("<i>x</i>"), "<i>x</i>", id="markup"),
    ],
)
def test_cells_are_written_by_their_type(value, written):
    assert f'<td class="number">{written}</td>' in rendered(Table((Column("a", numeric=True),), [(value,)]))


def test_emphasized_row_and_numeric_header():
    html = rendered(Table((Column("a"), Column("b", numeric=True)), [("x", 1), ("y", 2)], emphasized=frozenset({1})))

    assert '<tr class="emphasized"><td>y</td>' in html
    assert html.count('emphasized"><td') == 1
    assert '<th scope="col" class="number">b</th>' in html
