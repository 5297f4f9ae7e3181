"""Whole rollouts on every target: promoted, rolled back, aborted, interrupted, edited by hand, killed and taken up again.

The judge sees scripted counters; the traffic that they count is what the target says each revision gets.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.deployment.worlds import Kill, Killed, KServeWorld, LocalWorld, World
from tests.kubernetes_api.cluster import Cluster
from tidegate.errors import RolloutError
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.rollout.metrics_source import LatencyHistogram, RevisionCounters
from tidegate.rollout.record import RolloutRecord
from tidegate.rollout.rollout import abort_rollout, promote_rollout, run_rollout, start_rollout
from tidegate.storage.directory import DirectoryStore

NAME = "flights-late"
PER_LOOK = 4000
BOUNDS = tuple(1e-4 * 1.1**power for power in range(100))
NOTHING = RevisionCounters(0, 0, LatencyHistogram(BOUNDS, (0,) * (len(BOUNDS) + 1)))


class Bucket(DirectoryStore):
    """A directory under the address of a bucket, which pods would reach."""

    @property
    def uri(self) -> str:
        return "s3://bucket/tidegate"


@dataclass
class Scripted:
    """Counts the requests that the target's split sends, with the error rates of the script."""

    world: World
    error_rates: dict[str, float] = field(default_factory=dict)
    counted: dict[str, RevisionCounters] = field(default_factory=dict)

    def observe(self, service: str) -> dict[str, RevisionCounters]:
        for revision in self.world.target.status(service).revisions:
            before = self.counted.get(revision.name, NOTHING)
            requests = PER_LOOK * revision.traffic_percent // 100
            counts = list(before.latency.counts)
            counts[30] += requests
            self.counted[revision.name] = RevisionCounters(
                requests=before.requests + requests,
                errors=before.errors + round(requests * self.error_rates.get(revision.name, 0.0)),
                latency=LatencyHistogram(BOUNDS, tuple(counts)),
            )
        return dict(self.counted)


@dataclass
class Releases:
    """A project with two registered versions, on one target."""

    world: World
    project: Project
    store: Any
    registry: ModelRegistry
    metrics: Scripted
    clock: Iterator[datetime]

    def places(self, target: Any = None) -> dict[str, Any]:
        target = target or self.world.target
        return {"project": self.project, "store": self.store, "registry": self.registry, "target": target}

    def release(self, version: int, *, target: Any = None, **options: Any) -> RolloutRecord:
        now = lambda: next(self.clock)  # noqa: E731
        start_rollout(**self.places(), version=version, env={"TIDEGATE_CLOCK": "wall"}, reason="test", now=now)
        options = {"sleep": lambda _: None, **options}
        return run_rollout(**self.places(target), metrics=self.metrics, now=now, **options)

    def unready(self, version: int) -> None:
        """Let a version never become ready."""
        if isinstance(self.world, KServeWorld):
            self.world.cluster.pods.fates[f"v{version}"] = "crash"
        else:
            (Path(self.registry.uri(NAME, version).removeprefix("file://")) / "mode").write_text("exit")

    def shares(self) -> dict[str, int]:
        revisions = self.world.target.status(NAME).revisions
        return {revision.name: revision.traffic_percent for revision in revisions if revision.traffic_percent}

    @property
    def champion(self) -> int | None:
        alias = self.registry.alias(NAME, "champion")
        return None if alias is None else alias.version


def write_project(folder: Path, mode: str) -> Path:
    document: dict[str, Any] = {
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
        "rollout": {"steps": [20, 100], "look_seconds": 2, "max_step_seconds": 60, "ready_seconds": 30},
    }
    if mode != "local":
        document["cluster"] = {"mode": mode, "store": "s3://bucket/tidegate"}
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(params=["local", "Standard", "Knative"])
def releases(request: pytest.FixtureRequest, tmp_path: Path, make_package: Callable[..., Path]) -> Iterator[Releases]:
    with Cluster().running() as cluster:
        mode = request.param
        world = LocalWorld(request.getfixturevalue("local")) if mode == "local" else KServeWorld(cluster, mode)
        project = load_project(write_project(tmp_path, mode), target="local" if mode == "local" else "kserve")
        store = (DirectoryStore if mode == "local" else Bucket)(tmp_path / "store")
        registry = ModelRegistry(store)
        for content in ("first", "second"):
            registry.register(make_package(content), reason="test")
        began = datetime(2026, 1, 1, tzinfo=UTC)
        clock = (began + timedelta(seconds=seconds) for seconds in itertools.count())
        yield Releases(world, project, store, registry, Scripted(world), clock)


def interrupted(_: float) -> None:
    raise KeyboardInterrupt


def test_the_first_release_is_promoted_without_a_judge(releases):
    assert releases.release(1).state == "promoted"
    assert (releases.champion, releases.shares()) == (1, {"v1": 100})


def test_a_good_version_is_promoted(releases):
    releases.release(1)

    record = releases.release(2)

    assert record.state == "promoted"
    assert [transition.percent for transition in record.transitions][:3] == [0, 20, 100]
    assert (releases.champion, releases.shares()) == (2, {"v2": 100})


def test_a_version_that_fails_is_rolled_back(releases):
    releases.release(1)
    releases.metrics.error_rates["v2"] = 0.3

    record = releases.release(2)

    assert record.state == "rolled_back"
    assert record.outcome.startswith("error rate")
    assert (releases.champion, releases.shares()) == (1, {"v1": 100})


def test_a_version_that_is_never_ready_is_rolled_back_with_the_cause(releases):
    releases.release(1)
    releases.unready(2)

    record = releases.release(2)

    assert record.state == "rolled_back"
    assert "exit code 3" in record.outcome or "ended with status 1" in record.outcome
    assert (releases.champion, releases.shares()) == (1, {"v1": 100})


@pytest.mark.parametrize(("end", "state"), [(abort_rollout, "rolled_back"), (promote_rollout, "promoted")])
def test_a_rollout_that_is_ended_by_hand_ends_for_its_driver_too(releases, end, state):
    releases.release(1)

    record = releases.release(2, on_look=lambda record: record.finished or end(**releases.places(), reason="by hand"))

    assert record.state == state
    assert releases.shares() == ({"v1": 100} if state == "rolled_back" else {"v2": 100})


def test_an_interrupt_rolls_back(releases):
    releases.release(1)

    with pytest.raises(KeyboardInterrupt):
        releases.release(2, sleep=interrupted)

    assert (releases.champion, releases.shares()) == (1, {"v1": 100})


def test_an_edit_by_hand_ends_the_rollout_and_abort_takes_the_traffic_back(releases):
    releases.release(1)

    with pytest.raises(RolloutError, match="was changed by someone else"):
        releases.release(2, on_look=lambda _: releases.world.edit_percent(NAME, 60))

    abort_rollout(**releases.places(), reason="by hand")
    assert (releases.champion, releases.shares()) == (1, {"v1": 100})


@pytest.mark.parametrize("fails", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_driver_that_is_killed_is_followed_by_one_that_gets_there(releases, at, fails):
    releases.release(1)
    if fails:
        releases.metrics.error_rates["v2"] = 0.3

    with pytest.raises(Killed):
        releases.release(2, target=releases.world.dying(Kill(at, after=True)))
    record = releases.release(2)

    assert record.state == ("rolled_back" if fails else "promoted")
    assert releases.shares() == ({"v1": 100} if fails else {"v2": 100})
