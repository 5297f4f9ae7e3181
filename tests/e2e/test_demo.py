"""The demo's refusals, and that it leaves nothing running when interrupted. Run in a clone, with its own workspace."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.launcher import REPOSITORY

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ("components", "examples", "feature_repo", "pipelines"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@contextmanager
def demo(clone: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "examples.flights.demo", *arguments]
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refusal(clone: Path, *arguments: str) -> str:
    with demo(clone, *arguments) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    return stderr


@pytest.mark.parametrize("share", ["5", "nan"])
def test_share_that_is_none_is_refused(clone, share):
    assert f"--share {float(share)} must lie above 0 and at most at 1" in refusal(clone, f"--share={share}")
    assert not (clone / ".tidegate").exists()


def test_unwritable_workspace_is_refused(clone):
    (clone / ".tidegate").write_text("")

    assert f"workspace {clone}/.tidegate: cannot be written" in refusal(clone)


def test_second_demo_is_refused_and_touches_nothing(clone):
    kept = clone / ".tidegate" / "store" / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_text("")
    with (clone / ".tidegate" / "demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()

        assert f"another demo runs in {clone}/.tidegate (pid 4711); wait for it or stop it" in refusal(clone)

    assert kept.exists()


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, id="ctrl-c"), pytest.param(signal.SIGTERM, 143, id="terminated")]
)
def test_interrupted_demo_leaves_no_process(clone, number, status):
    with demo(clone) as process:
        wait_for(lambda: "Executing task" in first_log(clone), process)
        supervisor = json.loads((clone / ".tidegate" / "local" / "supervisor.json").read_text())["pid"]
        assert Path(f"/proc/{supervisor}").exists()
        assert f"(pid {process.pid})" in refusal(clone)
        assert process.poll() is None

        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)

    assert process.returncode == status
    assert "Traceback" not in stderr
    if number == signal.SIGINT:
        assert stderr.splitlines()[-1] == "interrupted; everything that was started has been stopped"
    assert processes_in(clone) == []


def first_log(clone: Path) -> str:
    logs = sorted((clone / ".tidegate" / "runs").glob("*/run.log"))
    return logs[0].read_text() if logs else ""


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that work in the folder or name it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_text().replace("\0", " ").strip()
            if command and (str(folder) in command or str((path / "cwd").readlink()).startswith(str(folder))):
                found.append(command)
        except OSError:
            continue
    return found
