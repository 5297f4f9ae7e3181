"""Plots over time as SVG: the lived-through period with its events, a canary's traffic, and drift by column and window."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from tidegate.reporting.formats import day, fixed, milliseconds, number, percent, span
from tidegate.reporting.page import Status
from tidegate.reporting.svg import Drawing, Point, Scale, month_starts, spread, text_width

_MARKED_POINTS = 30
_MARKS = {"pass": "✓", "fail": "✕", "warn": "!", "info": "i", "none": "–"}  # noqa: RUF001


@dataclass(frozen=True, slots=True)
class Mark:
    """An event on a time axis: a word or two, and its status."""

    at: datetime
    text: str
    status: Status = "info"


@dataclass(frozen=True, slots=True)
class Value:
    """A value that holds for a span; None where it could not be measured. `low` and `high` bound its interval."""

    start: datetime
    end: datetime
    value: float | None
    low: float | None = None
    high: float | None = None
    emphasized: bool = False  # drawn thick, such as "this version was serving"

    @property
    def middle(self) -> datetime:
        """The middle of the span."""
        return self.start + (self.end - self.start) / 2


@dataclass(frozen=True, slots=True)
class Series:
    """One named line."""

    name: str
    style: str  # s1 … s5
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class TrafficLook:
    """One look: seconds since the start, canary percentage, p95 of both sides in milliseconds, and what was decided."""

    at_seconds: float
    percent: int
    canary_p95_ms: float | None
    stable_p95_ms: float | None
    status: Status
    note: str


def lived_through(
    first: datetime, last: datetime, lines: Sequence[Series], shares: Sequence[Value], share_name: str, line_name: str,
    events: Sequence[Mark], checks: Sequence[Mark], width: float = 1100,
) -> Markup:  # fmt: skip
    """Draw one time axis with bands from top to bottom: events, `lines`, bars of `shares`, and marks of drift `checks`.

    A band without data says so in its place.
    """
    lanes = _lanes([(event.at.timestamp(), text_width(event.text) + 34) for event in events], first, last, width)
    top = 22 + 24.0 * (max(lanes, default=0) + 1)
    line_bottom, share_bottom = top + 250, top + 250 + 100
    height = share_bottom + 76
    drawing = Drawing(width, height, f"{line_name}, {share_name}, drift checks and releases from {day(first)} to {day(last)}")
    x = Scale((first.timestamp(), last.timestamp()), (66, width - 104))
    for month in month_starts(first, last):
        drawing.line((x(month.timestamp()), top), (x(month.timestamp()), height - 26), "grid")
        drawing.text(x(month.timestamp()) + 4, height - 10, f"{month:%b %Y}" if month.month == 1 else f"{month:%b}", "tick")
    _draw_events(drawing, x, events, lanes, height - 26)
    _draw_lines(drawing, x, lines, line_name, (top + 8, line_bottom - 18))
    _draw_shares(drawing, x, shares, share_name, (line_bottom + 8, share_bottom))
    _draw_checks(drawing, x, checks, share_bottom + 28)
    return drawing.markup()


def canary_traffic(looks: Sequence[TrafficLook], width: float = 680) -> Markup:
    """Draw the canary's share of the traffic as steps with the judge's looks on it, and both p95 latencies below."""
    height = 330.0
    drawing = Drawing(width, height, "Canary traffic: " + _traffic_words(looks))
    if not looks:
        drawing.text(
            width / 2, height / 2, "The judge did not look: this revision took no traffic beside another.", "quiet", "middle"
        )
        return drawing.markup()
    x = Scale((0.0, max(look.at_seconds for look in looks) * 1.02), (58, width - 16))
    y = Scale((0.0, 100.0), (176, 34))
    for tick in (0, 25, 50, 75, 100):
        drawing.line((x.first, y(tick)), (x.last, y(tick)), "grid")
        drawing.text(x.first - 9, y(tick) + 4, f"{tick} %", "tick", "end")
    steps = _traffic_steps(looks, x, y)
    drawing.polygon([*steps, (steps[-1][0], y(100)), (x.first, y(100))], "band s1")
    drawing.polygon([(x.first, y(0)), *steps, (steps[-1][0], y(0))], "pale s2")
    drawing.polyline(steps, "line s2")
    for look in looks:
        words = f"{look.percent} %: {look.note}"
        if look.status == "none":
            drawing.circle(x(look.at_seconds), y(look.percent), 3, "dot none", words)
        else:
            _badge(drawing, x(look.at_seconds), y(look.percent), look.status, words)
    drawing.legend(62, 16, [("pale s1", "stable"), ("pale s2", "canary")])
    _draw_p95(drawing, looks, x, (222, height - 34))
    for second in x.ticks(7):
        drawing.text(x(second), height - 12, f"{number(second)} s", "tick", "middle")
    return drawing.markup()


def drift_heatmap(
    columns: Sequence[str], windows: Sequence[tuple[datetime, datetime]], values: Sequence[Sequence[float | None]],
    thresholds: Sequence[float], width: float = 1100,
) -> Markup:  # fmt: skip
    """Draw PSI as `values[column][window]`: the darker the more, outlined and bold where it reaches the column's threshold."""
    left = 20 + max((text_width(column) for column in columns), default=0.0)
    cell_width = min((width - left - 8) / max(len(windows), 1), 120.0)
    row_height = 26.0
    used = left + cell_width * len(windows) + 8
    drawing = Drawing(max(used, 420.0), 46 + row_height * len(columns) + 34, "Population stability index by column and window")
    for index, (start, end) in enumerate(windows):
        middle = left + cell_width * (index + 0.5)
        drawing.text(middle, 16, f"{end.day} {end:%b}", "tick", "middle")
        drawing.text(middle, 31, "" if cell_width < 58 else f"{(end - start).days} days", "tick", "middle")
    for position, (column, threshold) in enumerate(zip(columns, thresholds, strict=True)):
        top = 40 + row_height * position
        drawing.text(left - 10, top + 17, column, "label", "end")
        for index, psi in enumerate(values[position]):
            _heat_cell(
                drawing,
                left + cell_width * index,
                top,
                cell_width,
                row_height,
                psi,
                threshold,
                f"{column}, {span(*windows[index])}",
            )
    drawing.text(
        left,
        40 + row_height * len(columns) + 22,
        f"Windows are named by the day they end. Outlined: at or above the threshold of {_thresholds(thresholds)}.",
        "tick",
    )
    return drawing.markup()


