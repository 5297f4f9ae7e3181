import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tidegate.deployment.local.processes import end, kill_supervised, start_bound, started_at, supervised


def start(tmp_path, script, *, parent_death=signal.SIGTERM):
    return start_bound(
        [sys.executable, "-c", script],
        env=dict(os.environ),
        state=tmp_path,
        log=tmp_path / "log",
        parent_death=parent_death,
    )


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


IGNORES_SIGTERM = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
WITH_A_CHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
)


@pytest.mark.parametrize(
    ("script", "grace"),
    [
        pytest.param("import time; time.sleep(60)", 10, id="ends when asked"),
        pytest.param(IGNORES_SIGTERM, 0.3, id="ignores it"),
        pytest.param(WITH_A_CHILD, 10, id="leaves a child"),
    ],
)
def test_end_leaves_nothing_of_the_group(tmp_path, script, grace):
    async def run():
        process = await start(tmp_path, script)
        await asyncio.sleep(0.3)
        await end(process, grace=grace)

    asyncio.run(run())

    eventually(lambda: supervised(tmp_path) == [])


def test_output_is_appended_to_the_log(tmp_path):
    async def run():
        for text in ("one", "two"):
            await (await start(tmp_path, f"import sys; sys.exit('{text}')")).wait()

    asyncio.run(run())

    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("parent_death", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_dies_with_its_parent(tmp_path, parent_death):
    parent = textwrap.dedent(f"""
        import asyncio, os, signal, sys, time
        from pathlib import Path
        from tidegate.deployment.local.processes import start_bound
        async def main():
            await start_bound([sys.executable, "-c", "import time; time.sleep(60)"], env=dict(os.environ),
                state=Path({str(tmp_path)!r}), log=Path({str(tmp_path)!r}, "log"), parent_death=signal.{parent_death.name})
            await asyncio.sleep(60)
        asyncio.run(main())
    """)
    process = subprocess.Popen([sys.executable, "-c", parent])
    try:
        eventually(lambda: len(supervised(tmp_path)) == 1)
        time.sleep(0.2)
    finally:
        process.kill()
        process.wait()

    eventually(lambda: supervised(tmp_path) == [])


def test_kill_supervised_ends_only_what_bears_the_mark_of_this_state(tmp_path):
    async def run():
        for name in ("mine", "other"):
            (tmp_path / name).mkdir()
        mine = await start(tmp_path / "mine", IGNORES_SIGTERM)
        other = await start(tmp_path / "other", IGNORES_SIGTERM)
        await asyncio.sleep(0.2)
        count = kill_supervised(tmp_path / "mine")
        assert (count, supervised(tmp_path / "mine")) == (1, [])
        assert supervised(tmp_path / "other") == [other.pid]
        await mine.wait()
        await end(other, grace=0)

    asyncio.run(run())


def test_started_at_tells_processes_apart():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert started_at(child.pid) >= started_at(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert started_at(child.pid) is None
