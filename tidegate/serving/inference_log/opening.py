"""Opens the inference log that a server's settings ask for; nothing that it needs is imported where there is none."""

from typing import TYPE_CHECKING

from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.settings import ServeSettings

if TYPE_CHECKING:
    from tidegate.serving.inference_log.record import RequestLog

_LEAST_CLOSE_SECONDS = 1.0  # for the rows of requests that were answered, however little those in flight are given


def open_log(
    settings: ServeSettings, manifest: Manifest, *, model: str, version: str, revision: str, metrics: WorkerMetrics
) -> "RequestLog | None":
    """Return the log of one served version, or None if there is to be none.

    Args:
        settings: Those that begin with `log_`; an audit log's requests, and closing, wait as long as the others allow.
        manifest: Of the package that is served.
        model: The model's name; it, `version` and `revision` are told in every row.
        version: The version that is served.
        revision: The InferenceService revision it belongs to.
        metrics: Counts what is written, dropped and left out.

    Raises:
        ServingError: What is to be redacted is unknown, or a sample is asked of an audit log.
        StorageError: The store's address is none.
    """
    if settings.log_store is None:
        return None
    import pyarrow as pa

    from tidegate.serving.inference_log.limits import LogLimits
    from tidegate.serving.inference_log.redaction import Redaction
    from tidegate.storage import open_store

    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pools keep some 10 MB that only the log would use
    store = open_store(settings.log_store)
    redaction = Redaction(settings.log_redact, manifest)
    limits = LogLimits(
        rotate_rows=settings.log_rotate_rows,
        rotate_seconds=settings.log_rotate_seconds,
        queue_rows=settings.log_queue_rows,
        keep_seconds=min(LogLimits().keep_seconds, settings.request_seconds),
        close_seconds=min(LogLimits().close_seconds, max(settings.drain_seconds, _LEAST_CLOSE_SECONDS)),
    )
    if settings.log_mode == "audit":
        if settings.log_sample < 1:
            raise ServingError(f"log_sample: {settings.log_sample:g}: an audit log keeps every record; leave it at 1")
        from tidegate.serving.inference_log.audit import AuditLog

        return AuditLog(
            store,
            manifest,
            model=model,
            version=version,
            revision=revision,
            limits=limits,
            metrics=metrics,
            redaction=redaction,
        )
    from tidegate.serving.inference_log.log import InferenceLog

    return InferenceLog(
        store,
        manifest,
        model=model,
        version=version,
        revision=revision,
        limits=limits,
        metrics=metrics,
        sample_share=settings.log_sample,
        redaction=redaction,
    )
