"""Whoever is asked leads all workers to another version, or leaves every one of them where it was and says why."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.serving.repository.conftest import DAMAGED, FakeWorker, until, version
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.repository.control import ModelState
from tidegate.serving.repository.coordinator import MOST_WAITING, Coordinator
from tidegate.serving.repository.packages import reference
from tidegate.serving.repository.plan import Plan, PlanFolder, Version

Workers = Callable[[int], list[FakeWorker]]


@dataclass
class FakeSource:
    """A registry of the versions 1, 2 and 3, which remembers what was fetched and what was kept."""

    folder: Path
    fetched: list[str] = field(default_factory=list)
    reachable: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.reachable.set()

    def number(self, parameters: Mapping[str, Any]) -> int:
        found = {"champion": "2", "challenger": "3"}.get(name := reference(parameters), name)
        if found not in ("1", "2", "3"):
            raise RequestError(404, f"no version {found}")
        return int(found)

    def digest(self, number: int) -> str:
        return version(str(number)).digest

    def fetch(self, number: int, digest: str, attempt: int) -> Version:
        self.reachable.wait(10)
        (self.folder / f"{number}-{attempt}").mkdir()
        self.fetched.append(str(number))
        return version(str(number), self.folder / f"{number}-{attempt}")

    def remove_all_but(self, kept: Version | None) -> None:
        for folder in self.folder.iterdir():
            if kept is None or str(folder) != kept.package:
                folder.rmdir()

    def versions(self) -> list[Any]:
        return [SimpleNamespace(version=number, digest=self.digest(number)) for number in (1, 2, 3)]


@dataclass
class Cluster:
    workers: list[FakeWorker]
    coordinators: list[Coordinator]
    source: FakeSource
    folder: PlanFolder

    async def load(self, at: int = 0, /, name: str = "tiny", **parameters: Any) -> str | RequestError:
        return await self._asked(lambda reply: self.coordinators[at].load(name, parameters, reply))

    async def unload(self, at: int = 0, /, name: str = "tiny") -> str | RequestError:
        return await self._asked(lambda reply: self.coordinators[at].unload(name, reply))

    async def index(self, *, ready_only: bool = False) -> list[ModelState]:
        return await self._asked(lambda reply: self.coordinators[0].index(ready_only=ready_only, reply=reply))

    async def _asked(self, ask: Callable[[Callable[[Any], None]], None]) -> Any:
        answered = asyncio.get_running_loop().create_future()
        ask(answered.set_result)
        return await asyncio.wait_for(answered, 10)

    @property
    def answers(self) -> set[str | None]:
        return {worker.answers for worker in self.workers}


@pytest.fixture
def with_cluster(workers: Workers, folder: PlanFolder, tmp_path: Path) -> Callable[..., None]:
    def run(work: Callable[[Cluster], Any], count: int = 2) -> None:
        async def go() -> None:
            fetched = tmp_path / "fetched"
            fetched.mkdir()
            source: Any = FakeSource(fetched)
            made = workers(count)
            cluster = Cluster(made, [Coordinator("tiny", source, folder, count) for _ in made], source, folder)
            for worker in made:
                worker.follower.start()
            await work(cluster)
            for coordinator in cluster.coordinators:
                await coordinator.stop(5)
            for worker in made:
                await worker.follower.stop(5)

        asyncio.run(go())

    return run


def test_a_load_is_answered_when_every_worker_answers_with_it(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        assert await cluster.load(0, version=3) == "3"
        assert cluster.answers == {"3"}
        assert await cluster.load(1) == "2"
        assert cluster.answers == {"2"}
        assert await cluster.load(0, version="1") == "1"
        for worker in cluster.workers:
            await until(lambda worker=worker: worker.still_open == ["1"], "replaced versions closed")  # type: ignore[misc]
        assert [folder.name[0] for folder in cluster.source.folder.iterdir()] == ["1"]

    with_cluster(work)


def test_a_load_of_what_answers_changes_nothing(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        assert await cluster.load(version=1) == "1"
        assert cluster.source.fetched == []
        assert cluster.folder.plan().generation == 1

    with_cluster(work)


@pytest.mark.parametrize(
    ("parameters", "name", "status", "says"),
    [
        pytest.param({"version": 9}, "tiny", 404, "no version 9", id="no such version"),
        pytest.param({}, "other", 404, "unknown model 'other'", id="no such model"),
        pytest.param({"version": 0}, "tiny", 404, "no version 0", id="version 0"),
        pytest.param({"version": "three"}, "tiny", 400, "'version': 'three' is no version's number", id="no number"),
        pytest.param({"version": 2.0}, "tiny", 400, "is no version's number", id="a fraction"),
        pytest.param({"version": True}, "tiny", 400, "is no version's number", id="a truth value"),
        pytest.param({"version": None}, "tiny", 400, "is no version's number", id="null"),
        pytest.param({"version": "²"}, "tiny", 400, "is no version's number", id="another digit"),
        pytest.param({"alias": "3"}, "tiny", 400, "is no name of an alias", id="an alias that is a number"),
        pytest.param({"alias": 3}, "tiny", 400, "is no name of an alias", id="an alias that is no text"),
        pytest.param({"alias": "a", "version": 1}, "tiny", 400, "both 'version' and 'alias'", id="both"),
        pytest.param({"config": "{}"}, "tiny", 400, "parameter 'config' is not known", id="Triton's own"),
    ],
)
def test_a_request_that_cannot_be_met_says_so(
    with_cluster: Callable[..., None], parameters: dict[str, Any], name: str, status: int, says: str
) -> None:
    async def work(cluster: Cluster) -> None:
        refused = await cluster.load(name=name, **parameters)
        assert isinstance(refused, RequestError)
        assert (refused.status, says in str(refused)) == (status, True), refused
        assert cluster.answers == {"1"}

    with_cluster(work, 1)


def test_if_one_worker_cannot_open_a_version_none_answers_with_it(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        cluster.workers[1].cannot_open = {"2": DAMAGED}
        refused = await cluster.load(version=2)
        assert isinstance(refused, RequestError)
        assert (refused.status, str(refused)) == (409, str(DAMAGED))
        assert cluster.answers == {"1"}
        assert "2" not in {model.identity.version for model in cluster.workers[1].opened}
        await until(lambda: cluster.workers[0].still_open == ["1"], "what was opened in vain closed")
        assert list(cluster.source.folder.iterdir()) == []
        cluster.workers[1].cannot_open = {}
        assert await cluster.load(version=2) == "2"
        assert cluster.answers == {"2"}

    with_cluster(work)


def test_loads_come_one_after_another_whichever_worker_is_asked(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        wanted = [2, 3, 1, 2, 3, 1]
        assert await asyncio.gather(*(cluster.load(index % 2, version=number) for index, number in enumerate(wanted))) == [
            str(number) for number in wanted
        ]
        assert len(cluster.answers) == 1
        for worker in cluster.workers:
            await until(lambda worker=worker: len(worker.still_open) == 1, "all but one closed")  # type: ignore[misc]

    with_cluster(work)


def test_too_many_requests_at_once_are_refused(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        cluster.source.reachable.clear()
        waiting = [asyncio.create_task(cluster.load(version=2)) for _ in range(MOST_WAITING)]
        await asyncio.sleep(0.02)
        refused = await cluster.load(version=2)
        assert isinstance(refused, RequestError)
        assert refused.status == 429
        cluster.source.reachable.set()
        assert set(await asyncio.gather(*waiting)) == {"2"}

    with_cluster(work)


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        pytest.param(PermissionError(13, "Permission denied"), 503, "Permission denied", id="the disk"),
        pytest.param(KeyError("version"), 500, "see the server's log", id="a mistake of ours"),
    ],
)
def test_whoever_asked_is_answered_whatever_happens(
    with_cluster: Callable[..., None], monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int, says: str
) -> None:
    async def work(cluster: Cluster) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(cluster.source, "digest", lambda number: _raise(raised))
            refused = await cluster.load(version=2)
        assert isinstance(refused, RequestError)
        assert (refused.status, says in str(refused)) == (status, True)
        assert await cluster.load(version=2) == "2"

    with_cluster(work, 1)


def _raise(error: Exception) -> str:
    raise error


def test_unloading_leaves_nothing_that_answers_until_something_is_loaded(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        assert await cluster.unload() == "1"
        assert cluster.answers == {None}
        assert await cluster.index(ready_only=True) == []
        assert await cluster.unload() == ""
        refused = await cluster.unload(name="other")
        assert isinstance(refused, RequestError)
        assert refused.status == 404
        assert await cluster.load(alias="challenger") == "3"
        assert cluster.answers == {"3"}

    with_cluster(work)


def test_the_index_says_what_answers_and_what_could(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        assert await cluster.index(ready_only=True) == [ModelState("tiny", "1", "READY")]
        assert [(state.version, state.state) for state in await cluster.index()] == [
            ("1", "READY"),
            ("2", "UNAVAILABLE"),
            ("3", "UNAVAILABLE"),
        ]
        for worker in cluster.workers:
            worker.opening_takes = 0.3
        loading = asyncio.create_task(cluster.load(version=3))
        await until(lambda: cluster.folder.plan().next is not None, "version 3 being opened")
        assert ("3", "LOADING") in [(state.version, state.state) for state in await cluster.index()]
        await loading

    with_cluster(work)


def test_a_package_that_was_started_under_the_number_of_another_is_not_mistaken_for_it(
    with_cluster: Callable[..., None], folder: PlanFolder
) -> None:
    folder.write(Plan(1, Version("1", "sha256:other", "/packages/other")))

    async def work(cluster: Cluster) -> None:
        refused = await cluster.load(version=1)
        assert isinstance(refused, RequestError)
        assert (refused.status, "start it with --version" in str(refused)) == (409, True)
        assert await cluster.load(version=2) == "2"
        assert await cluster.load(version=1) == "1"

    with_cluster(work, 1)


def test_a_server_that_stops_loads_nothing_more(with_cluster: Callable[..., None]) -> None:
    async def work(cluster: Cluster) -> None:
        for worker in cluster.workers:
            worker.opening_takes = 0.3
        loading = asyncio.create_task(cluster.load(version=3))
        await until(lambda: cluster.folder.plan().next is not None, "version 3 being opened")
        await cluster.coordinators[0].stop(5)
        refused = await loading
        assert isinstance(refused, RequestError)
        assert (refused.status, "stopping" in str(refused)) == (503, True)
        assert cluster.answers == {"1"}
        assert cluster.folder.plan().next is None

    with_cluster(work)


def test_a_leader_that_died_leaves_the_turn_and_its_plan_is_overwritten(
    with_cluster: Callable[..., None], folder: PlanFolder
) -> None:
    folder.write(Plan(5, version("1"), next=version("3")))

    async def work(cluster: Cluster) -> None:
        assert await cluster.load(version=2) == "2"
        assert cluster.folder.plan().next is None
        for worker in cluster.workers:
            await until(lambda worker=worker: worker.still_open == ["2"], "version 3 closed")  # type: ignore[misc]

    with_cluster(work)
