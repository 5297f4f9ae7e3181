"""Any desired state is reached from any other, however far the one before had got; and no revision gets more than was asked."""

import random

import pytest

from tidegate.deployment.inference_service import Service

TIMEOUT = 30


def any_service(chance: random.Random, revisions) -> Service:
    stable, canary = chance.sample(revisions, 2)
    service = Service("flights", "default", stable)
    return service if chance.random() < 0.4 else service.with_canary(canary, chance.choice([0, 10, 50, 100]))


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_through_desired_states_ends_where_it_is_told(bench, seed):
    chance = random.Random(seed)
    revisions = [bench.v1, bench.v2, bench.v3]
    if bench.mode == "Knative":
        bench.cluster.knative.delays = [0] * chance.randrange(4) + [8]  # KServe pins the wrong revision once, perhaps
    for _ in range(8):
        service = any_service(chance, revisions)
        bench.target.apply(service)
        if chance.random() < 0.4:
            assert bench.target.wait("flights", timeout=TIMEOUT).settled
        assert bench.target.get("flights") == service

    assert bench.target.wait("flights", timeout=TIMEOUT).settled
    expected = {service.stable.name: 100 - service.canary_percent}
    if service.canary is not None:
        expected[service.canary.name] = service.canary_percent
    assert bench.shares() == {name: percent for name, percent in expected.items() if percent}
    assert bench.cluster.standard.lost == []
