"""A small SVG drawing: shapes styled by CSS classes, so that a figure follows the page's light or dark colours."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import ceil, floor, log10

from markupsafe import Markup

Point = tuple[float, float]
Attribute = str | float | None


class Drawing:
    """Collects shapes in drawing order. Coordinates are CSS pixels of a `width` x `height` view box."""

    def __init__(self, width: float, height: float, description: str) -> None:
        """Begin an empty drawing; `description` is what a screen reader says of it."""
        self.width = width
        self.height = height
        self._description = description
        self._parts: list[Markup] = []

    def element(self, tag: str, style: str, title: str = "", /, **attributes: Attribute) -> None:
        """Add a shape of CSS class `style`; `title` is shown when the pointer rests on it."""
        inner = Markup("<title>{}</title>").format(title) if title else Markup("")
        self._parts.append(Markup("<{}{}>{}</{}>").format(tag, _attributes(style, attributes), inner, tag))

    def text(self, x: float, y: float, content: str, style: str = "", anchor: str = "start") -> None:
        """Add one line of text whose baseline is at `y`."""
        placed = _attributes(style, {"x": x, "y": y, "text-anchor": None if anchor == "start" else anchor})
        self._parts.append(Markup("<text{}>{}</text>").format(placed, content))

    def turned_text(self, x: float, y: float, content: str, style: str) -> None:
        """Add a line of text centred on (x, y) that reads upwards."""
        turn = f"translate({x:.1f} {y:.1f}) rotate(-90)"
        placed = _attributes(style, {"transform": turn, "text-anchor": "middle"})
        self._parts.append(Markup("<text{}>{}</text>").format(placed, content))

    def line(self, start: Point, end: Point, style: str) -> None:
        """Add a straight line."""
        self.element("line", style, x1=start[0], y1=start[1], x2=end[0], y2=end[1])

    def polyline(self, points: Sequence[Point], style: str, title: str = "") -> None:
        """Add an open line through `points`."""
        self.element("polyline", style, title, points=_joined(points))

    def polygon(self, points: Sequence[Point], style: str, title: str = "") -> None:
        """Add a closed area."""
        self.element("polygon", style, title, points=_joined(points))

    def rectangle(
        self, x: float, y: float, width: float, height: float, style: str, title: str = "", round_: float = 0
    ) -> None:
        """Add a rectangle; sizes below zero are drawn as zero."""
        self.element(
            "rect", style, title, x=x, y=y, width=max(width, 0.0), height=max(height, 0.0), rx=round_ if round_ else None
        )

    def circle(self, x: float, y: float, radius: float, style: str, title: str = "") -> None:
        """Add a circle."""
        self.element("circle", style, title, cx=x, cy=y, r=radius)

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Add a row of (CSS class, label) swatches that starts at `x`, on the baseline `y`."""
        for style, label in entries:
            self.rectangle(x, y - 9, 14, 9, f"swatch {style}", round_=2)
            self.text(x + 20, y, label, "label")
            x += 20 + text_width(label) + 22

    def markup(self) -> Markup:
        """Return the whole `<svg>` element."""
        view = f"0 0 {_short(self.width)} {_short(self.height)}"
        return Markup('<svg class="plot" viewBox="{}" role="img" aria-label="{}" style="--w:{}px">{}</svg>').format(
            view, self._description, _short(self.width), Markup("").join(self._parts)
        )


class Scale:
    """A linear map from data to pixels."""

    def __init__(self, domain: tuple[float, float], pixels: tuple[float, float]) -> None:
        """Map `domain` to `pixels`; an empty domain is widened so that the map exists."""
        low, high = domain
        if not high > low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high = low, high
        self.first, self.last = pixels

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return round values inside the domain, about `wanted` of them."""
        step = _round_step((self.high - self.low) / max(wanted, 1))
        first = ceil(self.low / step - 1e-9)
        last = floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def month_starts(first: datetime, last: datetime) -> list[datetime]:
    """Return every first day of a month within the span."""
    month = datetime(first.year, first.month, 1, tzinfo=first.tzinfo or UTC)
    starts = []
    while month <= last:
        if month >= first:
            starts.append(month)
        month = (month + timedelta(days=32)).replace(day=1)
    return starts


def text_width(content: str) -> float:
    """Estimate the width of a label, in pixels at the label size."""
    return 6.7 * len(content)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart so that neighbours keep `gap`, inside [low, high] if there is room; the order is kept."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = list(wanted)
    floor_ = low
    for index in order:
        placed[index] = max(wanted[index], floor_)
        floor_ = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed


def _attributes(style: str, attributes: dict[str, Attribute]) -> Markup:
    given = {"class": style or None, **attributes}
    pairs = [Markup(' {}="{}"').format(name, _short(value)) for name, value in given.items() if value is not None]
    return Markup("").join(pairs)


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def _joined(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _round_step(rough: float) -> float:
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough - 1e-12)
