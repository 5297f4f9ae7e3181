"""Many writers at once, on a directory and on S3 by HTTP: nothing is lost and nothing is made twice."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tidegate.errors import PreconditionFailed
from tidegate.registry.registry import ANY, ModelRegistry
from tidegate.storage import open_store

MakePackage = Callable[..., Path]
Result = TypeVar("Result")
MODEL = "flights-late"
WRITERS = 20
PODS = {"file": 50, "s3": 25}  # the S3 server of the tests runs on one core
PROCESSES = 5


@pytest.fixture(params=["directory", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return f"file://{tmp_path / 'store'}"
    return f"s3://{request.getfixturevalue('s3_bucket')}/team-a"


@pytest.fixture
def registry(uri: str) -> ModelRegistry:
    return ModelRegistry(open_store(uri))


def test_different_packages_get_different_numbers(registry: ModelRegistry, make_package: MakePackage) -> None:
    packages = [make_package(str(number)) for number in range(WRITERS)]

    numbers = list(_together(lambda worker: registry.register(packages[worker], reason=f"of {worker}")))

    assert sorted(numbers) == list(range(1, WRITERS + 1))
    for worker, number in enumerate(numbers):
        assert registry.register(packages[worker], reason="again") == number
        registry.verify(MODEL, number)
    assert {event.version: event.reason for event in registry.events(MODEL)} == {
        number: f"of {worker}" for worker, number in enumerate(numbers)
    }


def test_one_package_gets_one_number(registry: ModelRegistry, make_package: MakePackage) -> None:
    packages = [make_package(str(number)) for number in range(4)]

    numbers = list(_together(lambda worker: registry.register(packages[worker % 4], reason="why")))

    assert [info.version for info in registry.versions(MODEL)] == [1, 2, 3, 4]
    assert len(set(enumerate(numbers[:4]))) == 4
    assert numbers == numbers[:4] * (WRITERS // 4)
    assert len(registry.events(MODEL)) == 4


def test_no_alias_move_is_lost(registry: ModelRegistry, make_package: MakePackage) -> None:
    versions = [registry.register(make_package(str(number)), reason="why") for number in range(4)]

    def move(worker: int) -> bool:
        before = registry.alias(MODEL, "champion")
        return registry.move_alias(MODEL, "champion", versions[worker % 4], reason=f"of {worker}", expected=ANY) != before

    list(_together(move))

    state = registry.alias(MODEL, "champion")
    moves = [event for event in registry.events(MODEL) if event.alias == "champion"]
    moves.sort(key=lambda event: event.sequence)
    assert state is not None
    assert [event.sequence for event in moves] == list(range(1, state.sequence + 1))
    assert [event.previous for event in moves] == [None, *(event.version for event in moves[:-1])]
    assert moves[-1].version == state.version


def test_one_of_many_moves_from_the_same_place_wins(registry: ModelRegistry, make_package: MakePackage) -> None:
    versions = [registry.register(make_package(str(number)), reason="why") for number in range(3)]
    registry.move_alias(MODEL, "champion", versions[0], reason="first", expected=None)

    def move(worker: int) -> bool:
        try:
            registry.move_alias(MODEL, "champion", versions[1 + worker % 2], reason=f"of {worker}", expected=versions[0])
        except PreconditionFailed:
            return False
        return True

    outcomes = list(_together(move))

    assert outcomes.count(True) == 1
    assert registry.resolve(MODEL, "champion") == versions[1 + outcomes.index(True) % 2]
    assert [event.reason for event in registry.events(MODEL) if event.alias] == ["first", f"of {outcomes.index(True)}"]


def test_many_pods_register_and_move_at_once(uri: str, make_package: MakePackage) -> None:
    pods = PODS[uri.partition(":")[0]]
    packages = [str(make_package(str(number))) for number in range(pods)]
    spawn = multiprocessing.get_context("spawn")
    each = pods // PROCESSES

    with spawn.Manager() as manager, ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
        start = manager.Barrier(PROCESSES)
        shares = [packages[first : first + each] for first in range(0, pods, each)]
        numbers = [number for share in pool.map(_be_pods, [uri] * PROCESSES, shares, [start] * PROCESSES) for number in share]

    registry = ModelRegistry(open_store(uri))
    assert sorted(numbers) == list(range(1, pods + 1))
    assert [info.version for info in registry.versions(MODEL)] == list(range(1, pods + 1))
    moves = sorted((event for event in registry.events(MODEL) if event.alias == "challenger"), key=lambda move: move.sequence)
    assert [move.sequence for move in moves] == list(range(1, pods + 1))
    assert [move.previous for move in moves] == [None, *(move.version for move in moves[:-1])]
    assert sorted(move.version for move in moves) == sorted(numbers)
    assert registry.resolve(MODEL, "challenger") == moves[-1].version


def _be_pods(uri: str, packages: list[str], start: threading.Barrier) -> list[int]:
    """Register each package and move the alias to it, all at once, each through a client of its own, as a pod would."""
    registries = [ModelRegistry(open_store(uri)) for _ in packages]
    start.wait(timeout=60)
    with ThreadPoolExecutor(len(packages)) as pool:
        return list(pool.map(_register_and_move, registries, packages))


def _register_and_move(registry: ModelRegistry, package: str) -> int:
    version = registry.register(Path(package), reason="why")
    registry.move_alias(MODEL, "challenger", version, reason="newest", expected=ANY)
    return version


def _together(work: Callable[[int], Result]) -> Iterator[Result]:
    start = threading.Barrier(WRITERS)

    def run(worker: int) -> Result:
        start.wait()
        return work(worker)

    with ThreadPoolExecutor(WRITERS) as pool:
        yield from pool.map(run, range(WRITERS))
