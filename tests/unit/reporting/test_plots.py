"""Plots: valid SVG, what they say to a screen reader, absence, and escaping."""

import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.reporting.pareto import ParetoAxes, ParetoPoint, pareto
from tidegate.reporting.plots import (
    LatencyRow,
    calibration,
    confusion_matrix,
    distribution_pair,
    latency_percentiles,
    mini_histogram,
    roc_curve,
)
from tidegate.reporting.svg import Drawing, Scale, month_starts, spread
from tidegate.reporting.timelines import Mark, Series, TrafficLook, Value, canary_traffic, drift_heatmap, lived_through

NASTY = "<b>&\"'"
START, END = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC)
LABELS = np.array([0, 0, 1, 1])
SCORES = np.array([0.1, 0.4, 0.35, 0.8])
AXES = ParetoAxes("p99, ms", NASTY)
PLOTS = [
    pytest.param(roc_curve(LABELS, SCORES, NASTY), id="roc"),
    pytest.param(confusion_matrix([[3, 1], [0, 0]], [NASTY, "late"]), id="confusion"),
    pytest.param(calibration(LABELS, SCORES), id="calibration"),
    pytest.param(latency_percentiles([LatencyRow(NASTY, 1, 2, 30)]), id="latency"),
    pytest.param(latency_percentiles([]), id="latency of nothing"),
    pytest.param(pareto([ParetoPoint(NASTY, 0.2, 0.7, "selected"), ParetoPoint("b", 3, 0.6, "failed")], AXES), id="pareto"),
    pytest.param(pareto([], AXES), id="pareto of nothing"),
    pytest.param(distribution_pair([0, 1, 2], [3, 4], [0, 0], NASTY), id="distribution"),
    pytest.param(mini_histogram([], NASTY), id="empty histogram"),
    pytest.param(lived_through(START, END, [], [], NASTY, "ROC AUC", [Mark(START, NASTY)], []), id="nothing lived through"),
    pytest.param(drift_heatmap([NASTY], [(START, END)], [[0.3]], [0.2]), id="heatmap"),
    pytest.param(drift_heatmap([], [], [], []), id="heatmap of nothing"),
    pytest.param(canary_traffic([TrafficLook(0.0, 5, None, None, "fail", NASTY)]), id="one look at second zero"),
    pytest.param(canary_traffic([]), id="no look"),
]


@pytest.mark.parametrize("plot", PLOTS)
def test_plot_is_well_formed_and_described(plot):
    root = ElementTree.fromstring(str(plot))  # noqa: S314

    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert NASTY not in str(plot)
    assert "nan" not in str(plot).lower()
    assert {element.tag for element in root.iter()} <= {"svg", "text", "line", "rect", "circle", "polyline", "polygon", "title"}


def test_area_under_the_curve():
    assert "area 0.750" in roc_curve(LABELS, SCORES)


def test_missing_weeks_break_the_line():
    weeks = [START + timedelta(days=7 * number) for number in range(6)]
    values = tuple(Value(a, b, None if number == 2 else 0.7) for number, (a, b) in enumerate(pairwise(weeks)))

    plot = lived_through(START, END, [Series("v1", "s1", values)], [], "share late", "ROC AUC", [], [])

    assert plot.count("<polyline") == 2
    assert "No labels arrived." in plot
    assert "No drift check was made." in plot


def test_only_drifted_cells_are_outlined():
    plot = drift_heatmap(["a"], [(START, END)] * 3, [[0.2, 0.19, None]], [0.2])

    assert plot.count('class="heat over"') == 1
    assert plot.count('class="heat"') == 1
    assert "not judged" in plot
    assert "threshold of 0.2." in plot


def test_judge_marks_only_its_decisions():
    looks = [TrafficLook(second, 5, 2.0, 2.0, "none", "waits") for second in range(1, 5)]

    plot = canary_traffic([*looks, TrafficLook(5, 5, 2.0, 2.0, "pass", "advance")])

    assert plot.count('r="9"') == 1
    assert 'aria-label="Canary traffic: 5 %, advance"' in plot


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_lie_inside_their_scale(low, extent):
    scale = Scale((low, low + extent), (0, 100))

    assert all(-1e-3 <= scale(tick) <= 100 + 1e-3 for tick in scale.ticks()) or extent < abs(low) * 1e-9


@given(st.lists(st.floats(0, 300), max_size=8))
def test_spread_keeps_order_and_gaps(wanted):
    placed = spread(wanted, 17, 0, 300)

    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert all(placed[b] - placed[a] >= 17 - 1e-6 for a, b in pairwise(order))


def test_months_begin_within_the_span():
    assert [month.month for month in month_starts(START + timedelta(days=1), END)] == [5, 6]


def test_drawing_escapes_attributes_and_titles():
    drawing = Drawing(10, 10, NASTY)
    drawing.circle(1, 1, 1, NASTY, NASTY)

    root = ElementTree.fromstring(str(drawing.markup()))  # noqa: S314
    assert root.get("aria-label") == NASTY
