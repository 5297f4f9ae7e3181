"""Builds one self-contained HTML page from sections of text, tiles, tables, figures, gates and timelines.

    page = Page(title="Data validation", subtitle="January to March", sections=(Section("Columns", (table,)),))
    Path("page.html").write_text(render_page(page))

A page asks nothing of the network, runs no script, follows the reader's light or dark setting, and says every status with a
mark and a word, never by colour alone. Every text given here is escaped; only a `Markup` (a figure) is inserted as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tidegate.reporting.formats import count, number

Status = Literal["pass", "fail", "warn", "info", "none"]


@dataclass(frozen=True, slots=True)
class Badge:
    """A status with its word."""

    status: Status
    text: str


Cell = str | int | float | None | Badge | Markup


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure."""

    label: str
    value: str
    note: str = ""
    status: Status = "none"


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs of plain text."""

    kind: ClassVar[str] = "text"
    paragraphs: tuple[str, ...]
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """One framed remark that must not be overlooked, such as what could not be shown and why."""

    kind: ClassVar[str] = "notice"
    text: str
    status: Status = "info"


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; numbers are aligned to the right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under columns. Integers get thousands separators, floats four digits; write other forms as text."""

    kind: ClassVar[str] = "table"
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    emphasized: frozenset[int] = field(default_factory=frozenset)  # indices of rows to set apart


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with its title and what to see in it."""

    kind: ClassVar[str] = "figure"
    drawing: Markup
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """One stage of a `GateStrip`."""

    name: str
    status: Status
    note: str


@dataclass(frozen=True, slots=True)
class GateStrip:
    """The gates of a release in the order they were met."""

    kind: ClassVar[str] = "gates"
    gates: tuple[Gate, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a `Timeline`."""

    when: str
    title: str
    text: str = ""
    status: Status = "info"


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened, in order."""

    kind: ClassVar[str] = "timeline"
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be typed, kept as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link to a file beside the page, which opens outside the page's frame."""

    text: str
    address: str


@dataclass(frozen=True, slots=True)
class Links:
    """A list of links."""

    kind: ClassVar[str] = "links"
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that stay folded until the reader opens them."""

    kind: ClassVar[str] = "details"
    summary: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True, slots=True)
class Card:
    """Blocks in a frame of their own, under a heading with a badge."""

    kind: ClassVar[str] = "card"
    title: str
    blocks: "tuple[Block, ...]"
    badge: Badge | None = None
    subtitle: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """Blocks side by side where the window is wide enough."""

    kind: ClassVar[str] = "columns"
    blocks: "tuple[Block, ...]"


Block = Text | Notice | Table | Figure | GateStrip | Timeline | Code | Links | Details | Card | Columns


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of the page."""

    title: str
    blocks: tuple[Block, ...]
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page; `kicker` is the small line above the title."""

    title: str
    sections: tuple[Section, ...]
    subtitle: str = ""
    kicker: str = "Tidegate"
    badge: Badge | None = None
    tiles: tuple[Tile, ...] = ()
    footer: str = ""


def render_page(page: Page) -> str:
    """Return the page as one HTML document."""
    return _environment.get_template("page.html").render(page=page)


def passed_badge(passed: bool) -> Badge:
    """Return the badge of a gate's outcome."""
    return Badge("pass", "passed") if passed else Badge("fail", "failed")


def _cell(value: Cell) -> str | Markup:
    if value is None:
        return Markup('<span class="absent">n/a</span>')
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    return number(value) if isinstance(value, float) else str(value) if not isinstance(value, Markup) else value


def _is_badge(value: object) -> bool:
    return isinstance(value, Badge)


_environment = Environment(
    loader=PackageLoader("tidegate.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters["cell"] = _cell
_environment.tests["badge"] = _is_badge
