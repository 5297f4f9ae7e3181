"""Workers of one server on one loop: their endpoints, their followers, and versions that are opened without a package."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tidegate.errors import PackageError
from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.model.served import Identity
from tidegate.serving.repository.follower import Follower
from tidegate.serving.repository.plan import Plan, PlanFolder, Version


@dataclass
class FakeModel:
    """What a follower knows of a served model."""

    identity: Identity
    idle: bool = True
    closed: bool = False

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class FakeWorker:
    """One worker of a server: what it serves, what it ever opened, and versions that it cannot open."""

    index: int
    folder: PlanFolder
    first: Version
    endpoint: Endpoint = field(init=False)
    follower: Follower = field(init=False)
    opened: list[FakeModel] = field(default_factory=list)
    cannot_open: dict[str, Exception] = field(default_factory=dict)
    opening_takes: float = 0.0

    def __post_init__(self) -> None:
        self.endpoint = Endpoint("tiny")
        serving = self.folder.plan().serving
        self.endpoint.swap(self.open(serving) if serving else None)
        self.follower = Follower(self.endpoint, self.folder, self.index, self.open, serving=serving, patience=0.3)

    def open(self, version: Version) -> Any:
        time.sleep(self.opening_takes)
        if version.name in self.cannot_open:
            raise self.cannot_open[version.name]
        self.opened.append(FakeModel(Identity("tiny", version.name, "r")))
        return self.opened[-1]

    @property
    def answers(self) -> str | None:
        model: Any = self.endpoint.model
        assert model is None or not model.closed, "a closed model answers"
        return None if model is None else model.identity.version

    @property
    def still_open(self) -> list[str]:
        return [model.identity.version for model in self.opened if not model.closed]


def version(name: str, folder: Path | None = None) -> Version:
    return Version(name, f"sha256:{name}", str(folder or f"/packages/{name}"), fetched=True)


@pytest.fixture
def folder(tmp_path: Path) -> PlanFolder:
    path = tmp_path / "plan"
    path.mkdir()
    folder = PlanFolder(path)
    folder.write(Plan(1, version("1")))
    return folder


@pytest.fixture
def workers(folder: PlanFolder) -> Callable[[int], list[FakeWorker]]:
    def make(count: int) -> list[FakeWorker]:
        return [FakeWorker(index, folder, version("1")) for index in range(count)]

    return make


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.005)


DAMAGED = PackageError("package 2: the golden sample differs")
