"""Traffic through a real Envoy: splits, promotions, rollbacks, and canaries that fail."""

import os
import signal
import time

import pytest

from tidegate.deployment.inference_service import Service
from tidegate.deployment.local.processes import started_at
from tidegate.errors import DeploymentError

TIMEOUT = 30


def canary_at(shared, name, percent, *, stable="v1", canary="v2"):
    service = Service(name, "default", shared.revision(f"{stable}-{name}")).with_canary(
        shared.revision(f"{canary}-{name}"), percent
    )
    shared.target.apply(service)
    return service, shared.target.wait(name, timeout=TIMEOUT)


def test_first_revision_gets_all_traffic(shared):
    shared.target.apply(Service("first", "default", shared.revision("v1-first")))

    status = shared.target.wait("first", timeout=TIMEOUT)

    assert [(r.name, r.role, r.ready, r.traffic_percent) for r in status.revisions] == [("v1-first", "stable", True, 100)]
    assert shared.send(status.url, 50) == {(200, "v1-first"): 50}


@pytest.mark.parametrize(
    ("percent", "least", "most"),
    [
        pytest.param(0, 0, 0, id="none"),
        pytest.param(5, 15, 90, id="a little"),
        pytest.param(50, 400, 600, id="half"),
        pytest.param(100, 1000, 1000, id="all"),
    ],
)
def test_the_split_is_as_asked(shared, percent, least, most):
    _, status = canary_at(shared, "split", percent)

    answers = shared.send(status.url, 1000)

    assert least <= answers[200, "v2-split"] <= most
    assert answers[200, "v1-split"] + answers[200, "v2-split"] == 1000
    assert status.revision("v2-split").traffic_percent == percent


def test_weight_changes_take_less_than_a_second_and_lose_nothing(shared):
    service, status = canary_at(shared, "weights", 0)
    seconds = []

    with shared.load(status.url) as load:
        for percent in (5, 25, 50, 100, 0):
            begin = time.monotonic()
            shared.target.apply(service.with_canary(service.canary, percent))
            shared.target.wait("weights", timeout=TIMEOUT)
            seconds.append(time.monotonic() - begin)
            time.sleep(0.3)

    assert {answer[0] for answer in load.answers} == {200}
    assert max(seconds) < 1, seconds


def test_promotion_and_rollback_under_load_lose_nothing(shared):
    service, status = canary_at(shared, "moves", 50)
    old = shared.pid("moves", "v1-moves")

    with shared.load(status.url) as load:
        time.sleep(0.3)
        promoted = service.promoted()
        shared.target.apply(promoted)
        shared.target.wait("moves", timeout=TIMEOUT)
        time.sleep(0.3)
        shared.target.apply(promoted.with_canary(shared.revision("v3-moves"), 30))
        shared.target.wait("moves", timeout=TIMEOUT)
        time.sleep(0.3)
        shared.target.apply(promoted)
        status = shared.target.wait("moves", timeout=TIMEOUT)
        time.sleep(0.3)

    assert set(load.answers) == {(200, "v1-moves"), (200, "v2-moves"), (200, "v3-moves")}
    assert shared.send(status.url, 50) == {(200, "v2-moves"): 50}
    assert [revision.name for revision in status.revisions] == ["v2-moves"]
    assert started_at(old) is None


def test_requests_in_flight_on_the_replaced_revision_finish(shared):
    service, status = canary_at(shared, "drain", 0)
    shared.set_mode("v1-drain", "slow")

    with shared.load(status.url) as load:
        time.sleep(0.5)
        shared.target.apply(service.promoted())
        shared.target.wait("drain", timeout=TIMEOUT)

    assert {answer[0] for answer in load.answers} == {200}
    assert load.answers[200, "v1-drain"] > 0


def test_replacing_the_stable_at_once_waits_for_the_new_one(shared):
    shared.target.apply(Service("replace", "default", shared.revision("v1-replace")))
    status = shared.target.wait("replace", timeout=TIMEOUT)
    never = Service("replace", "default", shared.revision("v2-replace", "never-ready"))

    with shared.load(status.url) as load:
        shared.target.apply(never)
        time.sleep(1.5)
        assert set(load.answers) == {(200, "v1-replace")}
        shared.set_mode("v2-replace", "ok")
        shared.target.wait("replace", timeout=TIMEOUT)
        time.sleep(0.3)

    assert set(load.answers) == {(200, "v1-replace"), (200, "v2-replace")}


def test_a_canary_that_is_not_ready_gets_no_traffic(shared):
    service = Service("unready", "default", shared.revision("v1-unready"))
    shared.target.apply(service.with_canary(shared.revision("v2-unready", "never-ready"), 50))
    shared.target.wait("unready", revision="v1-unready", timeout=TIMEOUT)

    with pytest.raises(DeploymentError, match=r"v2-unready: not ready yet \(HTTP status 503\)"):
        shared.target.wait("unready", timeout=2)

    status = shared.target.status("unready")
    assert status.revision("v2-unready").traffic_percent == 0
    assert shared.send(status.url, 100) == {(200, "v1-unready"): 100}


def test_a_server_that_cannot_start_is_reported_with_its_last_line(shared):
    service = Service("broken", "default", shared.revision("v1-broken"))
    shared.target.apply(service.with_canary(shared.revision("v2-broken", "exit"), 50))

    with pytest.raises(DeploymentError, match="v2-broken: ended with status 1: the package is corrupt"):
        shared.target.wait("broken", timeout=TIMEOUT)


@pytest.mark.parametrize("percent", [pytest.param(10, id="10 percent"), pytest.param(100, id="100 percent")])
def test_a_canary_killed_under_load_loses_no_request(shared, percent):
    name = f"killed{percent}"
    _, status = canary_at(shared, name, percent)
    canary = shared.pid(name, f"v2-{name}")

    with shared.load(status.url) as load:
        time.sleep(0.5)
        before = load.answers[200, f"v2-{name}"]
        os.kill(canary, signal.SIGKILL)
        time.sleep(1)

    assert before > 0
    assert {answer[0] for answer in load.answers} == {200}
    shared.eventually(lambda: shared.target.status(name).settled, timeout=TIMEOUT)
    assert shared.pid(name, f"v2-{name}") != canary


def test_a_failing_canary_is_answered_for_by_the_stable(shared):
    _, status = canary_at(shared, "failing", 50)
    shared.set_mode("v2-failing", "fail")

    assert shared.send(status.url, 200) == {(200, "v1-failing"): 200}


def test_a_large_request_reaches_the_fallback_too(shared):
    _, status = canary_at(shared, "large", 100)
    shared.set_mode("v2-large", "fail")

    assert shared.send(status.url, 5, body=bytes(4 * 2**20)) == {(200, "v1-large"): 5}


def test_deleting_a_service_ends_its_servers_and_frees_its_name(shared):
    shared.target.apply(Service("gone", "default", shared.revision("v1-gone")))
    shared.target.wait("gone", timeout=TIMEOUT)
    pid = shared.pid("gone", "v1-gone")

    shared.target.delete("gone")
    shared.target.delete("gone")
    shared.target.apply(Service("gone", "default", shared.revision("v2-gone")))
    status = shared.target.wait("gone", timeout=TIMEOUT)

    assert [revision.name for revision in status.revisions] == ["v2-gone"]
    shared.eventually(lambda: started_at(pid) is None, timeout=10)
    with pytest.raises(DeploymentError, match="'never' is not known; known: "):
        shared.target.status("never")
