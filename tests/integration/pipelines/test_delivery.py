"""The delivery through kfp.local on real model servers: promoted, killed half-way, failed before it began."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import yaml

from pipelines.failure import failure_cause
from pipelines.launcher import REPOSITORY
from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget
from tidegate.features.online_file import open_writer
from tidegate.packaging.format.manifest import MANIFEST_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.project import Project, load_project
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.release.record import ReleaseLedger, ReleaseRecord
from tidegate.release.settlement import settle_rollout
from tidegate.rollout.record import RolloutJournal
from tidegate.storage import open_store

pytestmark = pytest.mark.timeout(300)
NAME = "tiny"
PROJECT = {
    "schema_version": 1,
    "name": NAME,
    "task": "binary-classification",
    "workspace": "workspace",
    "features": {
        "repository": "features",
        "service": "tiny_v1",
        "entity_rows": "rows.parquet",
        "id_column": "flight_id",
        "request_inputs": ["carrier", "origin", "distance", "hour"],
    },
    "label": {"column": "label", "known_at_column": "known_at"},
    "training": {"function": "train:train", "window_days": 30, "holdout_days": 7},
    "gates": {"accuracy": {"minimum": 0.6}},
    "rollout": {"steps": [20, 100], "look_seconds": 0.5, "min_requests": 50, "max_step_seconds": 120},
}
DELIVER = """
import json, sys
from kfp import local
from pipelines.deliver import deliver_pipeline
from pipelines.placement import Placement
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
deliver_pipeline(Placement())(**json.loads(sys.argv[1]))
"""


@dataclass
class Machine:
    """A project whose versions are registered, but never rolled out, and a supervisor that would serve them."""

    project: Project

    @property
    def store(self):
        return open_store(self.project.store_uri)

    @property
    def journal(self) -> RolloutJournal:
        return RolloutJournal(self.store, NAME)

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.store)

    @property
    def target(self) -> LocalTarget:
        return LocalTarget(self.project.paths.workspace)

    @property
    def champion(self) -> int:
        return self.registry.alias(NAME, CHAMPION).version

    def release(self, version: int) -> ReleaseRecord:
        record = ReleaseLedger(self.store, NAME).find(f"release-{version}")
        assert record is not None
        return record

    def deliver(self, version: int) -> "subprocess.Popen[str]":
        arguments = {
            "project_file": str(self.project.file),
            "project_digest": self.project.digest,
            "target": "local",
            "release_id": f"release-{version}",
            "version": version,
            "clock": "wall",
            "reason": "test",
        }
        root = self.project.file.parent / f"run-{version}"
        command = [sys.executable, "-c", DELIVER, json.dumps(arguments), str(root)]
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def summary(self, version: int, task: str) -> str:
        [file] = (self.project.file.parent / f"run-{version}").rglob(f"{task}/summary")
        return file.read_text()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tiny_package: Path) -> Iterator[Machine]:
    root = tmp_path_factory.mktemp("delivery")
    (root / "tidegate.yaml").write_text(yaml.safe_dump(PROJECT))
    (root / "features").mkdir()
    (root / "features" / "feature_store.yaml").write_text(yaml.safe_dump({"online_store": {"path": str(root / "online.db")}}))
    open_writer(root / "online.db").close()
    machine = Machine(load_project(root / "tidegate.yaml"))
    ledger = ReleaseLedger(machine.store, NAME)
    for version in (1, 2, 3):
        package = shutil.copytree(tiny_package, root / f"package-{version}")
        manifest = msgspec.structs.replace(read_manifest(package), threshold=0.3 + version / 10)
        (package / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
        ledger.begin(f"release-{version}", event_time=datetime(2024, 3, version, tzinfo=UTC), reason="test")
        ledger.registered(f"release-{version}", machine.registry.register(package, reason="test"))
    workspace = machine.project.paths.workspace
    start_supervisor(workspace)
    try:
        yield machine
    finally:
        stop_supervisor(workspace)


@pytest.fixture(scope="module")
def promoted(machine) -> str:
    """The first version, delivered: promoted, since there is nothing to compare it with; the run's log."""
    run = machine.deliver(1)
    log, _ = run.communicate(timeout=120)
    assert run.returncode == 0, log
    return log


