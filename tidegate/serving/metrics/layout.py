"""Where each count is kept: the cells of one worker, an array of unsigned 64-bit numbers, laid out family by family."""

from collections.abc import Sequence

import msgspec

from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.names import (
    BATCH_BOUNDS,
    BATCH_QUEUE_ROWS,
    BATCH_REQUESTS,
    BATCH_ROWS,
    BINS,
    CONNECTIONS,
    FEATURE_MISSING,
    LATENCY,
    LATENCY_BOUNDS,
    LOG_DROPPED_ROWS,
    LOG_FAILURES,
    LOG_QUEUE_ROWS,
    LOG_ROWS,
    LOG_SAMPLED_OUT_ROWS,
    METRICS,
    PREDICTIONS,
    PROVIDER_FALLBACK,
    REJECTED,
    REJECTIONS,
    REQUESTS,
    STATUSES,
    UNUSUAL_VALUES,
    WORKERS_READY,
)

QUEUE_DROPS, STORE_DROPS = "queue-full", "store-failed"
PROCESS_ID = "process id"  # no metric itself: those of the process are read by it
ONE_ROW_EACH = "runs of requests of one row each"  # counted once instead of in two histograms: nearly all runs are such
MOST_OF_ONE_ROW = 64


class Family(msgspec.Struct, frozen=True):
    """The cells of one metric.

    Attributes:
        metric: Its name.
        values: The values of its label, a cell each; of a histogram the upper bounds, which are followed by a cell for all
            above, and one for the sum. Without a label: one empty text.
    """

    metric: str
    values: tuple[str, ...] = ("",)

    @property
    def size(self) -> int:
        """Number of its cells."""
        return len(self.values) + 2 if self.is_histogram else len(self.values)

    @property
    def is_histogram(self) -> bool:
        """Whether its cells are buckets."""
        metric = METRICS.get(self.metric)
        return metric is not None and metric.kind == "histogram"


class Layout:
    """Which cell counts what.

    Attributes:
        families: In the order of their cells.
        at: The first cell of each metric.
        size: Number of cells.
    """

    def __init__(self, families: Sequence[Family]) -> None:
        """Lay the families out one after the other."""
        self.families = tuple(families)
        self.at: dict[str, int] = {}
        self.size = 0
        for family in self.families:
            self.at[family.metric] = self.size
            self.size += family.size

    def cells(self, metric: str) -> dict[str, int]:
        """Return the cell of each of a metric's label values; an empty dict of a metric that is not counted here."""
        return {
            value: self.at[metric] + index
            for family in self.families
            if family.metric == metric
            for index, value in enumerate(family.values)
        }


class MetricsLayout(Layout):
    """The cells of one served version; the same in every worker."""

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the cells for a model's task, feature views and inputs."""
        binary = manifest.task == "binary-classification"
        latencies = tuple(f"{bound:.10g}" for bound in LATENCY_BOUNDS)
        sizes = tuple(map(str, BATCH_BOUNDS))
        views = tuple(view.name for view in manifest.features.views) if manifest.features else ()
        super().__init__(
            (
                Family(REQUESTS, tuple(map(str, STATUSES))),
                Family(LATENCY, latencies),
                Family(REJECTED, REJECTIONS),
                Family(
                    PREDICTIONS, tuple(f"{low / BINS:.1f}-{(low + 1) / BINS:.1f}" for low in range(BINS)) if binary else ("",)
                ),
                Family(FEATURE_MISSING, views),
                Family(UNUSUAL_VALUES, tuple(spec.name for spec in manifest.signature.inputs)),
                Family(ONE_ROW_EACH, tuple(map(str, range(1, MOST_OF_ONE_ROW + 1)))),
                Family(BATCH_ROWS, sizes),
                Family(BATCH_REQUESTS, sizes),
                Family(BATCH_QUEUE_ROWS),
                Family(PROVIDER_FALLBACK),
                Family(LOG_ROWS),
                Family(LOG_SAMPLED_OUT_ROWS),
                Family(LOG_DROPPED_ROWS, (QUEUE_DROPS, STORE_DROPS)),
                Family(LOG_FAILURES),
                Family(LOG_QUEUE_ROWS),
            )
        )


WORKER_LAYOUT = Layout((Family(WORKERS_READY), Family(CONNECTIONS), Family(PROCESS_ID)))
