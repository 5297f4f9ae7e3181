"""Replays flights as live traffic: the clock advances, features materialize, requests go out over HTTP, labels arrive late.

Time moves in ticks. At each tick the online store is brought up to it, and the flights that are scheduled to leave within the
next tick are asked for, so event time (the tick) lies at most one tick before a flight's scheduled departure and never after
it. A flight's label is recorded once the flight has landed; one that never lands at its
destination is asked for and never labelled.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tidegate.clock import ReplayClock
from tidegate.features.repository import FeatureRepository
from tidegate.monitoring.labels import record_labels
from tidegate.project import Project
from tidegate.storage import ObjectStore

TICK = timedelta(minutes=15)
CONCURRENCY = 16
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(slots=True)
class Traffic:
    """What users saw: answers by version with their latencies in milliseconds, and requests that failed."""

    requests: int = 0
    failures: int = 0
    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    failed_with: dict[str, int] = field(default_factory=dict)

    def snapshot(self) -> tuple[int, int]:
        """Return requests and failures so far."""
        return self.requests, self.failures

    def note(self, version: str, milliseconds: float) -> None:
        """Count an answered request."""
        self.requests += 1
        self.latencies.setdefault(version, []).append(milliseconds)

    def note_failure(self, cause: str) -> None:
        """Count a request whose final answer was no success."""
        self.requests += 1
        self.failures += 1
        self.failed_with[cause] = self.failed_with.get(cause, 0) + 1


def sample_flights(flights: pa.Table, *, share: float, seed: int, start: datetime, end: datetime) -> pa.Table:
    """Return a seeded share of the flights scheduled in [start, end), in order of scheduled departure."""
    moment = flights["event_timestamp"]
    in_span = pc.and_(pc.greater_equal(moment, pa.scalar(start, moment.type)), pc.less(moment, pa.scalar(end, moment.type)))
    span = flights.filter(in_span).sort_by("event_timestamp")
    chosen = np.random.default_rng(seed).random(span.num_rows) < share
    return span.filter(pa.array(chosen))


class Replay:
    """Lives through the sampled flights, tick by tick."""

    def __init__(
        self,
        project: Project,
        *,
        flights: pa.Table,
        clock: ReplayClock,
        repository: FeatureRepository,
        store: ObjectStore,
    ) -> None:
        """Replay `flights` (sorted by event time) on `clock`."""
        self._project = project
        self._clock = clock
        self._feed = repository.open_feed()
        self._store = store
        self._moments = flights["event_timestamp"].to_numpy().astype("datetime64[us]")
        self.contract = repository.contract(project.features.service)
        self.flights = flights
        self.on_hour: Callable[[], None] | None = None
        self._payloads = _payloads(project, flights, self.contract.join_keys)
        self._labels = _Labels(project, flights)
        self._next = 0
        self.traffic = Traffic()

    @property
    def asked(self) -> int:
        """How many of the flights have been asked for."""
        return self._next

    @property
    def clock_spec(self) -> str:
        """From which other processes open the replayed clock."""
        return self._clock.spec

    @property
    def now(self) -> datetime:
        """The current event time."""
        return self._clock.now()

    async def run(self, url: str, until: datetime, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Replay up to event time `until`, or until `stop` says so between two ticks."""
        endpoint = f"{url}/v2/models/{self._project.name}/infer"
        connector = aiohttp.TCPConnector(limit=CONCURRENCY)
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            while self.now < until and not stop():
                await self._live_through_tick(session, endpoint, min(self.now + TICK, until))
        self.record_landed()

    def record_landed(self) -> None:
        """Record the label of every asked-for flight that has landed by now and was not recorded yet."""
        landed = self._labels.take(self._next, self.now)
        if landed.num_rows:
            record_labels(self._store, self._project.name, landed)

    async def _live_through_tick(self, session: aiohttp.ClientSession, endpoint: str, end: datetime) -> None:
        self._feed.materialize(self.now)
        if self.now.minute == 0:
            if self.now.hour == 0:
                self.record_landed()
            if self.on_hour is not None:
                self.on_hour()
        upcoming = int(np.searchsorted(self._moments, np.datetime64(end.replace(tzinfo=None), "us")))
        payloads, self._next = self._payloads[self._next : upcoming], upcoming
        began = time.perf_counter()
        await asyncio.gather(*(self._ask(session, endpoint, payload) for payload in payloads))
        self.traffic.seconds += time.perf_counter() - began
        self._clock.advance(end)

    async def _ask(self, session: aiohttp.ClientSession, endpoint: str, payload: dict[str, Any]) -> None:
        began = time.perf_counter()
        try:
            async with session.post(endpoint, json=payload) as response:
                answer = await response.json()
                if response.status != 200:
                    self.traffic.note_failure(f"{response.status} {answer.get('error', '')}")
                    return
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.traffic.note_failure(type(error).__name__)
            return
        self.traffic.note(str(answer["model_version"]), (time.perf_counter() - began) * 1000)


def _payloads(project: Project, flights: pa.Table, join_keys: Sequence[str]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys([*join_keys, *project.features.request_inputs]))
    columns = [flights[name] for name in names]
    datatypes = ["BYTES" if pa.types.is_string(column.type) else _number_type(column.type) for column in columns]
    rows = zip(flights[project.features.id_column].to_pylist(), *(column.to_pylist() for column in columns), strict=True)
    return [
        {
            "id": row[0],
            "inputs": [
                {"name": name, "datatype": datatype, "shape": [1], "data": [value]}
                for name, datatype, value in zip(names, datatypes, row[1:], strict=True)
            ],
        }
        for row in rows
    ]


def _number_type(kind: pa.DataType) -> str:
    return "INT64" if pa.types.is_integer(kind) else "FP32"


class _Labels:
    """The labels of the replayed flights, handed out once each, when they are known."""

    def __init__(self, project: Project, flights: pa.Table) -> None:
        known_at = flights[project.label.known_at_column]
        self._known_at = known_at.to_numpy(zero_copy_only=False).astype("datetime64[us]")
        self._table = pa.table(
            {
                "prediction_id": pc.binary_join_element_wise(flights[project.features.id_column], "0", "/"),
                "label": flights[project.label.column].cast(pa.int8()),
                "known_at": known_at.cast(pa.timestamp("us", tz="UTC")),
            }
        )
        self._pending = ~np.isnat(self._known_at)

    def take(self, asked: int, now: datetime) -> pa.Table:
        landed = self._pending & (self._known_at <= np.datetime64(now.replace(tzinfo=None), "us"))
        landed[asked:] = False
        self._pending &= ~landed
        return self._table.filter(pa.array(landed))
