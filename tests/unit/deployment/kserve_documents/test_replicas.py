"""Neither predictor is left with fewer replicas than its share of the traffic needs, by KServe's own arithmetic."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.replicas import Replicas, standard_replicas

least = st.integers(0, 50)
percents = st.integers(0, 100)


def services(stable: int, canary: int, percent: int) -> Service:
    alone = Service("flights", "default", Revision("v1", "s3://bucket/1/", min_replicas=stable))
    return alone.with_canary(Revision("v2", "s3://bucket/2/", min_replicas=canary), percent)


def left_of(replicas: Replicas) -> int:
    """What KServe leaves of the stable once the canary is ready: adjustStableMinReplicasForCanaries, KServe at aaac4e2."""
    return max(replicas.stable - replicas.canary, 1)


@given(stable=least, canary=least, percent=percents)
def test_what_is_left_of_the_stable_carries_its_share(stable: int, canary: int, percent: int) -> None:
    replicas = standard_replicas(services(stable, canary, percent), spare_capacity=True)

    assert left_of(replicas) >= math.ceil(stable * (100 - percent) / 100)


@given(stable=least, canary=least, percent=percents, spare=st.booleans())
def test_a_canary_is_always_one_that_kserve_takes(stable: int, canary: int, percent: int, spare: bool) -> None:
    replicas = standard_replicas(services(stable, canary, percent), spare_capacity=spare)

    assert 1 <= replicas.canary <= replicas.stable


@given(replicas=st.integers(1, 50), percent=percents)
def test_between_equals_at_most_one_more_is_asked_for(replicas: int, percent: int) -> None:
    asked = standard_replicas(services(replicas, replicas, percent), spare_capacity=True)

    assert asked.stable <= replicas + 1
    assert asked.canary == max(1, math.ceil(replicas * percent / 100))


@given(stable=st.integers(1, 50), canary=least, percent=percents)
def test_without_room_the_stable_asks_for_what_it_has(stable: int, canary: int, percent: int) -> None:
    assert standard_replicas(services(stable, canary, percent), spare_capacity=False).stable == stable


@given(stable=least)
def test_without_a_canary_the_stable_keeps_its_own(stable: int) -> None:
    alone = Service("flights", "default", Revision("v1", "s3://bucket/1/", min_replicas=stable))

    assert standard_replicas(alone, spare_capacity=True) == Replicas(stable=stable, canary=0)
