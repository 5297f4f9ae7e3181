"""A small, real project (parcels that arrive late), its days of live traffic, and a machine that serves it."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from pipelines.launcher import LocalLauncher, RunResult
from tests.e2e.parcels import PROJECT, TICK, TRAINED_UNTIL, WEEK, payload, post, write_data, write_project
from tidegate.clock import ReplayClock
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget
from tidegate.features.repository import FeatureRepository
from tidegate.monitoring.labels import record_labels
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.storage import open_store


@dataclass
class World:
    """A project in a folder of its own, its examples, and the clock by which it lives."""

    root: Path
    project: Project
    rows: pa.Table
    clock: ReplayClock
    repository: FeatureRepository
    answers: dict[str, float] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.project.file

    @property
    def workspace(self) -> Path:
        return self.project.paths.workspace

    @property
    def store(self):
        return open_store(self.project.store_uri)

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.store)

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(self.workspace)

    @property
    def champion(self) -> int | None:
        alias = self.registry.alias("parcels", "champion")
        return None if alias is None else alias.version

    def releases(self) -> list[ReleaseRecord]:
        return ReleaseLedger(self.store, "parcels").records()

    def variation(self, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
        """Write another project file beside the first, changed, and return it."""
        document = json.loads(json.dumps(PROJECT))
        change(document)
        file = self.root / f"{name}.yaml"
        file.write_text(yaml.safe_dump(document))
        return file

    def run(self, pipeline: str, *, file: Path | None = None, **arguments: str) -> RunResult:
        file = file or self.file
        clock = {} if pipeline == "batch" else {"clock": self.clock.spec}
        digest = load_project(file).digest
        given = {"project_file": str(file), "project_digest": digest, **clock, **arguments}
        return LocalLauncher(self.workspace).run(pipeline, given)

    def week(self, number: int) -> tuple[datetime, datetime]:
        """Return when the live week `number` starts and ends; the first is 1."""
        start = TRAINED_UNTIL + WEEK * (number - 1)
        return start, start + WEEK

    def live_through(self, number: int) -> None:
        """Live through a week of traffic, tick by tick: features materialize, requests go out, labels arrive."""
        start, end = self.week(number)
        assert self.clock.now() == start
        with self._connection() as connection:
            while self.clock.now() < end:
                self.repository.materialize(self.clock.now())
                self._ask(connection, self.between(self.clock.now(), self.clock.now() + TICK))
                self.clock.advance(self.clock.now() + TICK)
        week = self.between(start, end)
        labels = {"prediction_id": pc.binary_join_element_wise(week["parcel"], "0", "/"), "label": week["late"]}
        record_labels(self.store, "parcels", pa.table({**labels, "known_at": week["landed_at"]}))
        time.sleep(2 * self.project.serving.log.rotate_seconds)

    def between(self, start: datetime, end: datetime) -> pa.Table:
        moment = self.rows["asked_at"]
        chosen = pc.and_(pc.greater_equal(moment, pa.scalar(start, moment.type)), pc.less(moment, pa.scalar(end, moment.type)))
        return self.rows.filter(chosen)

    @contextmanager
    def traffic(self) -> Iterator[list[int]]:
        """Two clients that ask for the current tick's parcels, over and over; yields the statuses that they saw."""
        current = self.between(self.clock.now(), self.clock.now() + TICK)
        payloads = [payload(row, f"again-{row['parcel']}") for row in current.to_pylist()]
        statuses: list[int] = []
        stopping = threading.Event()

        def client() -> None:
            with self._connection() as connection:
                while not stopping.is_set():
                    for body in payloads:
                        statuses.append(post(connection, body)[0])
                        time.sleep(0.005)

        clients = [threading.Thread(target=client) for _ in range(2)]
        for thread in clients:
            thread.start()
        try:
            yield statuses
        finally:
            stopping.set()
            for thread in clients:
                thread.join()

    def _ask(self, connection: http.client.HTTPConnection, rows: pa.Table) -> None:
        for row in rows.to_pylist():
            status, answer = post(connection, payload(row, row["parcel"]))
            assert status == 200, answer
            outputs = {output["name"]: output["data"] for output in answer["outputs"]}
            self.answers[row["parcel"]] = outputs["probability"][0]

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection(urlsplit(self.target.status("parcels").url).netloc, timeout=30)
        try:
            yield connection
        finally:
            connection.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("parcels")
    project = load_project(write_project(root))
    rows = write_data(project.paths.workspace / "data")
    repository = FeatureRepository(project.paths.repository, project.paths.workspace)
    repository.apply()
    clock = ReplayClock.create(project.paths.workspace / "clock", TRAINED_UNTIL)
    start_supervisor(project.paths.workspace)
    try:
        yield World(root, project, rows, clock, repository)
    finally:
        stop_supervisor(project.paths.workspace)