def _draw_events(drawing: Drawing, x: Scale, events: Sequence[Mark], lanes: Sequence[int], bottom: float) -> None:
    for event, lane in zip(events, lanes, strict=True):
        px, py = x(event.at.timestamp()), 16 + 24.0 * lane
        drawing.line((px, py + 10), (px, bottom), f"stem faint {event.status}")
        _badge(drawing, px, py, event.status, f"{day(event.at)}: {event.text}")
        leftwards = px + text_width(event.text) + 20 > drawing.width
        drawing.text(
            px - 14 if leftwards else px + 14, py + 4.5, event.text, f"on {event.status}", "end" if leftwards else "start"
        )


def _draw_lines(drawing: Drawing, x: Scale, lines: Sequence[Series], name: str, rows: tuple[float, float]) -> None:
    measured = [value for line in lines for value in line.values if value.value is not None]
    drawing.turned_text(16, sum(rows) / 2, name, "axis")
    if not measured:
        drawing.text((x.first + x.last) / 2, sum(rows) / 2, f"No {name} was measured.", "quiet", "middle")
        return
    amounts = [value.value for value in measured if value.value is not None]
    margin = max((max(amounts) - min(amounts)) * 0.1, 0.01)
    y = Scale((min(amounts) - margin, max(amounts) + margin), (rows[1], rows[0]))
    for tick in y.ticks(5):
        drawing.line((x.first, y(tick)), (x.last, y(tick)), "grid")
        drawing.text(x.first - 9, y(tick) + 4, fixed(tick, 2), "tick", "end")
    ends = []
    for line in lines:
        for run in _runs(line.values):
            _draw_run(drawing, x, y, line, run)
        known = [value for value in line.values if value.value is not None]
        if known:
            ends.append((line, x(known[-1].middle.timestamp()), y(known[-1].value or 0.0)))
    for (line, px, _), py in zip(ends, spread([end[2] for end in ends], 17, rows[0], rows[1]), strict=True):
        drawing.text(px + 12, py + 4, line.name, f"on {line.style}")


def _draw_run(drawing: Drawing, x: Scale, y: Scale, line: Series, run: Sequence[Value]) -> None:
    points = [(x(value.middle.timestamp()), y(value.value or 0.0)) for value in run]
    drawing.polyline(points, f"line thin {line.style}")
    for index in range(len(run) - 1):
        if run[index].emphasized and run[index + 1].emphasized:
            drawing.polyline(points[index : index + 2], f"line thick {line.style}")
    for value, (px, py) in zip(run, points, strict=True):
        interval = f" ({fixed(value.low)} to {fixed(value.high)})" if value.low is not None else ""
        words = f"{line.name}, {span(value.start, value.end)}: {fixed(value.value)}{interval}"
        drawing.circle(px, py, 5 if value.emphasized else 3.5, f"dot {line.style}", words)


def _draw_shares(drawing: Drawing, x: Scale, shares: Sequence[Value], name: str, rows: tuple[float, float]) -> None:
    drawing.turned_text(16, sum(rows) / 2, name, "axis")
    known = [(value, value.value) for value in shares if value.value is not None]
    if not known:
        drawing.text((x.first + x.last) / 2, sum(rows) / 2, "No labels arrived.", "quiet", "middle")
        return
    y = Scale((0.0, max(share for _, share in known) * 1.1), (rows[1], rows[0]))
    for tick in y.ticks(3):
        drawing.line((x.first, y(tick)), (x.last, y(tick)), "grid")
        drawing.text(x.first - 9, y(tick) + 4, percent(tick, 0), "tick", "end")
    for value, share in known:
        left, right = x(value.start.timestamp()), x(value.end.timestamp())
        words = f"{span(value.start, value.end)}: {percent(share)}"
        drawing.rectangle(left + 1, y(share), right - left - 2, rows[1] - y(share), "pale s0", words, 2)


