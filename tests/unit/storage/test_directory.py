import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tidegate.errors import PreconditionFailed, StorageError
from tidegate.storage.directory import DirectoryStore


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.mark.parametrize("write", ["put", "create", "replace", "upload"])
def test_a_killed_writer_leaves_nothing_under_the_key(tmp_path: Path, store: DirectoryStore, write: str) -> None:
    (tmp_path / "source").write_bytes(b"new")
    before = {"kept": b"old"}
    if write in ("put", "replace"):
        before["key"] = b"old"
    for key, data in before.items():
        store.put(key, data)
    call = {
        "put": "store.put('key', b'new')",
        "create": "store.create('key', b'new')",
        "replace": "store.replace('key', b'new', store.get('key').etag)",
        "upload": f"store.upload('key', pathlib.Path({str(tmp_path / 'source')!r}))",
    }[write]

    ended = _run(f"os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); {call}", store)

    assert ended.returncode == -9
    assert {key: store.get(key).data for key in store.list()} == before
    assert store.put("key", b"newer")


def test_a_lock_ends_with_its_holder(store: DirectoryStore) -> None:
    store.put("key", b"old")

    ended = _run("pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); store.put('key', b'new')", store)

    assert ended.returncode == -9
    assert store.replace("key", b"newer", store.get("key").etag)


def test_a_full_disk_is_one_error_and_nothing_half_written(store: DirectoryStore) -> None:
    store.put("key", b"old")

    ended = _run(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: store.put('key', b'x' * 5000)\n"
        "except StorageError as error: print(error)",
        store,
    )

    assert ended.stdout.strip() == f"store {store.uri}: cannot write 'key': File too large"
    assert store.get("key").data == b"old"
    assert _staged(store) == []


def test_abandoned_staging_files_are_removed_after_a_day(tmp_path: Path, store: DirectoryStore) -> None:
    store.put("key", b"")
    staging = tmp_path / "store" / ".store" / "staging"
    for name, age in (("old", 25 * 3600), ("young", 23 * 3600)):
        (staging / name).write_bytes(b"")
        os.utime(staging / name, (time.time() - age,) * 2)

    DirectoryStore(tmp_path / "store").put("key", b"")

    assert _staged(store) == ["young"]


