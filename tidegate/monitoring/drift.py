"""Data and prediction drift: the window's histograms held against the reference's, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tidegate.monitoring.histogram import Bins, choose_bins, count_bins
from tidegate.monitoring.psi import population_stability_index
from tidegate.monitoring.records import ColumnDrift


@dataclass(frozen=True, slots=True)
class ColumnHistograms:
    """One column's counts in the reference and in the window, over the same bins; the last bin is missing values."""

    bins: Bins
    reference: np.ndarray
    current: np.ndarray


def compare_columns(reference: pa.Table, window: pa.Table) -> dict[str, ColumnHistograms]:
    """Count both tables over bins that the reference fixes, for every column of the reference.

    Raises:
        MonitoringError: The window lacks a column or holds another kind of value in it.
    """
    bins = choose_bins(reference)
    expected, found = count_bins(reference, bins), count_bins(window, bins)
    return {name: ColumnHistograms(bins[name], expected[name], found[name]) for name in bins}


def measure_drift(histograms: Mapping[str, ColumnHistograms], threshold: float) -> tuple[ColumnDrift, ...]:
    """Return how far each column moved, farthest first; a column has drifted from a PSI of `threshold`."""
    measured = [_measure(name, histogram, threshold) for name, histogram in histograms.items()]
    return tuple(sorted(measured, key=lambda column: (-column.psi, column.column)))


def _measure(name: str, histogram: ColumnHistograms, threshold: float) -> ColumnDrift:
    psi = population_stability_index(histogram.reference, histogram.current)
    return ColumnDrift(
        column=name,
        psi=psi,
        drifted=psi >= threshold,
        missing_reference=float(histogram.reference[-1] / histogram.reference.sum()),
        missing_current=float(histogram.current[-1] / histogram.current.sum()),
    )