@pytest.fixture(scope="module")
def killed(machine, promoted) -> tuple[int, str]:
    """The second version, whose rollout is killed as a canary; how the run ended."""
    run = machine.deliver(2)
    try:
        wait_for(lambda: progresses(machine), run)
        assert machine.target.get(NAME).canary_percent == 20
        os.kill(rollout_process(machine), signal.SIGKILL)
        log, _ = run.communicate(timeout=120)
    finally:
        run.kill()
    return run.returncode, log


def test_finished_rollout_is_left_alone(machine, promoted):
    release, rollout = machine.release(1), machine.journal.current()

    assert (release.state, rollout.state, machine.champion) == ("promoted", "promoted", 1)
    assert "settle-rollout' finished with status SUCCESS" in plain(promoted)
    assert machine.summary(1, "settle-rollout") == machine.summary(1, "roll-out")
    assert [transition.state for transition in rollout.transitions] == ["pending", "promoting", "promoted"]


def test_killed_rollout_is_rolled_back_and_the_run_fails(machine, killed):
    status, log = killed
    release, rollout, service = machine.release(2), machine.journal.current(), machine.target.get(NAME)

    assert status != 0
    assert failure_cause(log) == "roll-out: ended without an error"
    assert "settle-rollout' finished with status SUCCESS" in plain(log)
    assert (rollout.version, rollout.state) == (2, "rolled_back")
    assert rollout.outcome == "aborted: the step that rolls out ended before the outcome"
    assert (service.stable.name, service.canary, machine.champion) == ("v1", None, 1)
    assert (release.state, release.rollout_id, release.stopped_by) == ("rolled_back", rollout.rollout_id, "")
    assert "rolled back" in machine.summary(2, "settle-rollout")
    assert rollout.outcome in machine.summary(2, "settle-rollout")


def test_settling_again_changes_nothing(machine, killed):
    before = (machine.release(2), machine.journal.current(), machine.target.get(NAME))

    words = settle_rollout(machine.project, release_id="release-2")

    assert words == "version 2 was rolled back: aborted: the step that rolls out ended before the outcome"
    assert (machine.release(2), machine.journal.current(), machine.target.get(NAME)) == before


def test_rollout_that_never_began_is_told_with_its_cause(machine, killed):
    before = (machine.journal.current(), machine.target.get(NAME))
    (machine.project.paths.repository / "feature_store.yaml").unlink()

    run = machine.deliver(3)
    log, _ = run.communicate(timeout=120)

    assert run.returncode != 0
    assert failure_cause(log).startswith("roll-out: ")
    assert "feature_store.yaml" in failure_cause(log)
    assert "settle-rollout' finished with status SUCCESS" in plain(log)
    release = machine.release(3)
    assert (release.state, release.rollout_id) == ("stopped", None)
    assert release.stopped_by.startswith("rollout: ")
    assert "feature_store.yaml" in release.stopped_by
    assert "feature\\_store.yaml" in machine.summary(3, "settle-rollout")
    assert (machine.journal.current(), machine.target.get(NAME)) == before


def progresses(machine: Machine) -> bool:
    current = machine.journal.current()
    return current is not None and current.version == 2 and current.state == "progressing" and current.settled


def rollout_process(machine: Machine) -> int:
    """Return the Python process of the step that runs on the machine now; its parent is a shell."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_text().split("\0")
            if command[1:3] == ["-m", "kfp.dsl.executor_main"] and str(machine.project.file) in "".join(command):
                return int(folder.name)
    raise AssertionError("the step does not run")


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def plain(log: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", log)
