"""The online store as Feast itself uses it: stock writes, reads and materialization."""

import asyncio
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from feast import FeatureStore

from tidegate.features.definitions import load_config, load_definitions
from tidegate.features.online import OnlineReader
from tidegate.features.online_file import online_uri
from tidegate.features.repository import FeatureRepository

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
FEATURES = ["visits:spent", "visits:count_y", "visits:mood"]


@pytest.fixture
def store(shop):
    store = FeatureStore(config=load_config(shop.repository, shop.workspace))
    store.apply(load_definitions(shop.repository, shop.workspace))
    return store


def write(store, *rows):
    names = ["customer", "spent", "count_y", "mood", "at", "created"]
    store.write_to_online_store("visits", pd.DataFrame(rows, columns=names))


def read(store, *customers):
    answer = store.get_online_features(FEATURES, [{"customer": customer} for customer in customers]).to_dict()
    return list(zip(answer["spent"], answer["count_y"], answer["mood"], strict=True))


def test_what_feast_writes_feast_reads(store):
    write(store, ["ann", 1.5, 3, "fine", NOON, NOON], ["bob", 2.5, 4, "", NOON, NOON])

    assert read(store, "bob", "zoe", "ann") == [(2.5, 4, ""), (None, None, None), (1.5, 3, "fine")]


def test_nulls_stay_null(store):
    write(store, ["ann", None, 3, None, NOON, NOON])

    assert read(store, "ann") == [(None, 3, None)]


def test_an_older_event_does_not_overwrite_a_newer_one(store):
    write(store, ["ann", 2.0, 2, "new", NOON, NOON])
    write(store, ["ann", 1.0, 1, "old", NOON - timedelta(hours=1), NOON + timedelta(days=1)])

    assert read(store, "ann") == [(2.0, 2, "new")]


def test_what_feast_writes_the_reader_reads(shop, store):
    write(store, ["ann", 1.5, 3, "fine", NOON, NOON])
    contract = FeatureRepository(shop.repository, shop.workspace).contract("basic")

    reader = OnlineReader.open(online_uri(shop.workspace / "features" / "online.db"), contract)
    lookup = asyncio.run(reader.read({"customer": ["ann"], "shop": [1]}, NOON))

    assert [lookup.columns[f"visits__{name}"][0] for name in ("spent", "count_y", "mood")] == [1.5, 3, "fine"]


def test_stock_materialization(shop, store):
    row = {"customer": "ann", "mood": "fine", "count_y": 1}
    shop.write(
        "visits",
        [
            row | {"spent": 1.0, "at": NOON, "created": NOON},
            row | {"spent": 2.0, "at": NOON + timedelta(hours=1), "created": NOON},
            row | {"spent": 3.0, "at": NOON + timedelta(hours=2), "created": NOON},
        ],
    )

    store.materialize(NOON - timedelta(hours=1), NOON + timedelta(hours=1), feature_views=["visits"])

    assert read(store, "ann") == [(2.0, 1, "fine")]


def test_a_view_that_is_deleted_loses_its_rows(shop, store):
    write(store, ["ann", 1.5, 3, "fine", NOON, NOON])

    store.apply([], objects_to_delete=[store.get_feature_view("visits")], partial=False)
    store.apply(load_definitions(shop.repository, shop.workspace))

    assert read(store, "ann") == [(None, None, None)]


def test_values_without_a_packed_form_survive(shop):
    definitions = (shop.repository / "definitions.py").read_text()
    shop.define(
        definitions.replace("import Float32", "import Array, UnixTimestamp, Float32").replace(
            'Field(name="spent", dtype=Float32),',
            'Field(name="spent", dtype=Array(Float32)), Field(name="last", dtype=UnixTimestamp),',
        )
    )
    store = FeatureStore(config=load_config(shop.repository, shop.workspace))
    store.apply(load_definitions(shop.repository, shop.workspace))
    frame = pd.DataFrame(
        [["ann", [1.0, 2.0], NOON, 3, "fine", NOON, NOON]],
        columns=["customer", "spent", "last", "count_y", "mood", "at", "created"],
    )

    store.write_to_online_store("visits", frame)

    answer = store.get_online_features(["visits:spent", "visits:last"], [{"customer": "ann"}]).to_dict()
    assert answer["spent"] == [[1.0, 2.0]]
    assert answer["last"] == [NOON]
