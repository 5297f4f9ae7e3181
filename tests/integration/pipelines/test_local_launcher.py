"""The local launcher on real runs: events, failures, and that a run ends with everything it started."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import launcher
from pipelines.launcher import LocalLauncher, RunResult, TaskEvent
from tidegate.errors import PipelineError

OURS = launcher.REPOSITORY
# The catalog of a repository of its own, whose pipelines the real `pipelines.local_run` runs.
CATALOG = """
from kfp import dsl

def component(function):
    return dsl.component(function, base_image="tiny", install_kfp_package=False)

@component
def say(word: str) -> str:
    return word

@component
def fail(word: str) -> str:
    raise ValueError(f"cannot say {word!r}")

@component
def sleep(folder: str, child: str) -> str:
    import os, pathlib, signal, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    child.stdout.readline()
    def told(*_):
        pathlib.Path(folder, "told").touch()
        sys.exit(1)
    signal.signal(signal.SIGTERM, told)
    pathlib.Path(folder, "fresh").write_text(f"{os.getpid()} {child.pid}")
    pathlib.Path(folder, "fresh").rename(pathlib.Path(folder, "pids"))
    time.sleep(600)

@dsl.pipeline
def speaks(word: str = "hello"):
    first = say(word=word)
    say(word=first.output)

@dsl.pipeline
def fails(word: str = "hello"):
    first = say(word=word)
    fail(word=first.output)

@dsl.pipeline
def sleeps(folder: str = "", child: str = ""):
    sleep(folder=folder, child=child)

PIPELINES = {"speaks": speaks, "fails": fails, "sleeps": sleeps}
"""
LAUNCH = """
import sys
from pathlib import Path
import pipelines.launcher as launcher
launcher.REPOSITORY = folder = Path(sys.argv[1])
launcher.LocalLauncher(folder / "workspace").run("sleeps", {"folder": str(folder), "child": sys.argv[2]})
"""
MEEK = "import time; print('here', flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {MEEK}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with tiny pipelines, which the launcher runs instead of ours."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "catalog.py").write_text(CATALOG)
    (tmp_path / "pipelines" / "local_run.py").symlink_to(launcher.REPOSITORY / "pipelines" / "local_run.py")
    monkeypatch.setattr(launcher, "REPOSITORY", tmp_path)
    return tmp_path


@pytest.fixture
def launched(request: pytest.FixtureRequest, repository: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that launches the pipeline `sleeps`, once its task sleeps beside a child of its own."""
    command = [sys.executable, "-c", LAUNCH, str(repository), request.param]
    process = subprocess.Popen(command, cwd=OURS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for((repository / "pids").exists, process)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_run_that_succeeds_tells_of_its_tasks_in_order(repository):
    events: list[TaskEvent] = []

    result = LocalLauncher(repository / "workspace").run("speaks", {"word": 'it\'s "so"'}, on_event=events.append)

    assert (result.succeeded, result.cause) == (True, "")
    assert [(event.task, event.state) for event in events] == [
        ("say", "started"),
        ("say", "succeeded"),
        ("say-2", "started"),
        ("say-2", "succeeded"),
    ]
    assert tuple(events) == result.events
    assert all(0 < event.seconds < result.seconds for event in events if event.state == "succeeded")
    assert sorted(path.name for path in result.artifacts.iterdir()) == ["say", "say-2"]
    assert result.log.is_relative_to(repository / "workspace" / "runs")


def test_run_that_fails_names_the_task_and_its_error(repository):
    result = LocalLauncher(repository / "workspace").run("fails", {"word": "no"})

    assert (result.succeeded, result.cause) == (False, "fail: ValueError: cannot say 'no'")
    assert [(event.task, event.state) for event in result.events][-1] == ("fail", "failed")


def test_two_runs_do_not_share_a_folder(repository):
    launcher = LocalLauncher(repository / "workspace")

    assert launcher.run("fails", {}).log != launcher.run("fails", {}).log


def test_unwritable_workspace_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(PipelineError, match=r"runs folder .*/file/workspace/runs: cannot be written: Not a directory"):
        LocalLauncher(tmp_path / "file" / "workspace").run("speaks", {})


@pytest.mark.parametrize(
    ("launched", "number"),
    [
        pytest.param(MEEK, signal.SIGINT, id="ctrl-c"),
        pytest.param(MEEK, signal.SIGTERM, id="terminated"),
        pytest.param(DEAF, signal.SIGKILL, id="killed, and a child that does not heed"),
    ],
    indirect=["launched"],
)
def test_launcher_that_ends_ends_the_run_with_its_tasks(launched, repository, number):
    pids = [int(pid) for pid in (repository / "pids").read_text().split()]

    launched.send_signal(number)
    launched.communicate(timeout=60)

    wait_for(lambda: not any(map(runs, pids)))
    assert (repository / "told").exists()  # a task is asked before it is killed
    wait_for(lambda: not processes_about(repository))


def test_end_of_a_run_from_another_thread(repository):
    launcher = LocalLauncher(repository / "workspace")
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(launcher.run("sleeps", {"folder": str(repository), "child": MEEK})))
    thread.start()
    wait_for((repository / "pids").exists)

    launcher.end_running()
    thread.join(timeout=30)

    assert not results[0].succeeded
    assert not processes_about(repository)
    launcher.end_running()


def wait_for(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def processes_about(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_text()
            if str(folder) in command and path.name != str(os.getpid()):
                found.append(command)
    return found
