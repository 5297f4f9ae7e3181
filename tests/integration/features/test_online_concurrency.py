"""One process materializes while others read: readers are neither blocked nor ever shown half a transaction."""

import asyncio
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime

import pytest

from tidegate.features.online import OnlineReader
from tidegate.features.online_file import online_uri, open_writer
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView

NOW = datetime(2013, 7, 1, tzinfo=UTC)
CUSTOMERS = [f"c{i}" for i in range(500)]
VIEW = FeatureView(
    name="visits", join_keys=("customer",), ttl_seconds=0, features=(FeatureField(name="step", datatype="INT64", default=-1),)
)
CONTRACT = FeatureContract(service="s", project="shop", views=(VIEW,))

WRITER = """
    import sys
    from pathlib import Path
    from tidegate.features.online_file import open_writer, upsert
    from tidegate.features.packed_row import pack_key, pack_row, view_prefix

    connection = open_writer(Path(sys.argv[1]))
    prefix = view_prefix("shop", "visits")
    step = 0
    while True:
        step += 1
        rows = [(pack_key(prefix, (f"c{i}",)), step, 0, pack_row({"step": step})) for i in range(500)]
        connection.execute("BEGIN IMMEDIATE")
        upsert(connection, rows)
        connection.execute("COMMIT")
        print(step, flush=True)
"""


@pytest.fixture
def writer(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path / "online.db")], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_readers_see_whole_steps_while_a_writer_writes_and_after_it_is_killed(tmp_path, writer):
    reader = OnlineReader.open(online_uri(tmp_path / "online.db"), CONTRACT)
    assert asyncio.run(reader.read({"customer": CUSTOMERS}, NOW)).columns["visits__step"].tolist()[0] in (-1, 1)
    assert writer.stdout.readline() == "1\n"

    seen, end = [], time.monotonic() + 1.5
    while time.monotonic() < end:
        steps = set(asyncio.run(reader.read({"customer": CUSTOMERS}, NOW)).columns["visits__step"].tolist())
        assert len(steps) == 1
        seen.append(steps.pop())
    writer.kill()
    writer.wait()
    acknowledged = int(writer.stdout.read().split()[-1])

    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
    after = set(asyncio.run(reader.read({"customer": CUSTOMERS}, NOW)).columns["visits__step"].tolist())
    assert len(after) == 1
    assert after.pop() >= acknowledged
    open_writer(tmp_path / "online.db").close()  # the file of a killed writer opens again
