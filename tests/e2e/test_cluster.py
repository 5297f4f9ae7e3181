"""The loop on a cluster, as far as this machine can be one (`tests/e2e/cluster/world.py`): told in order."""

import json
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
import yaml

from tests.e2e.cluster.world import ClusterWorld, running_world
from tidegate.monitoring.records import read_checks
from tidegate.rollout.rollout import rollout_history
from tidegate.storage import open_store

pytestmark = pytest.mark.timeout(900)
NAME = "parcels"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, program: Callable[[str], str]):
    with running_world(tmp_path_factory.mktemp("cluster"), program) as world:
        yield world


@pytest.fixture(scope="module")
def first(world: ClusterWorld):
    return world.run("release", reason="first")


@pytest.fixture(scope="module")
def week(world: ClusterWorld, first):
    """A week of live requests, and the drift check of it; the run."""
    world.live_through_a_week()
    return world.run("drift")


@pytest.fixture(scope="module")
def second(world: ClusterWorld, week):
    """Another release, under traffic; the run, and the statuses that users saw."""
    with world.traffic(world.asked_now()) as statuses:
        return world.run("release", reason="second"), list(statuses)


@pytest.fixture(scope="module")
def broken(world: ClusterWorld, second):
    """An old version whose container crashes by now, rolled out by hand; the command, and what users saw meanwhile."""
    world.pods.fates["v1"] = "crash"
    with world.traffic(world.asked_now()) as statuses:
        return world.roll_out(1, file=world.file), list(statuses)


@pytest.fixture(scope="module")
def knative(world: ClusterWorld, broken):
    """The same project in Knative mode: version 1 deployed, then version 2 rolled out under traffic; what users saw of that."""
    world.pods.fates.clear()
    file = world.in_knative_mode()
    done = [world.roll_out(1, file=file)]
    with world.traffic(world.asked_now()) as statuses:
        done.append(world.roll_out(2, file=file))
    return done, list(statuses)


def spec(world: ClusterWorld):
    return world.cluster.live(NAME)["spec"]


def rollouts(world: ClusterWorld):
    return rollout_history(open_store(world.project.store_uri), NAME)


def test_first_release_runs_on_kserve(world, first):
    assert first.succeeded, first.cause
    assert [(record.state, record.version) for record in world.releases()] == [("promoted", 1)]
    predictor = spec(world)["predictor"]
    assert (predictor["name"], predictor["model"]["storageUri"]) == ("v1", world.registry.uri(NAME, 1))
    assert world.champion == 1


def test_endpoint_answers_from_features_in_redis(world, week):
    answers = world.ask(world.asked_now())

    assert len(set(answers)) > 2, "the looked-up features make a difference"  # a tree of depth 3 answers in eight ways at most


def test_drift_is_checked_on_the_log_that_pods_wrote_to_s3(world, week):
    assert week.succeeded, week.cause
    [check] = read_checks(open_store(world.project.store_uri), NAME)
    assert (check.rows, check.version, check.drifted) == (28 * 15, 1, False), check.summary
    assert {column.missing_current for column in check.columns if "__" in column.column} == {0}


def test_second_release_is_promoted_by_what_prometheus_saw(world, second):
    run, statuses = second

    assert run.succeeded, run.cause
    assert [release.state for release in world.releases()] == ["promoted", "promoted"], world.releases()[-1]
    record = rollouts(world)[-1]
    assert (record.state, record.version, world.champion) == ("promoted", 2, 2), record.outcome
    assert {look.percent for look in record.looks} == {25, 100}
    assert record.canary_tally.in_rollout.requests >= 80
    assert spec(world)["predictor"]["name"] == "v2"
    assert not spec(world).get("canary")
    assert statuses.count(200) == len(statuses) > 200
    assert world.cluster.standard.lost == []


def test_commands_tell_what_runs_and_by_which_document(world, second):
    shown = world.tidegate("service", "status", "--target", "kserve", "--json")
    rendered = world.tidegate("service", "render", "champion", "--clock", world.clock.spec)

    assert (shown.returncode, rendered.returncode) == (0, 0), shown.stderr + rendered.stderr
    status = json.loads(shown.stdout)
    assert status["settled"]
    assert [(each["name"], each["ready"], each["traffic_percent"]) for each in status["revisions"]] == [("v2", True, 100)]
    [document] = yaml.safe_load_all(rendered.stdout)
    live = world.cluster.live(NAME)
    for part in ("storageUri", "env", "runtime", "resources"):
        assert document["spec"]["predictor"]["model"][part] == live["spec"]["predictor"]["model"][part]


def test_doctor_finds_what_is_there_and_what_is_not(world, second):
    done = world.tidegate("doctor", "--target", "kserve", "--json")

    found = {finding["subject"]: finding["state"] for finding in json.loads(done.stdout)}
    there = {"object store", "KServe", "Gateway API", "deployments", "pods", "online store", "Prometheus"}
    assert {subject for subject in there if found[subject] == "ok"} == there
    assert {subject for subject, state in found.items() if state == "missing"} == {
        "runtime tidegate-onnx",
        "service account tidegate-serving",
    }
    assert done.returncode == 1


def test_batch_scores_on_the_cluster(world, second):
    end = world.clock.now()
    run = world.run("batch", start=(end.replace(day=1)).isoformat(), end=end.isoformat())

    assert run.succeeded, run.cause
    [scored] = run.artifacts.rglob("score-batch/predictions")
    assert pq.read_table(scored).num_rows == 28 * 15


def test_version_that_crashes_is_rolled_back_with_the_cause(world, broken):
    done, statuses = broken

    assert (done.returncode, done.stderr) == (1, "")
    record = json.loads(done.stdout)
    assert (record["state"], record["version"], world.champion) == ("rolled_back", 1, 2)
    assert "package digest mismatch" in record["outcome"], "the cause is in the pod's log"
    assert spec(world)["predictor"]["name"] == "v2"
    assert not spec(world).get("canary")
    assert statuses.count(200) == len(statuses) > 100


def test_knative_splits_by_its_own_dialect(world, knative):
    done, statuses = knative

    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    first, second = (json.loads(each.stdout) for each in done)
    assert (first["state"], second["state"], world.champion) == ("promoted", "promoted", 2)
    assert rollouts(world)[-1].canary_tally.in_rollout.requests >= 80
    assert world.cluster.knative.splits == [{"v1": 100}, {"v1": 75, "v2": 25}, {"v2": 100}]
    assert "canaryTrafficPercent" not in spec(world)["predictor"]
    assert statuses.count(200) == len(statuses) > 200