def test_links_are_never_followed_nor_listed(tmp_path: Path, store: DirectoryStore) -> None:
    store.put("inside/file", b"1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (tmp_path / "store" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "store" / "file").symlink_to(tmp_path / "outside" / "secret")
    (tmp_path / "store" / "dangling").symlink_to(tmp_path / "new")

    assert list(store.list()) == ["inside/file"]
    assert list(store.list("folder/")) == []
    for key in ("folder/secret", "file", "dangling"):
        with pytest.raises(StorageError, match="leads through a symbolic link"):
            store.get(key)
        with pytest.raises(StorageError, match="leads through a symbolic link"):
            store.put(key, b"changed")
    assert (tmp_path / "outside" / "secret").read_text() == "secret"
    assert not (tmp_path / "new").exists()


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    DirectoryStore(tmp_path / "link").put("a", b"1")

    assert (tmp_path / "real" / "a").read_bytes() == b"1"


def test_other_files_are_not_listed(tmp_path: Path, store: DirectoryStore) -> None:
    store.put("a", b"")
    os.mkfifo(tmp_path / "store" / "pipe")
    (tmp_path / "store" / "back\\slash").write_text("")
    Path(os.fsdecode(os.fsencode(tmp_path / "store") + b"/\xff")).write_text("")

    assert list(store.list()) == ["a"]


def test_an_unwritable_directory_is_one_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with _without_root_rights():
            store = DirectoryStore(Path(folder) / "store")
            with pytest.raises(StorageError, match=r"^store file:///.*/store: cannot write 'a': Permission denied$"):
                store.put("a", b"")
            assert list(store.list()) == []
            assert not store.exists("a")


def test_an_unreadable_object_is_one_error() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        DirectoryStore(Path(folder)).put("a", b"")
        (Path(folder) / "a").chmod(0o000)
        with _without_root_rights(), pytest.raises(StorageError, match=r"cannot read 'a': Permission denied$"):
            DirectoryStore(Path(folder)).get("a")


def test_a_key_below_an_object_is_refused(store: DirectoryStore) -> None:
    store.put("a", b"1")

    with pytest.raises(StorageError, match=r"cannot write 'a/b': a part of the key before the last is an object$") as caught:
        store.create("a/b", b"2")
    assert not isinstance(caught.value, PreconditionFailed)
    with pytest.raises(StorageError, match=r"cannot write 'a/b': a part of the key before the last is an object$"):
        store.put("a/b", b"2")
    assert not store.exists("a/b")


def test_a_folder_in_the_place_of_a_key_is_refused(store: DirectoryStore) -> None:
    store.put("a/b", b"1")

    with pytest.raises(StorageError, match=r"cannot write 'a'") as caught:
        store.create("a", b"2")
    assert not isinstance(caught.value, PreconditionFailed)
    with pytest.raises(StorageError, match=r"cannot write 'a'"):
        store.put("a", b"2")
    assert store.get("a/b").data == b"1"


def test_writers_and_deleters_of_one_folder_do_not_trip_each_other(store: DirectoryStore) -> None:
    script = "for n in range(300): store.put(f'a/b/{sys.argv[1]}', b''); store.delete(f'a/b/{sys.argv[1]}')"
    others = [_start(script, store, str(worker)) for worker in range(3)]

    for number in range(300):
        store.create(f"a/b/own-{number}", b"")
        store.delete(f"a/b/own-{number}")

    assert [other.wait(60) for other in others] == [0, 0, 0], [other.stderr.read() for other in others if other.stderr]
    assert list(store.list()) == []


class StoreLikeADictionary(RuleBasedStateMachine):
    """Whatever is done to the store, it holds what a dictionary would."""

    keys = st.sampled_from(["a/1", "a/2", "a/b/c/d", "b"])

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._store = DirectoryStore(Path(self._folder.name))
        self._model: dict[str, bytes] = {}
        self._etags: dict[str, str] = {}

    def teardown(self) -> None:
        self._folder.cleanup()

    @rule(key=keys, data=st.binary(max_size=3))
    def put(self, key: str, data: bytes) -> None:
        self._etags[key] = self._store.put(key, data)
        self._model[key] = data

    @rule(key=keys, data=st.binary(max_size=3))
    def create(self, key: str, data: bytes) -> None:
        if key in self._model:
            with pytest.raises(PreconditionFailed):
                self._store.create(key, data)
        else:
            self._etags[key] = self._store.create(key, data)
            self._model[key] = data

    @rule(key=keys, data=st.binary(max_size=3), stale=st.booleans())
    def replace(self, key: str, data: bytes, stale: bool) -> None:
        if stale or key not in self._model:
            with pytest.raises(PreconditionFailed):
                self._store.replace(key, data, "stale")
        else:
            self._etags[key] = self._store.replace(key, data, self._etags[key])
            self._model[key] = data

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self._store.delete(key)
        self._model.pop(key, None)

    @invariant()
    def holds_what_a_dictionary_would(self) -> None:
        assert {key: self._store.get(key).data for key in self._store.list()} == self._model


StoreLikeADictionary.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStoreLikeADictionary = StoreLikeADictionary.TestCase


@contextmanager
def _without_root_rights() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _script(body: str, store: DirectoryStore) -> list[str]:
    head = (
        "import os, pathlib, signal, sys\nfrom tidegate.errors import StorageError\n"
        f"from tidegate.storage import open_store\nstore = open_store({store.uri!r})\n"
    )
    return [sys.executable, "-c", head + body]


def _run(body: str, store: DirectoryStore) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_script(body, store), capture_output=True, text=True, timeout=60, check=False)


def _start(body: str, store: DirectoryStore, argument: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*_script(body, store), argument], stderr=subprocess.PIPE, text=True)


def _staged(store: DirectoryStore) -> list[str]:
    return sorted(path.name for path in (Path(store.uri.removeprefix("file://")) / ".store" / "staging").iterdir())
