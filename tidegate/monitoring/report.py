"""The Evidently report of a drift check. The only module that imports Evidently, which takes seconds.

Evidently's own drift metrics need raw rows and test each column several times; the custom metrics here carry what
was counted already, so that a report costs the same for a thousand rows as for a million, and its numbers are the check's.
A snapshot holds the histograms too, and loads again with `evidently.core.report.Snapshot.loads` once this module is imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from evidently import Dataset, Report
from evidently.core.metric_types import SingleValue, SingleValueCalculation, SingleValueMetric
from evidently.legacy.renderers.html_widgets import CounterData, WidgetSize, counter, plotly_data, table_data
from evidently.tests import lt

from tidegate.monitoring.records import ColumnDrift, DriftCheck

if TYPE_CHECKING:
    # NOTE: Evidently's registry outlives the interpreter's shutdown and keeps what this module imports alive with it;
    # DuckDB then complains on stderr, so it must not be reachable from here.
    from tidegate.monitoring.drift import ColumnHistograms

_COLORS = {"reference": "#8a94a6", "window": "#d9480f"}


@dataclass(frozen=True, slots=True)
class DriftReport:
    """A rendered report: a self-contained HTML page, and the Evidently snapshot as JSON."""

    html: str
    snapshot: str


class DriftSummary(SingleValueMetric):  # type: ignore[misc]
    """Share of drifted input columns, with the check's outcome in words and every column's numbers in a table."""

    summary: str
    counters: dict[str, str]
    rows: dict[str, list[str]]
    drifted_share: float


class DriftSummaryCalculation(SingleValueCalculation[DriftSummary]):  # type: ignore[misc]
    """Shows what the check measured."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> tuple[SingleValue, None]:
        """Return the measured share with its widgets."""
        result = self.result(self.metric.drifted_share)
        result.widget = [
            counter(
                title=self.metric.summary,
                counters=[CounterData.string(label, value) for label, value in self.metric.counters.items()],
            ),
            table_data(
                title="Columns, farthest moved first",
                column_names=["Column", "PSI", "Drifted", "Missing in reference", "Missing in window"],
                data=[[column, *numbers] for column, numbers in self.metric.rows.items()],
            ),
        ]
        return result, None

    def display_name(self) -> str:
        """Name the metric."""
        return "Share of drifted inputs"


class HistogramDrift(SingleValueMetric):  # type: ignore[misc]
    """Population stability index of one column, with both histograms."""

    column: str
    psi: float
    bins: dict[str, list[str]]
    shares: dict[str, list[float]]


class HistogramDriftCalculation(SingleValueCalculation[HistogramDrift]):  # type: ignore[misc]
    """Shows what the check counted."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> tuple[SingleValue, None]:
        """Return the measured index with its plot."""
        labels = self.metric.bins["labels"]
        places = list(range(len(labels)))
        bars = [
            {"type": "bar", "name": name, "x": places, "y": share, "marker": {"color": _COLORS[name]}}
            for name, share in self.metric.shares.items()
        ]
        layout = {"yaxis": {"tickformat": ".0%"}, "xaxis": {"tickvals": places, "ticktext": labels}, "height": 320}
        result = self.result(self.metric.psi)
        title = f"{self.metric.column}: PSI {self.metric.psi:.3f}"
        result.widget = [plotly_data(title=title, data=bars, layout=layout, size=WidgetSize.HALF)]
        return result, None

    def display_name(self) -> str:
        """Name the metric."""
        return f"PSI of {self.metric.column}"


class AccuracyLoss(SingleValueMetric):  # type: ignore[misc]
    """Loss of ROC AUC on labelled rows against the reference."""

    loss: float
    counters: dict[str, str]


class AccuracyLossCalculation(SingleValueCalculation[AccuracyLoss]):  # type: ignore[misc]
    """Shows what the check measured."""

    def calculate(self, context: Any, current_data: Any, reference_data: Any) -> tuple[SingleValue, None]:
        """Return the measured loss with its counters."""
        result = self.result(self.metric.loss)
        counters = [CounterData.string(label, value) for label, value in self.metric.counters.items()]
        result.widget = [counter(title="Concept drift: accuracy on late labels", counters=counters)]
        return result, None

    def display_name(self) -> str:
        """Name the metric."""
        return "Loss of ROC AUC on late labels"


def render_report(
    check: DriftCheck, histograms: "Mapping[str, ColumnHistograms]", *, psi_threshold: float, prediction_psi_threshold: float
) -> DriftReport:
    """Render a drift check.

    Args:
        check: What was measured.
        histograms: Both histograms of every watched input and of the predicted probability, by column.
        psi_threshold: From which an input has drifted; its test fails.
        prediction_psi_threshold: From which the prediction has drifted; its test fails.
    """
    metrics = [
        _summary(check),
        *_accuracy(check),
        _histogram(check.prediction, histograms, prediction_psi_threshold),
        *(_histogram(column, histograms, psi_threshold) for column in check.columns),
    ]
    measured = pd.DataFrame({"psi": [column.psi for column in (check.prediction, *check.columns)]})
    snapshot = Report(metrics).run(Dataset.from_pandas(measured), None)
    return DriftReport(html=snapshot.get_html_str(as_iframe=False), snapshot=snapshot.dumps())


def _summary(check: DriftCheck) -> DriftSummary:
    window = f"{check.window_start:%Y-%m-%d %H:%M} to {check.window_end:%Y-%m-%d %H:%M} UTC"
    return DriftSummary(
        drifted_share=check.drifted_share,
        summary=f"{check.model} version {check.version}: {check.summary}",
        counters={
            "window": window,
            "predictions": f"{check.rows:,}",
            "drifted inputs": f"{sum(column.drifted for column in check.columns)} of {len(check.columns)}",
        },
        rows={column.column: _numbers(column) for column in (check.prediction, *check.columns)},
    )


def _numbers(column: ColumnDrift) -> list[str]:
    return [
        f"{column.psi:.3f}",
        "yes" if column.drifted else "no",
        f"{column.missing_reference:.1%}",
        f"{column.missing_current:.1%}",
    ]


def _accuracy(check: DriftCheck) -> list[AccuracyLoss]:
    concept = check.concept
    if concept.loss is None:
        return []
    return [
        AccuracyLoss(
            loss=concept.loss,
            counters={
                "ROC AUC, reference": f"{concept.reference:.3f}",
                "ROC AUC, window": f"{concept.window:.3f}",
                "loss (95 % interval)": f"{concept.loss:.3f} ({concept.loss_low:.3f} to {concept.loss_high:.3f})",
                "labelled rows": f"{concept.labelled_rows:,}",
            },
            tests=[lt(concept.bound)],
        )
    ]


def _histogram(column: ColumnDrift, histograms: "Mapping[str, ColumnHistograms]", threshold: float) -> HistogramDrift:
    histogram = histograms[column.column]
    return HistogramDrift(
        column=column.column,
        psi=column.psi,
        bins={"labels": list(histogram.bins.labels)},
        shares={"reference": _shares(histogram.reference), "window": _shares(histogram.current)},
        tests=[lt(threshold)],
    )


def _shares(counts: np.ndarray) -> list[float]:
    return [round(float(share), 6) for share in counts / counts.sum()]
