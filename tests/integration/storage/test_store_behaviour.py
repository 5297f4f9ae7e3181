"""What every object store must do: one suite over the directory and over S3 by HTTP."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from tidegate.errors import ObjectNotFound, PreconditionFailed, StorageError
from tidegate.storage import ObjectStore, open_store
from tidegate.storage.probe import probe_conditional_writes

Result = TypeVar("Result")


@pytest.fixture(params=["directory", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return f"file://{tmp_path / 'store'}"
    return f"s3://{request.getfixturevalue('s3_bucket')}/team-a/models"


@pytest.fixture
def store(uri: str) -> ObjectStore:
    return open_store(uri)


def test_address_opens_the_same_store_again(store: ObjectStore, uri: str) -> None:
    store.put("a/b", b"1")

    assert store.uri == uri
    assert open_store(store.uri + "/").get("a/b").data == b"1"


def test_put_and_get_round_trip(store: ObjectStore) -> None:
    etag = store.put("a/b.bin", b"\x00\xff")

    assert store.get("a/b.bin").data == b"\x00\xff"
    assert store.get("a/b.bin").etag == etag
    assert store.size("a/b.bin") == 2
    assert store.put("a/b.bin", b"other") == store.get("a/b.bin").etag != etag


@pytest.mark.parametrize("key", ["a", "hour=2013-04-01T05/x.parquet", "with space & ünï+%2F", "a/" + "b" * 200])
def test_keys_round_trip(store: ObjectStore, key: str) -> None:
    store.put(key, b"1")

    assert list(store.list()) == [key]
    assert store.get(key).data == b"1"


def test_empty_object(store: ObjectStore) -> None:
    store.put("empty", b"")

    assert store.get("empty").data == b""
    assert store.exists("empty")
    assert store.size("empty") == 0


def test_missing_object(store: ObjectStore, tmp_path: Path) -> None:
    assert not store.exists("a/b")
    store.delete("a/b")
    with pytest.raises(ObjectNotFound, match="holds no 'a/b'"):
        store.get("a/b")
    with pytest.raises(ObjectNotFound, match="holds no 'a/b'"):
        store.size("a/b")
    with pytest.raises(ObjectNotFound, match="holds no 'a/b'"):
        store.download("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_folder_is_no_object(store: ObjectStore) -> None:
    store.put("a/b", b"1")

    assert not store.exists("a")
    for read in (store.get, store.size):
        with pytest.raises(ObjectNotFound):
            read("a")


def test_create_takes_a_free_key_only(store: ObjectStore) -> None:
    etag = store.create("a/b", b"first")

    with pytest.raises(PreconditionFailed, match="'a/b' exists already"):
        store.create("a/b", b"second")
    assert store.get("a/b").data == b"first"
    assert store.get("a/b").etag == etag


def test_replace_needs_the_current_etag(store: ObjectStore) -> None:
    first = store.create("a/b", b"first")
    second = store.replace("a/b", b"second", first)

    with pytest.raises(PreconditionFailed, match="'a/b' was changed"):
        store.replace("a/b", b"third", first)
    assert store.get("a/b").data == b"second"
    assert store.replace("a/b", b"third", second) == store.get("a/b").etag


def test_replace_of_what_is_gone(store: ObjectStore) -> None:
    etag = store.create("a/b", b"first")
    store.delete("a/b")

    with pytest.raises(PreconditionFailed, match="'a/b'"):
        store.replace("a/b", b"second", etag)
    assert not store.exists("a/b")


def test_delete_frees_the_key(store: ObjectStore) -> None:
    store.create("a/b/c", b"first")
    store.delete("a/b/c")

    assert not store.exists("a/b/c")
    assert list(store.list()) == []
    store.create("a/b/c", b"second")
    store.delete("a/b/c")
    store.create("a", b"what was a folder is a key now")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        pytest.param("", ["a-b/1", "a/1", "a/10", "a/2/x", "b"], id="everything, sorted as S3 sorts"),
        pytest.param("a/", ["a/1", "a/10", "a/2/x"], id="a folder"),
        pytest.param("a/1", ["a/1", "a/10"], id="a prefix is no folder"),
        pytest.param("a", ["a-b/1", "a/1", "a/10", "a/2/x"], id="a part of a name"),
        pytest.param("a/2/x", ["a/2/x"], id="a whole key"),
        pytest.param("c/", [], id="nothing"),
        pytest.param("b/", [], id="an object is no folder"),
    ],
)
def test_list(store: ObjectStore, prefix: str, expected: list[str]) -> None:
    for key in ["b", "a/2/x", "a/10", "a/1", "a-b/1"]:
        store.put(key, b"")

    assert list(store.list(prefix)) == expected


def test_list_of_an_empty_store(store: ObjectStore) -> None:
    assert list(store.list()) == []


def test_upload_and_download(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB: more than one part of a multipart upload

    store.upload("model.onnx", source)
    store.download("model.onnx", tmp_path / "new" / "copy")

    assert (tmp_path / "new" / "copy").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]
    assert store.replace("model.onnx", b"small", store.get("model.onnx").etag)


def test_upload_of_a_missing_file(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere.*No such file"):
        store.upload("a", tmp_path / "nowhere")
    assert not store.exists("a")


def test_download_to_an_impossible_place(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"1")
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError, match="cannot write the download"):
        store.download("a", tmp_path / "file" / "copy")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="empty"),
        pytest.param("/a", id="absolute"),
        pytest.param("a/", id="slash at the end"),
        pytest.param("a//b", id="empty part"),
        pytest.param(".", id="dot"),
        pytest.param("./a", id="dot part"),
        pytest.param("../a", id="out of the store"),
        pytest.param("a/../b", id="dot dot inside"),
        pytest.param("a/..", id="dot dot at the end"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("a\x00b", id="nul"),
        pytest.param("a\nb", id="newline"),
        pytest.param("a\ud800", id="not Unicode"),
        pytest.param(".store/locks/00", id="reserved"),
        pytest.param("é" * 128, id="long part"),
        pytest.param("/".join(["a" * 200] * 6), id="long key"),
    ],
)
def test_unsafe_keys_are_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_text("1")
    attempts: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: store.put(key, b""),
        lambda: store.create(key, b""),
        lambda: store.replace(key, b"", "etag"),
        lambda: store.exists(key),
        lambda: store.size(key),
        lambda: store.delete(key),
        lambda: store.upload(key, tmp_path / "file"),
        lambda: store.download(key, tmp_path / "copy"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="store: key"):
            attempt()


@pytest.mark.parametrize("prefix", ["../", "a/../", "/", "a//", "./"])
def test_unsafe_prefixes_are_refused(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(StorageError, match="no key can start with"):
        list(store.list(prefix))


def test_many_creators_of_one_key_have_one_winner(store: ObjectStore) -> None:
    outcomes = list(_together(20, lambda worker: _wins(lambda: store.create("only", str(worker).encode()))))

    assert outcomes.count(True) == 1
    assert store.get("only").data == str(outcomes.index(True)).encode()


def test_no_increment_by_compare_and_swap_is_lost(store: ObjectStore) -> None:
    store.create("counter", b"0")

    def increment(_: int) -> int:
        lost = 0
        while True:
            stored = store.get("counter")
            try:
                store.replace("counter", str(int(stored.data) + 1).encode(), stored.etag)
            except PreconditionFailed:
                lost += 1
                continue
            return lost

    lost = list(_together(20, increment))

    assert store.get("counter").data == b"20"
    assert sum(lost) > 0, "no two increments ever met: the test proved nothing"


def test_readers_never_see_half_an_object(store: ObjectStore) -> None:
    versions = [bytes([number]) * 300_000 for number in range(10)]
    store.put("large", versions[0])

    def read_or_write(worker: int) -> bool:
        if worker == 0:
            for version in versions:
                store.put("large", version)
            return True
        return all(store.get("large").data in versions for _ in range(10))

    assert all(_together(4, read_or_write))


def test_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    probe_conditional_writes(store)

    assert list(store.list()) == []


def _wins(write: Callable[[], object]) -> bool:
    try:
        write()
    except PreconditionFailed:
        return False
    return True


def _together(workers: int, work: Callable[[int], Result]) -> Iterator[Result]:
    start = threading.Barrier(workers)

    def run(worker: int) -> Result:
        start.wait()
        return work(worker)

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(run, range(workers))
