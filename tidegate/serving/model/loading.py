"""Opens a version of the model in one worker: its graph, proved on the golden sample, its lookups, its log and its counters."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tidegate.clock import Clock
from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.events import emit
from tidegate.serving.inference_log.opening import open_log
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.model.batching import LOOP_SECONDS, BatchLimits
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.model.served import Identity, ServedModel
from tidegate.serving.settings import ServeSettings
from tidegate.serving.tracing.spans import open_tracing

if TYPE_CHECKING:
    from tidegate.features.online_rows import RowReader


class ModelLoader:
    """Opens versions, of which each has a log and counters of its own; they share the clock and the online store."""

    def __init__(self, settings: ServeSettings, name: str, *, clock: Clock, metrics: Path, worker: int) -> None:
        """Open nothing yet.

        Args:
            settings: How the server is to run.
            name: What the model is called in requests.
            clock: Tells event time.
            metrics: Folder in which the workers count.
            worker: Which of them this is.
        """
        self._settings = settings
        self._name = name
        self._clock = clock
        self._metrics = metrics
        self._worker = worker
        self._tracing = open_tracing(settings.traces, name)
        self._online_rows: RowReader | None = None

    def open(self, package: Path, version: str) -> ServedModel:
        """Open the package, which was verified, as a version; from any thread, and next to others that are open.

        Raises:
            TidegateError: It cannot be served here: the graph cannot be loaded or does not do what it did where it was
                packaged, the online store or the log cannot be opened.
        """
        begun = perf_counter()
        settings = self._settings
        manifest = read_manifest(package)
        identity = Identity(self._name, version, settings.revision or f"v{version}")
        engine = Engine(
            package,
            manifest,
            allow_cpu_fallback=settings.allow_cpu_fallback,
            gpu_memory_bytes=settings.gpu_memory_bytes,
        )
        if engine.warning is not None:
            emit("slower than measured", level="warning", worker=self._worker, version=version, reason=engine.warning)
        difference = engine.replay_golden(package)
        if engine.dependence is not None:
            emit("requests are not joined", level="warning", worker=self._worker, version=version, reason=engine.dependence)
        metrics = self._open_metrics(manifest, identity)
        metrics.set_fallback(engine.is_fallback)
        lookup = self._open_lookup(package, manifest, metrics)
        model = ServedModel(
            manifest,
            identity,
            engine=engine,
            lookup=lookup,
            log=open_log(settings, manifest, model=identity.name, version=version, revision=identity.revision, metrics=metrics),
            clock=self._clock,
            metrics=metrics,
            max_rows=settings.max_rows,
            limits=BatchLimits(
                batch_rows=settings.batch_rows if engine.batchable else 1,
                queue_rows=settings.queue_rows,
                delay=settings.batch_delay_ms / 1000,
                rows_on_loop=engine.speed.rows_within(LOOP_SECONDS),
            ),
            tracer=None if self._tracing is None else self._tracing.tracer(identity.name, identity.version),
        )
        emit(
            "model loaded",
            worker=self._worker,
            version=version,
            golden_difference=difference,
            seconds=round(perf_counter() - begun, 3),
        )
        return model

    def close(self) -> None:
        """Hand over the last spans; called once nothing is served any more."""
        if self._tracing is not None:
            self._tracing.export.close()

    def _open_metrics(self, manifest: Manifest, identity: Identity) -> WorkerMetrics:
        labels = {"model": identity.name, "version": identity.version, "revision": identity.revision}
        memory = MetricsMemory.open(self._metrics, MetricsLayout(manifest), self._settings.workers, labels)
        return WorkerMetrics(memory, self._worker)

    def _open_lookup(self, package: Path, manifest: Manifest, metrics: WorkerMetrics) -> FeatureLookup | None:
        if manifest.features is None:
            return None
        if self._settings.online_store is None:
            raise ServingError(f"package {package} looks features up; name the online store with --online-store")
        from tidegate.features.online import OnlineReader
        from tidegate.features.online_opening import open_row_reader

        if self._online_rows is None:
            self._online_rows = open_row_reader(self._settings.online_store)
        reader = OnlineReader(self._online_rows, manifest.features)
        return FeatureLookup(manifest.features, manifest.signature, reader, metrics.count_missing)
