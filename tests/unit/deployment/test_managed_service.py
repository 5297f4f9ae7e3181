"""Where the traffic may go, step by step, with servers that become ready when the test says so."""

import asyncio
from types import SimpleNamespace

import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.managed_service import ManagedService
from tidegate.deployment.local.ports import Ports

V1, V2, V3 = (Revision(f"v{number}", f"file:///m/{number}/") for number in (1, 2, 3))
SERVICE = Service("flights", "default", V1)


class FakeServer:
    def __init__(self, spec):
        self.spec, self.ready, self.admitted, self.stopped = spec, False, False, False
        self.reason, self.failed_starts, self.pid = "starting", 0, 1

    def start(self):
        pass

    def become_ready(self):
        self.ready = self.admitted = True
        self.reason = ""

    async def stop(self):
        self.stopped = True


class FakeEnvoy:
    """Applies a wanted route when told to, and holds the instances of retiring ones."""

    def __init__(self):
        self.wanted = self.applied = None
        self.retiring = set()

    def want(self, route, port):
        self.wanted = route

    def forget(self, service):
        self.wanted = self.applied = None

    def in_force(self, service):
        return self.applied

    def listening(self, service):
        return True

    def cannot_listen(self, service):
        return False

    def settled(self, service):
        return self.wanted == self.applied and not self.retiring

    def instances(self, service):
        routes = [route for route in (self.wanted, self.applied) if route]
        used = [backend for route in routes for backend in (route.stable, route.canary) if backend]
        return {backend.instance for backend in used} | self.retiring


@pytest.fixture
def world(tmp_path):
    envoy, servers = FakeEnvoy(), {}

    def new_server(spec):
        servers[spec.backend.revision] = FakeServer(spec)
        return servers[spec.backend.revision]

    service = ManagedService("flights", ports=Ports(tmp_path / "ports.json"), envoy=envoy, new_server=new_server)
    return SimpleNamespace(service=service, envoy=envoy, servers=servers)


def step(world, desired=None, *, apply=True):
    async def run():
        if desired is not None:
            world.service.desire(desired, "1")
        world.service.step()
        if apply:
            world.envoy.applied = world.envoy.wanted
            world.service.step()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.service.step()

    asyncio.run(run())


def wanted(world):
    route = world.envoy.wanted
    return route.stable.revision, route.canary.revision if route.canary else None, route.percent


def test_the_first_revision_is_routed_to_at_once_and_settled_when_ready(world):
    step(world, SERVICE)
    assert wanted(world) == ("v1", None, 0)
    assert not world.service.settled()

    world.servers["v1"].become_ready()

    assert world.service.settled()


def deployed(world):
    step(world, SERVICE)
    world.servers["v1"].become_ready()
    step(world)


def test_a_canary_is_routed_to_once_it_was_ready(world):
    deployed(world)
    step(world, SERVICE.with_canary(V2, 25))
    assert wanted(world) == ("v1", None, 0)

    world.servers["v2"].become_ready()
    step(world)

    assert wanted(world) == ("v1", "v2", 25)
    assert world.service.settled()


def test_a_canary_that_died_keeps_its_share_so_that_it_is_seen_to_fail(world):
    deployed(world)
    step(world, SERVICE.with_canary(V2, 25))
    world.servers["v2"].become_ready()
    step(world)

    world.servers["v2"].ready = False
    step(world)

    assert wanted(world) == ("v1", "v2", 25)
    assert not world.service.settled()


def test_promotion_moves_at_once_and_stops_the_old_when_nothing_is_in_flight(world):
    deployed(world)
    service = SERVICE.with_canary(V2, 25)
    step(world, service)
    world.servers["v2"].become_ready()
    step(world)
    world.envoy.retiring = {world.servers["v1"].spec.backend.instance}

    step(world, service.promoted())
    assert wanted(world) == ("v2", None, 0)
    assert not world.servers["v1"].stopped
    assert world.service.status()["draining"] == [world.servers["v1"].spec.backend.instance]

    world.envoy.retiring = set()
    step(world)
    assert world.servers["v1"].stopped
    assert world.service.settled()


def test_a_replaced_stable_keeps_the_traffic_until_the_new_one_is_ready(world):
    deployed(world)
    step(world, Service("flights", "default", V3))
    assert wanted(world) == ("v1", None, 0)

    world.servers["v3"].become_ready()
    step(world)

    assert wanted(world) == ("v3", None, 0)
    assert world.servers["v1"].stopped


def test_a_revision_with_other_settings_is_another_process_of_the_same_name(world):
    deployed(world)
    first = world.servers["v1"]
    step(world, Service("flights", "default", Revision("v1", V1.storage_uri, env={"TIDEGATE_WORKERS": "2"})))
    assert world.envoy.wanted.stable.instance == first.spec.backend.instance

    world.servers["v1"].become_ready()
    step(world)

    assert world.envoy.wanted.stable.instance == world.servers["v1"].spec.backend.instance
    assert first.stopped
    assert world.servers["v1"] is not first


def test_the_old_stays_until_envoy_confirms_the_new_route(world):
    deployed(world)
    service = SERVICE.with_canary(V2, 25)
    step(world, service)
    world.servers["v2"].become_ready()
    step(world)

    step(world, service.promoted(), apply=False)

    assert not world.servers["v1"].stopped
    assert not world.service.settled()


def test_giving_up_ends_the_servers(world):
    deployed(world)

    async def give_up():
        first = world.service.give_up()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return first, world.service.give_up()

    assert asyncio.run(give_up()) == (False, True)
    assert world.servers["v1"].stopped


def test_settings_reach_the_server(world):
    step(world, Service("flights", "default", Revision("v7", "s3://b/flights/7/", env={"TIDEGATE_CLOCK": "wall"})))

    settings = world.servers["v7"].spec.settings

    assert settings["TIDEGATE_CLOCK"] == "wall"
    assert (settings["TIDEGATE_NAME"], settings["TIDEGATE_REVISION"], settings["TIDEGATE_VERSION"]) == ("flights", "v7", "7")
    assert settings["TIDEGATE_HTTP_PORT"] != settings["TIDEGATE_GRPC_PORT"]