def _draw_checks(drawing: Drawing, x: Scale, checks: Sequence[Mark], middle: float) -> None:
    drawing.text(x.last + 16, middle + 4, "drift checks", "axis")
    if not checks:
        drawing.text((x.first + x.last) / 2, middle + 4, "No drift check was made.", "quiet", "middle")
    for check in checks:
        _badge(drawing, x(check.at.timestamp()), middle, check.status, check.text)


def _traffic_words(looks: Sequence[TrafficLook]) -> str:
    decided = [look for look in looks if look.status != "none"] or looks[-1:]
    return "; ".join(f"{look.percent} %, {look.note}" for look in decided)


def _draw_p95(drawing: Drawing, looks: Sequence[TrafficLook], x: Scale, rows: tuple[float, float]) -> None:
    sides = (("stable", "s1", "stable_p95_ms"), ("canary", "s2", "canary_p95_ms"))
    known = [value for look in looks for value in (look.stable_p95_ms, look.canary_p95_ms) if value is not None]
    drawing.text(x.first, rows[0] - 14, "p95 latency, ms", "axis")
    if not known:
        drawing.text((x.first + x.last) / 2, sum(rows) / 2, "No latency was observed.", "quiet", "middle")
        return
    y = Scale((0.0, max(known) * 1.15), (rows[1], rows[0]))
    for tick in y.ticks(3):
        drawing.line((x.first, y(tick)), (x.last, y(tick)), "grid")
        drawing.text(x.first - 9, y(tick) + 4, number(tick), "tick", "end")
    for name, style, attribute in sides:
        values = [(x(look.at_seconds), getattr(look, attribute)) for look in looks]
        points = [(px, y(value), value) for px, value in values if value is not None]
        drawing.polyline([(px, py) for px, py, _ in points], f"line {style}")
        radius = 3.5 if len(points) <= _MARKED_POINTS else 1.8
        for px, py, value in points:
            drawing.circle(px, py, radius, f"dot {style}", f"{name}: {milliseconds(value)}")


def _heat_cell(
    drawing: Drawing, x: float, y: float, width: float, height: float, psi: float | None, threshold: float, words: str
) -> None:
    if psi is None:
        drawing.rectangle(x + 1.5, y + 1.5, width - 3, height - 3, "bare", f"{words}: not judged", 4)
        drawing.text(x + width / 2, y + 17, "–", "quiet", "middle")  # noqa: RUF001
        return
    over = psi >= threshold
    heat = min(psi / (2 * threshold), 1.0) * 0.62
    style = "heat over" if over else "heat"
    drawing.element(
        "rect", style, f"{words}: {fixed(psi)} (threshold {number(threshold)})",
        x=x + 1.5, y=y + 1.5, width=width - 3, height=height - 3, rx=4.0, style=f"--h:{heat:.2f}",
    )  # fmt: skip
    if width >= 34:
        drawing.text(x + width / 2, y + 17, fixed(psi, 2), "strong small" if over else "small", "middle")


def _thresholds(thresholds: Sequence[float]) -> str:
    return " or ".join(number(each) for each in sorted(set(thresholds)))


def _badge(drawing: Drawing, x: float, y: float, status: Status, words: str) -> None:
    drawing.circle(x, y, 9, f"dot {status}", words)
    drawing.text(x, y + 4, _MARKS[status], "invert small", "middle")


def _runs(values: Sequence[Value]) -> list[list[Value]]:
    runs: list[list[Value]] = [[]]
    for value in values:
        if value.value is None:
            runs.append([])
        else:
            runs[-1].append(value)
    return [run for run in runs if run]


def _traffic_steps(looks: Sequence[TrafficLook], x: Scale, y: Scale) -> list[Point]:
    steps: list[Point] = [(x(0.0), y(looks[0].percent))]
    for before, look in zip([looks[0], *looks], looks, strict=False):
        if look.percent != before.percent:
            steps += [(x(before.at_seconds), y(before.percent)), (x(before.at_seconds), y(look.percent))]
        steps.append((x(look.at_seconds), y(look.percent)))
    return steps


def _lanes(labels: Sequence[tuple[float, float]], first: datetime, last: datetime, width: float) -> list[int]:
    """Put labels, given as (time, width in pixels), into lanes in which none covers another."""
    x = Scale((first.timestamp(), last.timestamp()), (66, width - 104))
    ends: list[float] = []
    lanes = []
    for moment, wide in labels:
        start = x(moment) - 12 if x(moment) + wide <= width else x(moment) - wide
        lane = next((index for index, end in enumerate(ends) if end <= start), len(ends))
        ends[lane : lane + 1] = [start + wide]
        lanes.append(lane)
    return lanes
