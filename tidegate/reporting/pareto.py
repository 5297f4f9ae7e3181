"""The Pareto plot of a selection: how good every variant is against what it costs, and which are beaten by none."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from markupsafe import Markup

from tidegate.reporting.formats import number
from tidegate.reporting.svg import Drawing, Scale, spread

Outcome = Literal["selected", "survived", "failed"]

_TOP, _LEFT = 36.0, 78.0
_LABEL_GAP = 17.0
_MARKS = {"selected": "✓ ", "survived": "", "failed": "✕ "}
_STYLES = {"selected": "pass", "survived": "s1", "failed": "fail"}


@dataclass(frozen=True, slots=True)
class ParetoPoint:
    """One variant: what it costs (above zero, the lower the better), how good it is, and what became of it."""

    name: str
    cost: float
    quality: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class ParetoAxes:
    """What the two numbers are; of an error the lower quality is the better one, and up is better all the same."""

    cost: str
    quality: str
    higher_is_better: bool = True


def pareto(points: Sequence[ParetoPoint], axes: ParetoAxes, width: float = 680) -> Markup:
    """Draw quality against cost (log scale) with every variant labelled and the front of the survivors as a stepped line."""
    title = f"{axes.quality} against {axes.cost}: " + "; ".join(_words(point, axes) for point in points)
    height = max(400.0, _LABEL_GAP * len(points) + 110)
    drawing = Drawing(width, height, title)
    if not points:
        drawing.text(width / 2, height / 2, "No variant was measured.", "quiet", "middle")
        return drawing.markup()
    x, y = _scales(drawing, points, axes)
    front = _front([point for point in points if point.outcome != "failed"], axes)
    drawing.polyline(_stepped([(x(np.log10(point.cost)), y(point.quality)) for point in front]), "line thin s3")
    ordered = sorted(points, key=lambda point: (y(point.quality), -point.cost))
    placed = spread([y(point.quality) for point in ordered], _LABEL_GAP, 30, height - 62)
    label_x = max(x(float(np.log10(point.cost))) for point in points) + 44
    for point, label_y in zip(ordered, placed, strict=True):
        _draw(drawing, point, (x(float(np.log10(point.cost))), y(point.quality)), (label_x, label_y), axes)
    drawing.legend(_LEFT, 16, [("pass", "selected"), ("s1", "passed its gates"), ("fail", "failed a gate")])
    return drawing.markup()


def _draw(
    drawing: Drawing, point: ParetoPoint, place: tuple[float, float], label: tuple[float, float], axes: ParetoAxes
) -> None:
    style = _STYLES[point.outcome]
    drawing.line(place, (label[0] - 5, label[1]), "guide")
    if point.outcome == "selected":
        drawing.circle(*place, 12, f"halo {style}")
    drawing.circle(*place, 6.5, f"{'ring' if point.outcome == 'failed' else 'dot'} {style}", _words(point, axes))
    emphasis = "on " + style if point.outcome == "selected" else "label"
    drawing.text(label[0], label[1] + 4, _MARKS[point.outcome] + point.name, emphasis)


def _scales(drawing: Drawing, points: Sequence[ParetoPoint], axes: ParetoAxes) -> tuple[Scale, Scale]:
    logs = [float(np.log10(point.cost)) for point in points]
    values = [point.quality for point in points]
    bottom, right = drawing.height - 50, drawing.width - 16
    spread_of_values = max(values) - min(values)
    margin = max(spread_of_values * 0.18, abs(max(values)) * 0.002, 1e-12)
    x = Scale((min(logs) - 0.12, max(logs) + max(0.45, 0.4 * (max(logs) - min(logs)))), (_LEFT, right))
    ends = (bottom, _TOP) if axes.higher_is_better else (_TOP, bottom)
    y = Scale((min(values) - margin, max(values) + margin), ends)
    for tick in y.ticks(5):
        drawing.line((_LEFT, y(tick)), (right, y(tick)), "grid")
        drawing.text(_LEFT - 10, y(tick) + 4, f"{tick:.4g}", "tick", "end")
    powers = range(int(np.floor(x.low)), int(np.ceil(x.high)) + 1)
    for cost in (factor * 10.0**power for power in powers for factor in (1, 2, 5)):
        place = float(np.log10(cost))
        if x.low <= place <= x.high:
            drawing.line((x(place), _TOP), (x(place), bottom), "grid")
            drawing.text(x(place), bottom + 18, f"{cost:g}", "tick", "middle")
    drawing.text((_LEFT + right) / 2, drawing.height - 10, f"{axes.cost} (log scale; left is better)", "axis", "middle")
    drawing.turned_text(18, (bottom + _TOP) / 2, f"{axes.quality} (up is better)", "axis")
    return x, y


def _front(points: Sequence[ParetoPoint], axes: ParetoAxes) -> list[ParetoPoint]:
    sign = 1 if axes.higher_is_better else -1
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda each: (each.cost, -sign * each.quality)):
        if not front or sign * point.quality > sign * front[-1].quality:
            front.append(point)
    return front


def _stepped(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    steps = list(points[:1])
    for before, after in pairwise(points):
        steps += [(after[0], before[1]), after]
    return steps


def _words(point: ParetoPoint, axes: ParetoAxes) -> str:
    return f"{point.name}: {axes.quality} {number(point.quality)}, {axes.cost} {number(point.cost)}, {point.outcome}"
