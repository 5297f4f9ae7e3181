"""What every target promises, on this machine and on KServe in both of its modes.

On this machine it is proven with real processes behind a real Envoy. KServe is simulated (`tests/kubernetes_api`) by rules
taken from its source: what is promised here of KServe is proven on the simulation only.
"""

from collections.abc import Iterator

import pytest

from tests.integration.deployment.worlds import Kill, Killed, KServeWorld, LocalWorld, World
from tests.kubernetes_api.cluster import Cluster
from tidegate.deployment.inference_service import Service
from tidegate.deployment.target import Target
from tidegate.errors import DeploymentError

TIMEOUT = 30
_numbers = iter(range(10**6))


@pytest.fixture(params=["local", "Standard", "Knative"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "local":
        yield LocalWorld(request.getfixturevalue("shared"))
        return
    with Cluster().running() as cluster:
        yield KServeWorld(cluster, request.param)


@pytest.fixture
def service(world: World) -> Service:
    """A service of a name of its own, with its first revision; nothing is deployed yet."""
    return Service(f"flights-{next(_numbers)}", "default", world.revision("v1"))


def deployed(world: World, service: Service) -> dict[str, int]:
    """Bring `service` about; return its revisions' shares of the traffic."""
    world.target.apply(service)
    status = world.target.wait(service.name, timeout=TIMEOUT)
    assert status.settled
    assert world.target.get(service.name) == service
    assert all(revision.ready for revision in status.revisions if revision.traffic_percent)
    return {revision.name: revision.traffic_percent for revision in status.revisions}


def test_the_first_revision_gets_all_traffic(world, service):
    assert deployed(world, service) == {"v1": 100}
    assert world.target.status(service.name).url.startswith("http://")


def test_a_canary_is_ready_before_it_gets_traffic_and_then_what_is_asked(world, service):
    deployed(world, service)
    canary = world.revision("v2")

    world.target.apply(service.with_canary(canary, 0))
    waiting = world.target.wait(service.name, revision="v2", timeout=TIMEOUT)

    assert waiting.revision("v2").ready
    assert waiting.revision("v2").role == "canary"
    assert deployed(world, service.with_canary(canary, 0)) == {"v1": 100, "v2": 0}
    assert deployed(world, service.with_canary(canary, 5)) == {"v1": 95, "v2": 5}
    assert deployed(world, service.with_canary(canary, 50)) == {"v1": 50, "v2": 50}


@pytest.mark.parametrize("percent", [5, 100])
def test_a_canary_is_promoted(world, service, percent):
    split = service.with_canary(world.revision("v2"), percent)
    deployed(world, service)
    deployed(world, split)

    assert deployed(world, split.promoted()) == {"v2": 100}


@pytest.mark.parametrize("percent", [0, 5, 100])
def test_a_canary_is_rolled_back(world, service, percent):
    split = service.with_canary(world.revision("v2"), percent)
    deployed(world, service)
    deployed(world, split)

    assert deployed(world, split.rolled_back()) == {"v1": 100}


def test_a_canary_that_is_never_ready_is_told_with_its_cause_and_rolled_back(world, service):
    deployed(world, service)
    split = service.with_canary(world.revision("v2", ready=False), 0)
    canary = split.canary.name
    world.target.apply(split)

    with pytest.raises(DeploymentError, match=rf"{canary}.*(exit code 3|ended with status 1)"):
        world.target.wait(service.name, revision=canary, timeout=TIMEOUT)

    assert world.target.status(service.name).revision("v1").traffic_percent == 100
    assert deployed(world, service) == {"v1": 100}


def test_releases_follow_each_other(world, service):
    for number in (2, 3, 4):
        deployed(world, service)
        split = service.with_canary(world.revision(f"v{number}"), 50)
        assert deployed(world, split) == {f"v{number - 1}": 50, f"v{number}": 50}
        service = split.promoted()
    assert deployed(world, service) == {"v4": 100}


def test_a_promoted_revision_is_taken_back(world, service):
    split = service.with_canary(world.revision("v2"), 50)
    for step in (service, split, split.promoted()):
        deployed(world, step)

    assert deployed(world, service) == {"v1": 100}


def test_a_rolled_back_canary_is_tried_again(world, service):
    split = service.with_canary(world.revision("v2"), 50)
    for step in (service, split, service):
        deployed(world, step)

    assert deployed(world, split) == {"v1": 50, "v2": 50}


def test_applying_twice_changes_nothing(world, service):
    split = service.with_canary(world.revision("v2"), 5)
    for step in (service, split):
        deployed(world, step)
        before = world.version(service.name)

        world.target.apply(step)

        assert world.version(service.name) == before


def test_a_service_may_begin_with_a_canary(world, service):
    assert deployed(world, service.with_canary(world.revision("v2"), 10)) == {"v1": 90, "v2": 10}


def test_a_deleted_service_is_unknown_and_deleting_again_is_no_error(world, service):
    deployed(world, service)

    world.target.delete(service.name)
    world.target.delete(service.name)

    assert world.target.get(service.name) is None
    assert deployed(world, service) == {"v1": 100}


@pytest.mark.parametrize("ask", ["status", "wait"])
def test_a_service_that_nobody_deployed_is_unknown(world, ask):
    assert world.target.get("nothing") is None
    world.target.delete("nothing")

    with pytest.raises(DeploymentError, match="service 'nothing' is not known"):
        getattr(world.target, ask)("nothing", **({"timeout": 1} if ask == "wait" else {}))


def test_a_revision_that_is_not_desired_is_not_waited_for(world, service):
    deployed(world, service)

    with pytest.raises(DeploymentError, match="has no revision 'v9'; it has v1"):
        world.target.wait(service.name, revision="v9", timeout=TIMEOUT)


def test_an_edit_by_hand_is_seen(world, service):
    split = service.with_canary(world.revision("v2"), 5)
    deployed(world, service)
    deployed(world, split)

    world.edit_percent(service.name, 60)

    assert world.target.get(service.name) == split.with_canary(split.canary, 60)
    assert deployed(world, split.rolled_back()) == {"v1": 100}


# How many writes each way takes where: a caller may die at each of them.
WRITES = {
    "local": {"first": 1, "promote": 1, "roll-back": 1},
    "Standard": {"first": 1, "split": 2, "promote": 2, "roll-back": 2, "roll-back-all": 2, "delete": 1},
    "Knative": {"first": 1, "split": 1, "promote": 1, "roll-back": 3, "roll-back-all": 3, "delete": 1},
}
DEATHS = [
    pytest.param(where, way, at, after, id=f"{where}-{way}-{'after' if after else 'before'}-write-{at}")
    for where, ways in WRITES.items()
    for way, writes in ways.items()
    for at in range(1, writes + 1)
    for after in (False, True)
]


def go(target: Target, way: str, aim: Service) -> None:
    if way == "delete":
        target.delete(aim.name)
    else:
        target.apply(aim)
        target.wait(aim.name, timeout=TIMEOUT)


@pytest.mark.parametrize(("world", "way", "at", "after"), DEATHS, indirect=["world"])
def test_a_caller_that_is_killed_at_any_write_is_followed_by_one_that_gets_there(world, service, way, at, after):
    split = service.with_canary(world.revision("v2"), 100 if way == "roll-back-all" else 20)
    past = {"first": [], "split": [service], "delete": [service]}.get(way, [service, split])
    aim = {"first": service, "split": split, "promote": split.promoted()}.get(way, service)
    for step in past:
        deployed(world, step)

    with pytest.raises(Killed):
        go(world.dying(Kill(at, after)), way, aim)

    if way == "delete":
        world.target.delete(service.name)
        assert world.target.get(service.name) is None
    else:
        deployed(world, aim)
