import os
import threading

import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.processes import started_at
from tidegate.deployment.local.target import LocalTarget
from tidegate.errors import DeploymentError

SERVICE = Service("flights", "default", Revision("v1", "file:///m/1/"))


class Supervised(LocalTarget):
    """A target whose supervisor is this test."""

    def __init__(self, workspace):
        super().__init__(workspace)
        self.state.create()
        self.state.write_supervisor({"pid": os.getpid(), "started_at": started_at(os.getpid()), "admin_port": 1})

    def report(self, *, settled, ready=True, reason="", failed_starts=0, version=None, name="v1"):
        desired = self.state.read_service("flights")
        revision = {"name": name, "role": "stable", "ready": ready, "traffic_percent": 100, "reason": reason}
        self.state.write_status(
            "flights",
            {
                "url": "http://127.0.0.1:18080",
                "settled": settled,
                "resource_version": version or desired["metadata"]["resourceVersion"],
                "revisions": [{**revision, "failed_starts": failed_starts, "pid": 1, "http_port": 2}],
            },
        )


@pytest.fixture
def target(tmp_path):
    supervised = Supervised(tmp_path)
    supervised.apply(SERVICE)
    return supervised


def test_get_returns_what_was_applied(target):
    assert target.get("flights") == SERVICE
    assert target.get("other") is None
    target.delete("flights")
    target.delete("flights")
    assert target.get("flights") is None


def test_status_of_an_unknown_service(target):
    with pytest.raises(DeploymentError, match="service 'other' is not known; known: flights"):
        target.status("other")


def test_settled_means_the_latest_desired_state(target):
    target.report(settled=True)
    assert target.status("flights").settled

    target.apply(SERVICE.with_canary(Revision("v2", "file:///m/2/"), 5))

    assert not target.status("flights").settled


def test_wait_returns_once_settled(target):
    target.report(settled=False, ready=False, reason="starting")
    timer = threading.Timer(0.2, target.report, kwargs={"settled": True})
    timer.start()

    assert target.wait("flights", timeout=5).settled
    timer.join()


def test_wait_for_a_revision_does_not_wait_for_the_rest(target):
    target.report(settled=False)

    assert target.wait("flights", revision="v1", timeout=1).revision("v1").ready


@pytest.mark.parametrize(
    ("report", "revision", "message"),
    [
        pytest.param(
            {"ready": False, "reason": "killed by SIGKILL", "failed_starts": 3},
            None,
            "flights is not settled: revision v1: killed by SIGKILL",
            id="hopeless",
        ),
        pytest.param(
            {"ready": False, "reason": "starting"}, "v1", "not ready with revision v1 after 0.2 s: .* starting", id="too slow"
        ),
        pytest.param({}, "v9", "flights has no revision 'v9'; it has v1", id="no such revision"),
        pytest.param({"version": "0"}, None, "the supervisor has not taken it up yet", id="not noticed"),
    ],
)
def test_wait_says_why_it_fails(target, report, revision, message):
    target.report(settled=False, **report)

    with pytest.raises(DeploymentError, match=message):
        target.wait("flights", revision=revision, timeout=0.2)


def test_an_earlier_settled_state_of_the_revision_does_not_count(target):
    target.report(settled=True, version="0")

    with pytest.raises(DeploymentError, match=r"after 0\.2 s"):
        target.wait("flights", revision="v1", timeout=0.2)


def test_without_a_supervisor_nothing_is_ready_and_waiting_is_hopeless(target):
    target.report(settled=True)
    target.state.delete_supervisor()

    status = target.status("flights")

    assert (status.settled, status.revisions[0].ready, status.revisions[0].traffic_percent) == (False, False, 0)
    assert "start it with `tidegate local up" in status.revisions[0].reason
    for call in (lambda: target.wait("flights", timeout=60), target.admin_port):
        with pytest.raises(DeploymentError, match="the local target is not running"):
            call()


def test_servers(target):
    assert target.servers("flights") == []
    target.report(settled=True)

    (server,) = target.servers("flights")

    assert (server.revision, server.pid, server.http_port) == ("v1", 1, 2)
