"""A process that is killed at any of its writes leaves a registry that is whole, and that goes on."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.packaging.format.signing import verify_signature
from tidegate.registry.registry import ANY, ModelRegistry
from tidegate.storage.directory import DirectoryStore

MakePackage = Callable[..., Path]
MODEL = "flights-late"
PROBE_WRITES = 4
REGISTER_WRITES = 8  # claim, five files, manifest, event
SIGNED_WRITES = 9  # the signature too, before the manifest
MOVE_WRITES = 3  # the event of the last move, the alias, the event


class KillsItself(DirectoryStore):
    """Kills its process at the n-th write, before or after the write takes effect."""

    def __init__(self, root: Path, at: int, *, after: bool) -> None:
        super().__init__(root)
        self._left = at
        self._after = after

    def create(self, key: str, data: bytes) -> str:
        return self._count(lambda: DirectoryStore.create(self, key, data))

    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self._count(lambda: DirectoryStore.replace(self, key, data, etag))

    def upload(self, key: str, path: Path) -> None:
        self._count(lambda: DirectoryStore.upload(self, key, path))

    def _count(self, write: Callable[[], str | None]) -> str:
        self._left -= 1
        if self._left == 0 and not self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return write() or ""
        finally:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, PROBE_WRITES + REGISTER_WRITES + 1))
def test_killed_while_registering(tmp_path: Path, make_package: MakePackage, at: int, after: bool) -> None:
    root = tmp_path / "store"
    package, other = make_package("a"), make_package("b")

    _killed(lambda: ModelRegistry(KillsItself(root, at, after=after)).register(package, reason="killed"))
    registry = ModelRegistry(DirectoryStore(root))

    published = at > PROBE_WRITES + REGISTER_WRITES - 1 or (at == PROBE_WRITES + REGISTER_WRITES - 1 and after)
    assert registry.models() == ([MODEL] if published else [])
    between = registry.register(other, reason="someone else")
    again = registry.register(package, reason="once more")
    claimed = at > PROBE_WRITES + 1 or (at == PROBE_WRITES + 1 and after)
    assert (again, between) == ((1, 2) if claimed else (2, 1))
    for version in (again, between):
        registry.verify(MODEL, version)
    registered = sorted(event.version for event in registry.events(MODEL))
    assert registered == [1, 2], "every registration is told once"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(PROBE_WRITES + 6, PROBE_WRITES + SIGNED_WRITES + 1))
def test_killed_while_registering_a_signed_package(
    tmp_path: Path, signed_package: MakePackage, public_key: Path, at: int, after: bool
) -> None:
    root = tmp_path / "store"
    package = signed_package("a")

    _killed(lambda: ModelRegistry(KillsItself(root, at, after=after)).register(package, reason="killed"))
    registry = ModelRegistry(DirectoryStore(root))

    if registry.models():
        verify_signature(registry.download(MODEL, 1, tmp_path / "first"), public_key)  # no version is without its signature
    assert registry.register(package, reason="once more") == 1
    verify_signature(registry.download(MODEL, 1, tmp_path / "second"), public_key)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, PROBE_WRITES + MOVE_WRITES + 1))
def test_killed_while_moving_an_alias(tmp_path: Path, make_package: MakePackage, at: int, after: bool) -> None:
    root = tmp_path / "store"
    registry = ModelRegistry(DirectoryStore(root))
    for content in ("a", "b", "c"):
        registry.register(make_package(content), reason="why")
    registry.move_alias(MODEL, "champion", 1, reason="first", expected=None)

    _killed(
        lambda: ModelRegistry(KillsItself(root, at, after=after)).move_alias(MODEL, "champion", 2, reason="killed", expected=1)
    )

    moved = at > PROBE_WRITES + 2 or (at == PROBE_WRITES + 2 and after)
    assert registry.resolve(MODEL, "champion") == (2 if moved else 1)
    assert _moves(registry) == ([1, 2] if moved else [1])
    registry.move_alias(MODEL, "champion", 3, reason="after", expected=ANY)
    assert _moves(registry) == ([1, 2, 3] if moved else [1, 3])
    assert registry.rollback(MODEL, reason="back").version == (2 if moved else 1)


def test_registrations_told_only_by_their_claims_are_in_the_audit_trail(tmp_path: Path, make_package: MakePackage) -> None:
    at = PROBE_WRITES + REGISTER_WRITES
    _killed(lambda: ModelRegistry(KillsItself(tmp_path / "store", at, after=False)).register(make_package(), reason="killed"))
    store = DirectoryStore(tmp_path / "store")

    assert list(store.list(f"models/{MODEL}/events/")) == []
    assert [event.reason for event in ModelRegistry(store).events(MODEL)] == ["killed"]


def _killed(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the work ended without reaching the write at which it was to be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def _moves(registry: ModelRegistry) -> list[int]:
    return [event.version for event in registry.events(MODEL) if event.alias == "champion"]
