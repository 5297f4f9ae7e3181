"""The whole loop as one story, told in order: released, served, checked, scored, retrained on drift, stopped by gates."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.launcher import REPOSITORY
from tidegate.deployment.local.processes import supervised
from tidegate.monitoring.records import read_checks, read_retrainings
from tidegate.release.retraining import read_decisions
from tidegate.rollout.record import RolloutJournal

pytestmark = pytest.mark.timeout(900)
NAME = "parcels"


def outputs(artifacts: Path, task: str) -> dict:
    """Return what a task told the pipeline: its parameters and the metadata of its artifacts."""
    [file] = artifacts.rglob(f"{task}/executor_output.json")
    return json.loads(file.read_text())


def metadata(artifacts: Path, task: str, artifact: str) -> dict:
    [entry] = outputs(artifacts, task)["artifacts"][artifact]["artifacts"]
    return entry["metadata"]


def command(*arguments: object) -> "subprocess.CompletedProcess[str]":
    given = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(given, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def released(world):
    """The first release, by the command line; the path of its artifacts."""
    done = command(
        *("pipelines", "run", "release", "--local", "--project", world.file, "--json"),
        *("--param", f"clock={world.clock.spec}", "--param", "reason=first"),
    )
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["artifacts"])


@pytest.fixture(scope="module")
def usual_week(world, released):
    """A week as in training, lived through and checked; the run of the drift pipeline."""
    world.live_through(1)
    return world.run("drift")


@pytest.fixture(scope="module")
def scored(world, usual_week):
    """That week, scored by the batch pipeline; the run."""
    start, end = world.week(1)
    return world.run("batch", start=start.isoformat(), end=end.isoformat())


@pytest.fixture(scope="module")
def flooded_week(world, scored):
    """A week that is not as in training, and the drift pipeline under traffic; the run and the statuses that users saw."""
    world.live_through(2)
    with world.traffic() as statuses:
        run = world.run("drift")
    return run, statuses


@pytest.fixture(scope="module")
def drought_week(world, flooded_week):
    """Yet another week, within the cooldown; the run of the drift pipeline."""
    world.live_through(3)
    return world.run("drift")


def test_first_release_is_promoted(world, released):
    [record] = world.releases()

    assert (record.state, record.version, record.reason) == ("promoted", 1, "first")
    assert {verdict.gate for verdict in record.verdicts} >= {"data", "parity", "accuracy", "benchmark", "champion"}
    assert all(verdict.passed for verdict in record.verdicts if verdict.gate in ("data", "champion"))
    assert (world.champion, world.target.get(NAME).stable.name) == (1, "v1")


def test_release_leaves_what_the_kubeflow_ui_shows(released):
    for task in ("validate-data", "select-variant", "roll-out"):
        assert (released / task / "report").read_text().lower().startswith("<!doctype html>")
    assert metadata(released, "select-variant", "metrics")["roc_auc"] > 0.6
    curves = metadata(released, "select-variant", "curves")
    points = curves["confidenceMetrics"]
    false_positive_rate, recall = ([point[name] for point in points] for name in ("falsePositiveRate", "recall"))
    assert len(points) > 50
    for rates in (false_positive_rate, recall):
        assert rates == sorted(rates)
        assert 0 <= rates[0] <= rates[-1] == 1
    area = np.trapezoid([0, *recall], [0, *false_positive_rate])
    assert area == pytest.approx(metadata(released, "select-variant", "metrics")["roc_auc"], abs=2e-3)
    assert [column["displayName"] for column in curves["confusionMatrix"]["annotationSpecs"]] == ["on-time", "late"]
    assert metadata(released, "validate-data", "metrics")["checks_failed"] == 0
    assert (released / "compare-champion" / "summary").read_text().startswith("**champion**: ✓")
    assert metadata(released, "roll-out", "metrics")["looks"] == 0
    summary = (released / "roll-out" / "summary").read_text()
    assert summary.startswith("#")
    assert "promoted" in summary


def test_version_remembers_where_it_came_from(world, released):
    lineage = world.registry.manifest(NAME, 1).lineage

    assert lineage.run_id == world.releases()[0].release_id
    assert (lineage.window_end, lineage.reason) == (world.week(1)[0].isoformat(), "first")
    assert lineage.project_digest == world.project.digest


def test_endpoint_answers_from_looked_up_features(world, usual_week):
    week = world.between(*world.week(1))

    assert world.answers.keys() >= set(week["parcel"].to_pylist())
    check = read_checks(world.store, NAME)[0]
    looked_up = {column.column: column.missing_current for column in check.columns if "__" in column.column}
    assert looked_up == {"weather__rain": 0, "load__parcels": 0}


def test_usual_week_keeps_the_champion(world, usual_week):
    check, decision = read_checks(world.store, NAME)[0], read_decisions(world.store, NAME)[0]

    assert usual_week.succeeded, usual_week.cause
    assert (check.version, check.rows, check.drifted) == (1, world.between(*world.week(1)).num_rows, False), check.summary
    assert check.concept.labelled_rows > 300
    assert (decision.retrain, decision.retraining) == (False, None)
    assert [event.task for event in usual_week.events if event.state == "succeeded"] == ["check-drift"]


def test_drift_check_shows_its_report(usual_week):
    folder = usual_week.artifacts / "check-drift"

    assert "<html" in (folder / "report").read_text()[:1000].lower()
    assert (folder / "summary").read_text().startswith("## Keep the champion")
    assert metadata(usual_week.artifacts, "check-drift", "metrics")["drifted_share"] < 0.4


def test_batch_scores_what_the_endpoint_answered(world, scored):
    assert scored.succeeded, scored.cause
    told = metadata(scored.artifacts, "score-batch", "predictions")
    rows = pq.read_table(scored.artifacts / "score-batch" / "predictions")
    live = np.array([world.answers[parcel] for parcel in rows["parcel"].to_pylist()])

    assert (told["rows"], told["version"]) == (rows.num_rows, 1)
    assert rows.num_rows == world.between(*world.week(1)).num_rows
    np.testing.assert_allclose(rows["probability"].to_numpy(), live, atol=1e-6)
    assert pq.read_table(told["uri"].removeprefix("file://")).equals(rows)


def test_flooded_week_starts_one_retraining(world, flooded_week):
    run, _ = flooded_week
    assert run.succeeded, run.cause
    check, decision = read_checks(world.store, NAME)[1], read_decisions(world.store, NAME)[1]
    [retraining] = read_retrainings(world.store, NAME)

    assert check.drifted, check.summary
    assert check.prediction.drifted
    assert (decision.retrain, decision.retraining) == (True, 1)
    assert (retraining.number, retraining.version, retraining.state) == (1, 1, "finished")
    assert retraining.window_end == world.week(2)[1]


def test_retrained_version_is_a_canary_whose_records_agree(world, flooded_week):
    release = world.releases()[1]
    rollout = RolloutJournal(world.store, NAME).current()
    [retraining] = read_retrainings(world.store, NAME)

    assert release.state in ("promoted", "rolled_back"), release.stopped_by
    assert (release.version, release.rollout_id) == (2, rollout.rollout_id)
    assert (retraining.release_id, retraining.outcome) == (release.release_id, release.state)
    assert release.reason == retraining.reason == world.registry.manifest(NAME, 2).lineage.reason
    assert rollout.state == release.state
    assert rollout.stable.name == "v1"
    assert sum(look.evidence.canary_requests for look in rollout.looks) > 0
    service = world.target.get(NAME)
    assert (service.stable.name, service.canary) == (f"v{world.champion}", None)
    assert world.champion == (2 if release.state == "promoted" else 1)


def test_users_saw_no_failure_while_it_was_rolled_out(flooded_week):
    _, statuses = flooded_week

    assert len(statuses) > 200
    assert set(statuses) == {200}


def test_drift_within_the_cooldown_does_not_retrain_again(world, drought_week):
    assert drought_week.succeeded, drought_week.cause
    check, decision = read_checks(world.store, NAME)[2], read_decisions(world.store, NAME)[2]

    assert (check.drifted, check.version) == (True, world.champion), check.summary
    assert not decision.retrain
    assert "cooldown" in decision.reason
    assert [retraining.number for retraining in read_retrainings(world.store, NAME)] == [1]
    assert len(world.releases()) == 2


def test_gate_that_fails_stops_the_release_and_deploys_nothing(world, released):
    before = (world.registry.versions(NAME), world.registry.events(NAME), world.target.get(NAME))
    earlier = {record.release_id for record in world.releases()}
    strict = world.variation("strict", lambda document: document["gates"]["accuracy"].update(minimum=0.99))

    run = world.run("release", file=strict, reason="too good to be true")

    assert run.succeeded, run.cause
    [record] = [record for record in world.releases() if record.release_id not in earlier]
    assert (record.state, record.version, record.rollout_id) == ("stopped", None, None)
    missed = [verdict for verdict in record.verdicts if verdict.bound == 0.99]
    assert missed
    assert all(not verdict.passed and 0.6 < verdict.value < 0.99 for verdict in missed)
    assert "0.99" in record.stopped_by
    assert (world.registry.versions(NAME), world.registry.events(NAME), world.target.get(NAME)) == before
    assert (run.artifacts / "select-variant" / "report").stat().st_size > 1000


def test_train_function_that_raises_fails_the_run_in_one_line(world, released):
    before = (world.registry.versions(NAME), world.registry.events(NAME), world.target.get(NAME))
    raising = world.variation("raising", lambda document: document["training"].update(function="raising:train"))

    done = command("pipelines", "run", "release", "--local", "--project", raising, "--param", f"clock={world.clock.spec}")

    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "pipeline release failed: train-models: training.function 'raising:train' raised" in line
    assert "RuntimeError: the labels smell of fish" in line
    assert f"{world.root}/raising.py:3" in line
    assert "Traceback" not in done.stderr
    assert (world.registry.versions(NAME), world.registry.events(NAME), world.target.get(NAME)) == before


ROLL_OUT = """
import sys
from tidegate.project import load_project
from tidegate.release.delivery import roll_out
file, version, clock = sys.argv[1:]
roll_out(load_project(file), release_id="none", version=int(version), clock=clock, reason="by hand")
"""


def test_release_that_is_ended_in_its_rollout_rolls_back(world, drought_week):
    journal, stable = RolloutJournal(world.store, NAME), world.target.get(NAME).stable
    earlier = journal.current().rollout_id
    other = 3 - world.champion
    step = subprocess.Popen([sys.executable, "-c", ROLL_OUT, str(world.file), str(other), world.clock.spec])
    try:
        wait_for(lambda: journal.current().rollout_id != earlier and journal.current().state == "progressing", step)
        step.terminate()
        step.wait(timeout=60)
    finally:
        step.kill()

    record = journal.current()
    assert (record.version, record.state, record.outcome) == (other, "rolled_back", "aborted: interrupted")
    assert (world.target.get(NAME).stable, world.target.get(NAME).canary) == (stable, None)
    assert world.champion == 3 - other


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_is_left_running(world, released):
    pids = supervised(world.target.state.root)
    assert len(pids) >= 2  # Envoy and a model server

    done = command("tidegate", "local", "down", "--workspace", world.workspace, "--json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"stopped": True})
    assert supervised(world.target.state.root) == []
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert processes_about(world.root) == []


def processes_about(root: Path) -> list[str]:
    """Return the command lines that name the project's folder, waiting a moment for those that are ending."""
    deadline = time.monotonic() + 5
    while True:
        own = str(os.getpid())
        found = [path for path in Path("/proc").glob("[0-9]*") if path.name != own]
        lines = [line for line in map(command_line, found) if str(root) in line]
        if not lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.1)


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
