"""Rollouts on this machine: real model servers behind a real Envoy, driven by the command line, under load."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from tidegate.deployment.local.operations import start_supervisor, stop_supervisor
from tidegate.deployment.local.target import LocalTarget
from tidegate.features.online_file import open_writer
from tidegate.packaging.format.manifest import MANIFEST_NAME
from tidegate.packaging.format.package import read_manifest
from tidegate.registry.registry import ModelRegistry
from tidegate.rollout.record import RolloutRecord
from tidegate.rollout.rollout import rollout_history
from tidegate.storage.directory import DirectoryStore

NAME = "tiny"
GOOD, ALSO_GOOD, FAILS_LIVE = 1, 2, 3
REQUEST = json.dumps(
    {
        "inputs": [
            {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]},
            {"name": "origin", "shape": [1], "datatype": "BYTES", "data": ["EWR"]},
            {"name": "dest", "shape": [1], "datatype": "BYTES", "data": ["SFO"]},
            {"name": "distance", "shape": [1], "datatype": "FP32", "data": [1400.0]},
            {"name": "hour", "shape": [1], "datatype": "FP32", "data": [17.0]},
        ]
    }
).encode()


class Machine:
    """A project with three registered versions, and a supervisor that serves them."""

    def __init__(self, root: Path, package: Path) -> None:
        self.root = root
        self.file = root / "tidegate.yaml"
        self.file.write_text(yaml.safe_dump(PROJECT))
        self.workspace = root / "workspace"
        (root / "features").mkdir()
        (root / "features" / "feature_store.yaml").write_text(
            yaml.safe_dump({"online_store": {"path": str(root / "online.db")}})
        )
        open_writer(root / "online.db").close()
        self.store = DirectoryStore(self.workspace / "store")
        self.registry = ModelRegistry(self.store)
        self.target = LocalTarget(self.workspace)
        for number, requires in ((GOOD, False), (ALSO_GOOD, False), (FAILS_LIVE, True)):
            assert self.registry.register(self._package(package, number, requires=requires), reason="test") == number

    def _package(self, package: Path, number: int, *, requires: bool) -> Path:
        """Copy the package with another threshold; one that requires a feature which the online store never holds."""
        copy = self.root / f"package-{number}"
        shutil.copytree(package, copy)
        manifest = read_manifest(copy)
        weather, route = manifest.features.views
        field = msgspec.structs.replace(weather.features[0], required=requires)
        views = (msgspec.structs.replace(weather, features=(field,)), route)
        manifest = msgspec.structs.replace(
            manifest, threshold=0.3 + number / 10, features=msgspec.structs.replace(manifest.features, views=views)
        )
        (copy / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
        return copy

    def tidegate(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        with self.started(*arguments) as process:
            stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def started(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tidegate", "rollout", *arguments, "--project", str(self.file)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def last(self) -> RolloutRecord:
        return rollout_history(self.store, NAME)[-1]

    @property
    def champion(self) -> int:
        return self.registry.alias(NAME, "champion").version

    @contextmanager
    def load(self) -> Iterator[Counter]:
        """Closed-loop clients; yields a counter of (status, answering revision)."""
        address = urlsplit(self.target.status(NAME).url).netloc
        answers: Counter = Counter()
        stopping = threading.Event()

        def client() -> None:
            connection = http.client.HTTPConnection(address, timeout=30)
            while not stopping.is_set():
                connection.request("POST", f"/v2/models/{NAME}/infer", REQUEST, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                answers[response.status, response.getheader("x-tidegate-revision")] += 1
                time.sleep(0.002)
            connection.close()

        clients = [threading.Thread(target=client) for _ in range(3)]
        for thread in clients:
            thread.start()
        try:
            yield answers
        finally:
            stopping.set()
            for thread in clients:
                thread.join()


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
    "rollout": {
        "steps": [20, 50, 100],
        "look_seconds": 0.5,
        "min_requests": 50,
        "max_step_seconds": 60,
        "max_error_increase": 0.05,
        "max_latency_ratio": 5,
    },
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tiny_package: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"), tiny_package)
    start_supervisor(machine.workspace)
    yield machine
    stop_supervisor(machine.workspace)


@pytest.fixture
def serving(machine: Machine) -> Machine:
    """The machine with its first version deployed, and the champion."""
    if machine.target.get(NAME) is None:
        done = machine.tidegate("start", str(GOOD), "--reason", "initial", "--json")
        assert done.returncode == 0, done.stderr
    return machine


def test_first_release_is_deployed_and_champion(serving):
    first = rollout_history(serving.store, NAME)[0]

    assert (first.state, first.version, first.looks) == ("promoted", GOOD, ())
    with serving.load() as answers:
        time.sleep(0.5)
    assert set(answers) == {(200, "v1")}


def test_canary_that_fails_only_live_is_rolled_back_and_users_see_no_failure(serving):
    stable = serving.target.get(NAME).stable

    with serving.load() as answers:
        done = serving.tidegate("start", str(FAILS_LIVE), "--reason", "drift")

    record = serving.last()
    assert (done.returncode, record.state, record.version) == (1, "rolled_back", FAILS_LIVE)
    assert record.outcome.startswith("error rate: the canary's is at least")
    assert (serving.target.get(NAME).stable, serving.target.get(NAME).canary) == (stable, None)
    assert serving.champion == int(stable.name[1:])
    assert {status for status, _ in answers} == {200}
    assert "rolled_back" in done.stdout


def test_good_canary_is_promoted_under_load(serving):
    with serving.load() as answers:
        done = serving.tidegate("start", str(ALSO_GOOD), "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["state"], document["version"], serving.champion) == ("promoted", ALSO_GOOD, ALSO_GOOD)
    assert [transition["percent"] for transition in document["transitions"]] == [0, 20, 50, 100, 100, 100]
    assert {status for status, _ in answers} == {200}
    assert answers[200, "v2"] > answers[200, "v3"] == 0
    assert json.loads(serving.tidegate("status", "--json").stdout) == document


@pytest.mark.parametrize("stop", [pytest.param(signal.SIGINT, id="ctrl-c"), pytest.param(signal.SIGTERM, id="terminated")])
def test_stopped_command_rolls_back(serving, stop):
    stable = serving.target.get(NAME).stable
    with serving.started("start", str(FAILS_LIVE)) as process:
        eventually(lambda: serving.last().state == "progressing" and serving.last().settled)
        process.send_signal(stop)
        _, stderr = process.communicate(timeout=60)

    record = serving.last()
    assert (process.returncode, record.state, record.outcome) == (130, "rolled_back", "aborted: interrupted")
    assert (
        stderr.splitlines()[-1]
        == f"interrupted: rollout {record.rollout_id} was rolled back; {stable.name} has all the traffic"
    )
    assert (serving.target.get(NAME).stable, serving.target.get(NAME).canary) == (stable, None)


def test_killed_command_is_continued_by_the_same_command(serving):
    other = ALSO_GOOD if serving.champion == GOOD else GOOD
    with serving.started("start", str(other)) as process:
        eventually(lambda: serving.last().state == "progressing" and serving.last().settled)
        os.kill(process.pid, signal.SIGKILL)
    rollout_id = serving.last().rollout_id

    with serving.load():
        done = serving.tidegate("start", str(other), "--json")

    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["rollout_id"], serving.champion) == (rollout_id, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["start", "99"], "model tiny has no version 99", id="unknown-version"),
        pytest.param(["start", "challenger"], "has no alias 'challenger'", id="unknown-alias"),
        pytest.param(["abort"], "there is nothing to abort", id="nothing-to-abort"),
        pytest.param(["promote"], "there is nothing to promote", id="nothing-to-promote"),
        pytest.param(["status", "--id", "x"], "has had no rollout 'x'", id="unknown-rollout"),
    ],
)
def test_mistake_is_one_line(serving, arguments, message):
    done = serving.tidegate(*arguments)

    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def eventually(condition, timeout=60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.05)
