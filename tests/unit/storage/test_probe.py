from pathlib import Path

import pytest

from tidegate.errors import StorageError
from tidegate.storage.directory import DirectoryStore
from tidegate.storage.probe import probe_conditional_writes


class IgnoresCreate(DirectoryStore):
    def create(self, key: str, data: bytes) -> str:
        return self.put(key, data)


class IgnoresReplace(DirectoryStore):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        return self.put(key, data)


class LosesWritesSilently(DirectoryStore):
    def replace(self, key: str, data: bytes, etag: str) -> str:
        return etag if self.exists(key) and etag == self.get(key).etag else super().replace(key, data, etag)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        pytest.param(IgnoresCreate, "created a key that was taken", id="If-None-Match"),
        pytest.param(IgnoresReplace, "replaced an object that had changed", id="If-Match"),
        pytest.param(LosesWritesSilently, "replaced an object that had changed", id="writes that do nothing"),
    ],
)
def test_a_store_that_ignores_conditions_is_refused_every_time(tmp_path: Path, kind: type[DirectoryStore], names: str) -> None:
    store = kind(tmp_path)

    for _ in range(2):
        with pytest.raises(StorageError, match=rf"ignores conditional writes: it {names}.*such as AWS S3"):
            probe_conditional_writes(store)

    assert list(store.list()) == []


def test_an_unwritable_store_is_said_to_be_that() -> None:
    with pytest.raises(StorageError, match="cannot write 'probe/"):
        probe_conditional_writes(DirectoryStore(Path("/proc/store")))
