"""A small world for rollouts: a target and a metrics source in memory, traffic that flows while the driver sleeps."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.target import RevisionStatus, ServiceStatus
from tidegate.errors import DeploymentError, ObjectNotFound, PreconditionFailed, RolloutError
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters
from tidegate.rollout.record import RolloutRecord
from tidegate.rollout.rollout import run_rollout, start_rollout
from tidegate.storage.store import StoredObject

BOUNDS = tuple(float(bound) for bound in 1e-4 * 1.1 ** np.arange(100))
NAME = "flights-late"


class Killed(BaseException):
    """The process ends here; nothing in it can catch this."""


class MemoryStore:
    """An object store in memory, so that hundreds of rollouts can be killed in seconds."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.uri = "memory://test"
        self.objects = dict(objects or {})

    def get(self, key: str) -> StoredObject:
        if key not in self.objects:
            raise ObjectNotFound(f"no object {key}")
        return StoredObject(self.objects[key], hashlib.sha256(self.objects[key]).hexdigest())

    def put(self, key: str, data: bytes) -> str:
        self.objects[key] = data
        return self.get(key).etag

    def create(self, key: str, data: bytes) -> str:
        if key in self.objects:
            raise PreconditionFailed(f"{key} exists")
        return self.put(key, data)

    def replace(self, key: str, data: bytes, etag: str) -> str:
        if key not in self.objects or self.get(key).etag != etag:
            raise PreconditionFailed(f"{key} changed")
        return self.put(key, data)

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> Iterator[str]:
        yield from sorted(key for key in self.objects if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def upload(self, key: str, path: Path) -> None:
        self.put(key, path.read_bytes())


@dataclass
class Behaviour:
    """How a revision answers."""

    error_rate: float = 0.0
    median_seconds: float = 0.002
    ready: bool = True
    silent: bool = False


@dataclass
class Faults:
    """Kills the caller at one numbered call, before or after it took effect."""

    kill_at: int | None = None
    after: bool = False
    calls: int = 0

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            dies = self.calls == self.kill_at
            if dies and not self.after:
                raise Killed
            try:
                return call(*args, **kwargs)
            finally:
                if dies:
                    raise Killed

        return faulty


class FaultyCalls:
    """Passes calls on to `inner`; those named may kill the caller."""

    def __init__(self, inner: Any, faults: Faults, names: tuple[str, ...]) -> None:
        self._inner, self._faults, self._names = inner, faults, names

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        return self._faults.wrap(attribute) if name in self._names else attribute


class MemoryTarget:
    """Holds the desired service; what is desired is in force at once, if its revisions can be ready."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.service: Service | None = None
        self.applied: list[Service] = []

    def apply(self, service: Service) -> None:
        if service != self.service:
            self.applied.append(service)
        self.service = service

    def get(self, name: str) -> Service | None:
        return self.service

    def delete(self, name: str) -> None:
        self.service = None

    def status(self, name: str) -> ServiceStatus:
        if self.service is None:
            raise DeploymentError(f"service {name!r} is not known")
        revisions = [self._status(self.service.stable, "stable", 100 - self.service.canary_percent)]
        if self.service.canary is not None:
            revisions.append(self._status(self.service.canary, "canary", self.service.canary_percent))
        return ServiceStatus(name, "http://127.0.0.1:1", tuple(revisions), all(each.ready for each in revisions))

    def wait(self, name: str, *, revision: str | None = None, timeout: float) -> ServiceStatus:
        status = self.status(name)
        unready = [each for each in status.revisions if not each.ready and revision in (None, each.name)]
        if unready:
            raise DeploymentError(f"service {name}: revision {unready[0].name}: {unready[0].reason}")
        return status

    def _status(self, revision: Revision, role: Any, percent: int) -> RevisionStatus:
        ready = self._world.behaviour(revision.name).ready
        return RevisionStatus(revision.name, role, ready, percent, "" if ready else "golden sample not reproduced")


@dataclass
class World:
    """The clock, the traffic, and what was counted of it."""

    requests_per_second: float = 200.0
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    counted: dict[str, RevisionCounters] = field(default_factory=dict)
    blind: bool = False
    before_traffic: Callable[[], None] = lambda: None
    after_traffic: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.target = MemoryTarget(self)
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.slept = 0
        self._rng = np.random.default_rng(1)

    def behaviour(self, revision: str) -> Behaviour:
        return self.behaviours.setdefault(revision, Behaviour())

    def now(self) -> datetime:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.slept += 1
        self.before_traffic()
        self.send(int(self.requests_per_second * seconds))
        self.after_traffic()

    def send(self, requests: int) -> None:
        service = self.target.service
        if service is None:
            return
        to_canary = int(self._rng.binomial(requests, service.canary_percent / 100))
        self._answer(service.stable.name, requests - to_canary)
        if service.canary is not None and not self.behaviour(service.canary.name).silent:
            self._answer(service.canary.name, to_canary)

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        if self.blind:
            raise RolloutError("the proxy's admin port does not answer")
        return dict(self.counted)

    def restart_counters(self) -> None:
        self.counted.clear()

    def _answer(self, revision: str, requests: int) -> None:
        behaviour = self.behaviour(revision)
        before = self.counted.get(revision, RevisionCounters(0, 0, LatencyHistogram(BOUNDS, (0,) * (len(BOUNDS) + 1))))
        latencies = self._rng.lognormal(np.log(behaviour.median_seconds), 0.4, requests)
        counts = np.histogram(latencies, [0, *BOUNDS, np.inf])[0] + before.latency.counts
        self.counted[revision] = RevisionCounters(
            requests=before.requests + requests,
            errors=before.errors + int(self._rng.binomial(requests, behaviour.error_rate)),
            latency=LatencyHistogram(BOUNDS, tuple(int(count) for count in counts)),
        )


@dataclass
class Bench:
    """Everything a rollout takes, with versions 1 to 3 registered and version 1 deployed and champion."""

    project: Project
    store: Any
    registry: ModelRegistry
    world: World
    target: Any
    metrics: Any

    def start(self, version: int, reason: str = "drift") -> RolloutRecord:
        return start_rollout(**self.places, version=version, env={"TIDEGATE_CLOCK": "wall"}, reason=reason, now=self.world.now)

    def run(self, **options: Any) -> RolloutRecord:
        return run_rollout(**self.places, metrics=self.metrics, sleep=self.world.sleep, now=self.world.now, **options)

    @property
    def places(self) -> dict[str, Any]:
        return {"project": self.project, "store": self.store, "registry": self.registry, "target": self.target}

    @property
    def champion(self) -> int | None:
        state = self.registry.alias(NAME, "champion")
        return None if state is None else state.version

    def with_faults(self, faults: Faults) -> "Bench":
        store = FaultyCalls(self.store, faults, ("put", "create", "replace", "delete"))
        return Bench(
            project=self.project,
            store=store,
            registry=ModelRegistry(store),
            world=self.world,
            target=FaultyCalls(self.target, faults, ("apply", "wait", "delete")),
            metrics=FaultyCalls(self.metrics, faults, ("observe",)),
        )


def write_project(folder: Path, **rollout: Any) -> Path:
    document = {
        "schema_version": 1,
        "name": NAME,
        "task": "binary-classification",
        "workspace": "workspace",
        "features": {
            "repository": "feature_repo",
            "service": "flights_v1",
            "entity_rows": "flights.parquet",
            "id_column": "flight_id",
            "request_inputs": ["distance"],
        },
        "label": {"column": "late", "known_at_column": "landed_at"},
        "training": {"function": "train:train", "window_days": 90, "holdout_days": 14},
        "gates": {"accuracy": {"minimum": 0.6}},
        "rollout": {"look_seconds": 2, "max_step_seconds": 60} | rollout,
    }
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture
def make_bench(tmp_path: Path, make_package: Callable[..., Path]) -> Callable[..., Bench]:
    registered = MemoryStore()
    for content in ("first", "second", "third"):
        ModelRegistry(registered).register(make_package(content), reason="test")

    def make(*, deployed: bool = True, folder: str = "bench", **rollout: Any) -> Bench:
        root = tmp_path / folder
        root.mkdir()
        project = load_project(write_project(root, **rollout))
        store = MemoryStore(registered.objects)
        registry = ModelRegistry(store)
        world = World()
        if deployed:
            world.target.service = Service(NAME, "default", stable=Revision("v1", registry.uri(NAME, 1)))
            registry.move_alias(NAME, "champion", 1, reason="test", expected=None)
            world.send(1000)
        return Bench(project, store, registry, world, world.target, world)

    return make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def make_faults() -> type[Faults]:
    return Faults
