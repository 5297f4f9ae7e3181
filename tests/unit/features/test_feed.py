"""A replay's feed leaves the online store as materialization would, at every moment, and never ahead of it."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import FeatureError
from tidegate.features.online_file import online_path
from tidegate.features.repository import FeatureRepository

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def visit(customer, minutes, created_minutes=None):
    at = NOON + minutes * MINUTE
    created = at if created_minutes is None else NOON + created_minutes * MINUTE
    return {"customer": customer, "spent": float(minutes), "count_y": 1, "mood": "fine", "at": at, "created": created}


def opened(shop):
    repository = FeatureRepository(shop.repository, shop.workspace)
    repository.apply()
    return repository


def stored(repository):
    with sqlite3.connect(online_path(repository.online_store_uri)) as connection:
        rows = connection.execute("SELECT * FROM rows ORDER BY key").fetchall()
        return rows, connection.execute("SELECT view, until_us FROM watermarks ORDER BY view").fetchall()


def test_a_row_is_written_when_its_time_has_come_and_not_before(shop):
    shop.write("visits", [visit("ann", 10)])
    repository = opened(shop)
    repository.materialize(NOON)
    feed = repository.open_feed()

    written = [feed.materialize(NOON + minutes * MINUTE) for minutes in (9, 10, 11)]

    assert written == [0, 1, 0]


def test_a_row_that_is_created_late_waits_for_its_creation(shop):
    shop.write("visits", [visit("ann", 10, created_minutes=30)])
    repository = opened(shop)
    repository.materialize(NOON)
    feed = repository.open_feed()

    assert [feed.materialize(NOON + minutes * MINUTE) for minutes in (20, 30)] == [0, 1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    minutes=st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.integers(1, 300), st.integers(0, 40)), max_size=30),
    steps=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    stretch=st.sampled_from([7, 60, 1440]),
)
def test_steps_of_a_feed_end_where_materialization_ends(make_shop, minutes, steps, stretch):
    shop = make_shop()
    shop.write("visits", [visit(customer, at, created_minutes=at + late) for customer, at, late in minutes])
    fed, leapt = opened(shop), opened(shop)
    fed.clear_online_store()
    fed.materialize(NOON)
    feed = fed.open_feed(stretch * MINUTE)
    now = NOON
    for step in steps:
        now += step * MINUTE
        feed.materialize(now)
    after_feed = stored(fed)

    leapt.clear_online_store()
    leapt.materialize(NOON)
    leapt.materialize(now)

    assert after_feed == stored(leapt)


def test_materialization_goes_on_after_a_feed(shop):
    shop.write("visits", [visit("ann", 10), visit("ann", 50)])
    repository = opened(shop)
    repository.materialize(NOON)
    repository.open_feed().materialize(NOON + 20 * MINUTE)

    assert repository.materialize(NOON + 60 * MINUTE).rows == 1


def test_a_feed_needs_a_beginning(shop):
    repository = opened(shop)

    with pytest.raises(FeatureError, match="nothing is materialized yet; materialize up to the replay's start"):
        repository.open_feed()
