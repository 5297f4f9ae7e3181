"""Plots of models and data as SVG: ROC curve, confusion matrix, calibration, latency, distributions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from tidegate.reporting.formats import count, fixed, milliseconds, number, percent
from tidegate.reporting.svg import Drawing, Scale, text_width

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.integer]

_CURVE_POINTS = 200


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Percentiles of one version or variant, in milliseconds."""

    name: str
    p50_ms: float
    p95_ms: float
    p99_ms: float


def roc_curve(labels: Integers, probabilities: Floats, name: str = "model") -> Markup:
    """Draw the ROC curve of 0/1 `labels` against `probabilities` of class 1, both of shape [n]."""
    false_rate, true_rate = _roc_points(labels, probabilities)
    area = float(np.trapezoid(true_rate, false_rate))
    drawing = Drawing(520, 400, f"ROC curve of {name}, area {area:.3f}")
    x, y = _unit_axes(drawing, "false positive rate", "true positive rate")
    drawing.line((x(0), y(0)), (x(1), y(1)), "guide")
    thin = np.unique(np.linspace(0, len(false_rate) - 1, _CURVE_POINTS).astype(int))
    points = [(x(float(false_rate[i])), y(float(true_rate[i]))) for i in thin]
    drawing.polygon([*points, (x(1), y(0)), (x(0), y(0))], "band s1")
    drawing.polyline(points, "line s1")
    drawing.text(x(0.97), y(0.06), f"area {area:.3f}", "on s1", "end")
    return drawing.markup()


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Markup:
    """Draw a square matrix of counts: `counts[truth][answer]`, shaded by its share of the row."""
    cell, left, top = 132.0, 120.0, 46.0
    drawing = Drawing(left + cell * len(classes) + 16, top + 92 * len(classes) + 12, "Confusion matrix")
    for column, name in enumerate(classes):
        drawing.text(left + cell * (column + 0.5), top - 12, f"answered {name}", "label", "middle")
    for row, name in enumerate(classes):
        total = sum(counts[row])
        drawing.text(left - 12, top + 92 * (row + 0.5) + 4, f"truly {name}", "label", "end")
        for column, answered in enumerate(classes):
            amount = counts[row][column]
            share = amount / total if total else 0.0
            place = (left + cell * column + 2, top + 92 * row + 2)
            drawing.rectangle(*place, cell - 4, 88, "bare", f"truly {name}, answered {answered}: {amount:,}", 8)
            drawing.rectangle(place[0], place[1] + 88 * (1 - share), cell - 4, 88 * share, "pale s1", round_=8)
            drawing.text(place[0] + cell / 2 - 2, place[1] + 42, count(amount), "strong", "middle")
            drawing.text(place[0] + cell / 2 - 2, place[1] + 61, percent(share), "label", "middle")
    return drawing.markup()


def calibration(labels: Integers, probabilities: Floats, bins: int = 10) -> Markup:
    """Draw the observed share of class 1 against the mean predicted probability, in bins of equal row counts."""
    drawing = Drawing(520, 400, "Calibration: observed share against predicted probability")
    x, y = _unit_axes(drawing, "predicted probability", "observed share")
    drawing.line((x(0), y(0)), (x(1), y(1)), "guide")
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    points = [(float(probabilities[part].mean()), float(labels[part].mean()), len(part)) for part in parts]
    drawing.polyline([(x(predicted), y(observed)) for predicted, observed, _ in points], "line s1")
    for predicted, observed, rows in points:
        note = f"predicted {percent(predicted)}, observed {percent(observed)}, {rows:,} rows"
        drawing.circle(x(predicted), y(observed), 5, "dot s1", note)
    return drawing.markup()


def latency_percentiles(rows: Sequence[LatencyRow], width: float = 520) -> Markup:
    """Draw p50, p95 and p99 of every row on one axis of milliseconds."""
    height = 52.0 * len(rows) + 66
    drawing = Drawing(width, height, "Latency percentiles: " + "; ".join(_latency_words(row) for row in rows))
    left = 24 + max((1.15 * text_width(row.name) for row in rows), default=0.0)  # the names are bold
    x = Scale((0.0, max((row.p99_ms for row in rows), default=1.0) * 1.04), (left, width - 64))
    bottom = height - 36
    drawing.legend(left, 16, [("s1", "p50"), ("pale s1", "p95"), ("pale s0", "p99")])
    for tick in x.ticks(4):
        drawing.line((x(tick), 30), (x(tick), bottom), "grid")
        drawing.text(x(tick), bottom + 18, number(tick), "tick", "middle")
    drawing.text(width - 12, bottom + 18, "ms", "axis", "end")
    for index, row in enumerate(rows):
        top = 38 + 52 * index
        drawing.text(left - 12, top + 21, row.name, "strong", "end")
        drawing.rectangle(left, top + 13, x(row.p99_ms) - left, 6, "pale s0", _latency_words(row), 3)
        drawing.rectangle(left, top + 9, x(row.p95_ms) - left, 14, "pale s1", _latency_words(row), 3)
        drawing.rectangle(left, top + 5, x(row.p50_ms) - left, 22, "bar s1", _latency_words(row), 3)
        drawing.text(x(row.p99_ms) + 8, top + 21, fixed(row.p99_ms, 1 if row.p99_ms >= 10 else 2), "label")
    drawing.line((left, 30), (left, bottom), "base")
    return drawing.markup()


