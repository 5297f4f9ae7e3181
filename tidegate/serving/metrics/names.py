"""The one list of metrics, with their labels and buckets: the server, the judge, alerts and dashboards go by it."""

import math
from dataclasses import dataclass
from typing import Literal

REQUESTS = "tidegate_requests_total"
LATENCY = "tidegate_request_latency_seconds"
REJECTED = "tidegate_rejected_total"
PREDICTIONS = "tidegate_predictions_total"
FEATURE_MISSING = "tidegate_feature_missing_total"
UNUSUAL_VALUES = "tidegate_unusual_values_total"
BATCH_ROWS = "tidegate_batch_rows"
BATCH_REQUESTS = "tidegate_batch_requests"
BATCH_QUEUE_ROWS = "tidegate_batch_queue_rows"
PROVIDER_FALLBACK = "tidegate_provider_fallback"
LOG_ROWS = "tidegate_log_rows_total"
LOG_SAMPLED_OUT_ROWS = "tidegate_log_sampled_out_rows_total"
LOG_DROPPED_ROWS = "tidegate_log_dropped_rows_total"
LOG_FAILURES = "tidegate_log_write_failures_total"
LOG_QUEUE_ROWS = "tidegate_log_queue_rows"
WORKERS_READY = "tidegate_workers_ready"
CONNECTIONS = "tidegate_connections_open"
PROCESS_MEMORY = "process_resident_memory_bytes"
PROCESS_CPU = "process_cpu_seconds_total"
PROCESS_FILES = "process_open_fds"
PROCESS_START = "process_start_time_seconds"
PROCESS_METRICS = (PROCESS_MEMORY, PROCESS_CPU, PROCESS_FILES, PROCESS_START)

COMMON_LABELS = ("model", "version", "revision")
SERVER_LABELS = ("model", "revision")  # of what a server has one, whatever versions it serves


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As Prometheus knows it.
        kind: How it is to be read.
        labels: Its own, beside `common`.
        purpose: Its help text.
        unit: What one count of a cell is worth in the metric's unit: a latency's sum is counted in nanoseconds.
        common: The labels that tell whose it is.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    purpose: str
    unit: float = 1
    common: tuple[str, ...] = COMMON_LABELS


METRICS = {
    metric.name: metric
    for metric in (
        Metric(REQUESTS, "counter", ("status",), "Inference requests by HTTP status."),
        Metric(LATENCY, "histogram", (), "Latency of answered inference requests.", unit=1e-9),
        Metric(REJECTED, "counter", ("reason",), "Inference requests that were not run, or not answered once they were."),
        Metric(PREDICTIONS, "counter", ("bin",), "Predictions; those of a binary classification by their probability."),
        Metric(FEATURE_MISSING, "counter", ("view",), "Rows without a usable row of a view."),
        Metric(UNUSUAL_VALUES, "counter", ("input",), "Values that the training data never held."),
        Metric(BATCH_ROWS, "histogram", (), "Rows in one run of the graph."),
        Metric(BATCH_REQUESTS, "histogram", (), "Requests in one run of the graph."),
        Metric(BATCH_QUEUE_ROWS, "gauge", (), "Rows waiting for the graph."),
        Metric(PROVIDER_FALLBACK, "gauge", (), "1 if the model runs on the CPU for want of the package's accelerator."),
        Metric(LOG_ROWS, "counter", (), "Rows written to the inference log."),
        Metric(LOG_SAMPLED_OUT_ROWS, "counter", (), "Rows that the inference log left out on purpose, as its share says."),
        Metric(LOG_DROPPED_ROWS, "counter", ("reason",), "Rows that the inference log lost."),
        Metric(LOG_FAILURES, "counter", (), "Failed writes to the object store."),
        Metric(LOG_QUEUE_ROWS, "gauge", (), "Rows waiting to be logged."),
        Metric(WORKERS_READY, "gauge", (), "Workers that answer requests.", common=SERVER_LABELS),
        Metric(CONNECTIONS, "gauge", (), "Open connections of callers.", common=SERVER_LABELS),
        Metric(PROCESS_MEMORY, "gauge", ("worker",), "Resident memory.", common=SERVER_LABELS),
        Metric(PROCESS_CPU, "counter", ("worker",), "Processor time, of user and system.", common=SERVER_LABELS),
        Metric(PROCESS_FILES, "gauge", ("worker",), "Open file descriptors.", common=SERVER_LABELS),
        Metric(PROCESS_START, "gauge", ("worker",), "When the process started, in seconds since 1970.", common=SERVER_LABELS),
    )
}

# What the drift check pushes, since it ends before it could be scraped; with the labels `namespace` and `model`.
DRIFT_CHECKED = "tidegate_drift_checked_timestamp_seconds"
DRIFT_DETECTED = "tidegate_drift_detected"
DRIFT_INDEX = "tidegate_drift_psi"

PUSHED_METRICS = {
    metric.name: metric
    for metric in (
        Metric(DRIFT_CHECKED, "gauge", (), "When drift was last checked, by the clock on the wall."),
        Metric(DRIFT_DETECTED, "gauge", ("kind",), "1 if the last window drifted: data, prediction or concept."),
        Metric(DRIFT_INDEX, "gauge", ("column",), "Population stability index of an input in the last window."),
    )
}

STATUSES = (200, 400, 404, 405, 408, 413, 415, 429, 431, 499, 500, 503, 504)  # 499: the caller was gone before the answer

QUEUE_FULL = "queue-full"  # answered 429
DEADLINE = "deadline"  # answered 504, not computed
ABANDONED = "abandoned"  # the caller was gone before it was computed
NOT_LOGGED = "not-logged"  # computed, but answered 503: its audit record was not kept
REJECTIONS = (QUEUE_FULL, DEADLINE, ABANDONED, NOT_LOGGED)

BINS = 10
BATCH_BOUNDS = tuple(2**power for power in range(13))


def _latency_bounds() -> tuple[float, ...]:
    lowest, highest, ratio = 50e-6, 30.0, 1.1
    steps = math.ceil(math.log(highest / lowest) / math.log(ratio))
    return tuple(float(f"{lowest * (highest / lowest) ** (step / steps):.7g}") for step in range(steps + 1))


LATENCY_BOUNDS = _latency_bounds()
