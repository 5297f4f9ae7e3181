"""The mirror of a cluster's data: only what changed travels, nothing leads out of the folder, a killed one goes on."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError, StorageError
from tidegate.features.mirror import MirrorReport, mirror
from tidegate.storage.store import StoredEntry


class Bucket:
    """Objects by key, which count as changed whenever they are put; `broken` ones cannot be downloaded."""

    uri = "s3://bucket/data"

    def __init__(self, **objects):
        self.objects = {}
        self.broken = set()
        self.downloaded = []
        self._puts = 0
        self._lock = threading.Lock()
        for key, data in objects.items():
            self.put(key, data)

    def put(self, key, data=b"data"):
        self._puts += 1
        self.objects[key] = (data, f"etag {self._puts}")

    def entries(self):
        return [StoredEntry(key, len(data), etag) for key, (data, etag) in sorted(self.objects.items())]

    def download(self, key, path: Path):
        if key in self.broken:
            raise StorageError(f"store {self.uri}: cannot read {key!r}: broken")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.objects[key][0])
        with self._lock:
            self.downloaded.append(key)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "workspace" / "data"


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_downloaded_once(folder):
    bucket = Bucket(**{"visits.parquet": b"abc", "prices/day=1/part.parquet": b"defg", "empty.parquet": b""})

    first, second = mirror(bucket, folder), mirror(bucket, folder)

    assert files(folder) == {"visits.parquet": b"abc", "prices/day=1/part.parquet": b"defg", "empty.parquet": b""}
    assert first == MirrorReport(downloaded=3, downloaded_bytes=7, unchanged=0, removed=0)
    assert second == MirrorReport(downloaded=0, downloaded_bytes=0, unchanged=3, removed=0)
    assert sorted(bucket.downloaded) == sorted(bucket.objects)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda bucket, folder: bucket.put("a", b"new!"), id="other-content"),
        pytest.param(lambda bucket, folder: bucket.put("a", b"old!"), id="other-etag-only"),
        pytest.param(lambda bucket, folder: (folder / "a").write_bytes(b"edited"), id="local-edit"),
        pytest.param(lambda bucket, folder: os.utime(folder / "a", (1, 1)), id="local-touch"),
        pytest.param(lambda bucket, folder: (folder / "a").unlink(), id="local-removal"),
    ],
)
def test_a_change_on_either_side_is_mended(folder, change):
    bucket = Bucket(a=b"old!", b=b"other")
    mirror(bucket, folder)
    bucket.downloaded.clear()
    change(bucket, folder)

    mirror(bucket, folder)

    assert bucket.downloaded == ["a"]
    assert files(folder) == {key: data for key, (data, _) in bucket.objects.items()}


def test_what_is_gone_is_removed_and_what_was_never_mirrored_stays(folder):
    bucket = Bucket(**{"prices/1": b"1", "prices/2": b"2"})
    mirror(bucket, folder)
    (folder / "own").write_bytes(b"mine")
    del bucket.objects["prices/1"]

    report = mirror(bucket, folder)

    assert report.removed == 1
    assert files(folder) == {"prices/2": b"2", "own": b"mine"}


def test_a_file_may_become_a_folder_and_a_folder_a_file(folder):
    mirror(Bucket(**{"prices": b"1", "visits/1/2": b"2"}), folder)

    mirror(Bucket(**{"prices/1": b"3", "visits": b"4"}), folder)

    assert files(folder) == {"prices/1": b"3", "visits": b"4"}


def test_a_failed_mirror_goes_on_where_it_stopped(folder):
    bucket = Bucket(**{f"file{i}": b"x" * i for i in range(30)})
    bucket.broken = {"file29"}
    with pytest.raises(StorageError, match="cannot read 'file29': broken"):
        mirror(bucket, folder)
    kept = len(bucket.downloaded)
    bucket.broken = set()
    bucket.downloaded.clear()

    mirror(bucket, folder)

    assert kept > 0
    assert len(bucket.downloaded) == 30 - kept
    assert len(files(folder)) == 30


@pytest.mark.parametrize("record", [b"", b"not json", b"[1]", b'{"a": 3, "../../outside": ["etag 1", 1, 1]}'])
def test_a_damaged_record_costs_a_download_and_nothing_else(folder, record):
    outside = folder.parent.parent / "outside"
    outside.write_bytes(b"untouched")
    bucket = Bucket(a=b"1")
    mirror(bucket, folder)
    (folder.parent / ".data.mirror.json").write_bytes(record)

    mirror(bucket, folder)

    assert bucket.downloaded == ["a", "a"]
    assert outside.read_bytes() == b"untouched"


@pytest.mark.parametrize(
    "key", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "a/./b", "..", "back\\slash", "line\nbreak", ".store/x"]
)
def test_a_key_that_leads_out_is_refused_before_anything_is_downloaded(folder, key):
    bucket = Bucket(**{"a": b"1", key: b"evil"})

    with pytest.raises(StorageError, match=r"data s3://bucket/data: key .* leads out of .* or is no file name") as caught:
        mirror(bucket, folder)

    assert "\n" not in str(caught.value)
    assert bucket.downloaded == []


def test_a_link_that_leads_out_is_not_followed(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(outside)

    with pytest.raises(StorageError, match="leads out of"):
        mirror(Bucket(**{"link/a": b"1"}), folder)

    assert list(outside.iterdir()) == []


def test_folder_markers_are_no_files(folder):
    mirror(Bucket(**{"prices/": b"", "prices/1": b"1"}), folder)

    assert files(folder) == {"prices/1": b"1"}


@pytest.mark.parametrize("objects", [{}, {"folder/": b""}])
def test_an_empty_store_is_one_clear_error(folder, objects):
    with pytest.raises(DataError, match=r"^data s3://bucket/data: holds nothing; upload the Parquet files"):
        mirror(Bucket(**objects), folder)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e", "f/g/h"]), st.binary(max_size=3), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_after_any_history_the_folder_is_the_store(tmp_path_factory, history):
    folder, bucket = tmp_path_factory.mktemp("workspace") / "data", Bucket()
    for state in history:
        bucket.objects = {key: value for key, value in bucket.objects.items() if key in state}
        for key, data in state.items():
            if bucket.objects.get(key, (None,))[0] != data:
                bucket.put(key, data)

        mirror(bucket, folder)

        assert files(folder) == state
    assert set(json.loads((folder.parent / ".data.mirror.json").read_text())) == set(history[-1])