def distribution_pair(
    edges: Sequence[float], reference: Sequence[float], current: Sequence[float], column: str, width: float = 520
) -> Markup:
    """Draw two histograms over the same bins as shares: the reference filled, the current window as an outline."""
    drawing = Drawing(width, 240, f"Distribution of {column}: reference and current window")
    before, after = _shares(reference), _shares(current)
    x = Scale((edges[0], edges[-1]), (52, width - 14))
    y = Scale((0.0, float(max(before.max(initial=0), after.max(initial=0), 1e-9)) * 1.08), (200, 34))
    _grid(drawing, x, y, 200, width - 14, percentages=True)
    for index, share in enumerate(before):
        left, right = x(edges[index]), x(edges[index + 1])
        drawing.rectangle(left + 0.5, y(share), right - left - 1, 200 - y(share), "pale s0", f"reference {percent(share)}")
    outline = [point for i, s in enumerate(after) for point in ((x(edges[i]), y(s)), (x(edges[i + 1]), y(s)))]
    drawing.polyline([(x(edges[0]), 200), *outline, (x(edges[-1]), 200)], "line s2")
    drawing.legend(56, 18, [("pale s0", "reference"), ("s2", "current window")])
    return drawing.markup()


def mini_histogram(counts: Sequence[int], description: str) -> Markup:
    """Draw a histogram small enough for a table cell."""
    drawing = Drawing(120, 28, description)
    top = max(max(counts, default=0), 1)
    step = 120 / max(len(counts), 1)
    for index, amount in enumerate(counts):
        height = max(26 * amount / top, 1.0 if amount else 0.0)
        drawing.rectangle(index * step + 0.5, 27 - height, step - 1, height, "bar s1", count(amount))
    drawing.line((0, 27.5), (120, 27.5), "grid")
    return drawing.markup()


def _roc_points(labels: Integers, probabilities: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(-probabilities, kind="stable")
    hits = labels[order].astype(np.float64)
    last_of_ties = np.append(np.flatnonzero(np.diff(probabilities[order])), len(order) - 1)
    true_count, false_count = np.cumsum(hits)[last_of_ties], np.cumsum(1 - hits)[last_of_ties]
    return (
        np.concatenate([[0.0], false_count / max(float((1 - hits).sum()), 1.0)]),
        np.concatenate([[0.0], true_count / max(float(hits.sum()), 1.0)]),
    )


def _unit_axes(drawing: Drawing, below: str, beside: str) -> tuple[Scale, Scale]:
    x, y = Scale((0, 1), (62, drawing.width - 16)), Scale((0, 1), (drawing.height - 48, 14))
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawing.line((x(0), y(tick)), (x(1), y(tick)), "grid")
        drawing.text(x(0) - 9, y(tick) + 4, f"{tick:g}", "tick", "end")
        drawing.text(x(tick), y(0) + 18, f"{tick:g}", "tick", "middle")
    drawing.text((x(0) + x(1)) / 2, drawing.height - 8, below, "axis", "middle")
    drawing.turned_text(16, (y(0) + y(1)) / 2, beside, "axis")
    return x, y


def _grid(drawing: Drawing, x: Scale, y: Scale, bottom: float, right: float, *, percentages: bool) -> None:
    for tick in y.ticks(4):
        drawing.line((x.first, y(tick)), (right, y(tick)), "grid")
        drawing.text(x.first - 8, y(tick) + 4, percent(tick, 0) if percentages else number(tick), "tick", "end")
    for tick in x.ticks(5):
        drawing.text(x(tick), bottom + 18, number(tick), "tick", "middle")


def _shares(counts: Sequence[float]) -> npt.NDArray[np.float64]:
    amounts = np.asarray(counts, dtype=np.float64)
    return amounts / amounts.sum() if amounts.sum() > 0 else amounts


def _latency_words(row: LatencyRow) -> str:
    return f"{row.name}: p50 {milliseconds(row.p50_ms)}, p95 {milliseconds(row.p95_ms)}, p99 {milliseconds(row.p99_ms)}"
