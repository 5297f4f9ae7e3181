"""Logs of the tiny package to a directory that can fail, hang and recover."""

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tidegate.errors import StorageError
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.layout import MetricsLayout
from tidegate.serving.metrics.memory import MetricsMemory
from tidegate.serving.metrics.text import render
from tidegate.storage import ObjectStore, open_store


class Flaky:
    """A store that fails while `broken`, and waits while `held`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.broken = False
        self.held = threading.Event()
        self.held.set()
        self.puts: list[str] = []

    def put(self, key: str, data: bytes) -> str:
        self.held.wait()
        if self.broken:
            raise StorageError("no space\nleft")
        tag = self._store.put(key, data)
        self.puts.append(key)
        return tag

    def rows(self) -> list[dict[str, Any]]:
        tables = [pq.read_table(io.BytesIO(self._store.get(key).data)) for key in self.puts]
        return pa.concat_tables(tables).to_pylist() if tables else []


class Counted:
    """The metrics of one worker as a scrape shows them."""

    def __init__(self, manifest: Manifest) -> None:
        self.memory = MetricsMemory(MetricsLayout(manifest), 1, {"model": "tiny"})

    def __call__(self, name: str, label: str = "") -> int:
        lines = render(self.memory).decode().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}{{") and label in line).split()[-1])


@pytest.fixture
def store(tmp_path: Path) -> Flaky:
    return Flaky(open_store(str(tmp_path / "store")))


@pytest.fixture
def metric(tiny_manifest: Manifest) -> Counted:
    return Counted(tiny_manifest)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], bool]:
    def wait(condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 10
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        return condition()

    return wait
