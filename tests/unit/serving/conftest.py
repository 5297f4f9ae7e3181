"""A served model on the tiny package, with a fake reader of features and a log that is a list."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidegate.errors import FeatureError
from tidegate.packaging.format.manifest import Manifest
from tidegate.packaging.format.package import read_manifest
from tidegate.serving.inference_log.record import LogRecord
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.model.batching import BatchLimits
from tidegate.serving.model.engine import Engine
from tidegate.serving.model.lookup import FeatureLookup
from tidegate.serving.model.served import Identity, ServedModel
from tidegate.serving.protocol.errors import RequestError

NOW = datetime(2013, 6, 1, 12, 30, tzinfo=UTC)


@dataclass
class FakeLookup:
    columns: dict[str, Any]
    times: dict[str, Any]


@dataclass
class FakeReader:
    """Answers every row with the same features, except those whose `dest` is `absent` or `down`."""

    waits: bool = False
    asked: list[tuple[dict[str, list[Any]], datetime]] = field(default_factory=list)

    async def read(self, keys: Mapping[str, Sequence[str | int | None]], at: datetime) -> FakeLookup:
        if self.waits:
            await asyncio.sleep(0)
        self.asked.append(({name: list(values) for name, values in keys.items()}, at))
        dests = list(keys["dest"])
        if "down" in dests:
            raise FeatureError("online store: cannot be read")
        found = np.array([dest != "absent" for dest in dests])
        times = np.where(found, np.datetime64("2013-06-01T12:00:00", "us"), np.datetime64("NaT", "us"))
        return FakeLookup(
            columns={
                "weather__temp": np.where(found, 20.0, np.nan).astype(np.float32),
                "route__delay": np.where(found, 7.0, 0.0).astype(np.float32),
            },
            times={"weather": times, "route": times},
        )


@dataclass
class FakeClock:
    spec: str = "fake"

    def now(self) -> datetime:
        return NOW


@dataclass
class ListLog:
    audits = False
    records: list[LogRecord] = field(default_factory=list)

    def add(self, record: LogRecord) -> None:
        self.records.append(record)


@dataclass
class Served:
    """A served model and everything that watches it."""

    model: ServedModel
    reader: FakeReader
    log: ListLog
    memory: MetricsMemory
    metrics: WorkerMetrics


@pytest.fixture(scope="session")
def tiny_manifest(tiny_package: Path) -> Manifest:
    return read_manifest(tiny_package)


@pytest.fixture(scope="session")
def tiny_engine(tiny_package: Path, tiny_manifest: Manifest) -> Engine:
    return Engine(tiny_package, tiny_manifest)


@pytest.fixture
def make_served(tiny_manifest: Manifest, tiny_engine: Engine) -> Callable[..., Served]:
    def make(manifest: Manifest = tiny_manifest, *, max_rows: int = 100, waits: bool = False) -> Served:
        memory = MetricsMemory(MetricsLayout(manifest), 1, {"model": "tiny", "version": "3", "revision": "v3"})
        metrics = WorkerMetrics(memory, 0)
        reader, log = FakeReader(), ListLog()
        reader.waits = waits
        lookup = None
        if manifest.features is not None:
            lookup = FeatureLookup(manifest.features, manifest.signature, reader, metrics.count_missing)
        model = ServedModel(
            manifest,
            Identity("tiny", "3", "v3"),
            engine=tiny_engine,
            lookup=lookup,
            log=log,  # type: ignore[arg-type]
            clock=FakeClock(),
            metrics=metrics,
            max_rows=max_rows,
            limits=BatchLimits(rows_on_loop=1000),
        )
        return Served(model, reader, log, memory, metrics)

    return make


@pytest.fixture
def served(make_served: Callable[..., Served]) -> Served:
    return make_served()


def text(*values: str | None) -> Any:
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.fixture
def good_tensors() -> dict[str, Any]:
    """Two rows as a caller sends them: entity keys and request inputs."""
    return {
        "carrier": text("UA", "AA"),
        "origin": text("EWR", "JFK"),
        "dest": text("SFO", "ORD"),
        "distance": np.array([1000, 700], np.float32),
        "hour": np.array([9.5, 20], np.float32),
    }


@pytest.fixture(scope="session")
def attempt() -> Callable[[Callable[[], Any]], tuple[Any, int | None]]:
    """Call something, and return its result and None, or None and the status of its refusal. Any other error is one."""

    def call(action: Callable[[], Any]) -> tuple[Any, int | None]:
        try:
            return action(), None
        except RequestError as error:
            return None, error.status

    return call
