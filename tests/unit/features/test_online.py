"""The model server's reader, on an online store written here, row by row."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tidegate.errors import FeatureError
from tidegate.features.online import OnlineReader
from tidegate.features.online_file import online_uri, open_reader, open_writer, upsert
from tidegate.features.packed_row import key_order, pack_key, pack_row, view_prefix
from tidegate.features.times import to_microseconds
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)

VISITS = FeatureView(
    name="visits",
    join_keys=("customer",),
    ttl_seconds=3600,
    features=(
        FeatureField(name="spent", datatype="FP32"),
        FeatureField(name="mood", datatype="BYTES", default="unknown"),
        FeatureField(name="count", datatype="INT64", default=0),
        FeatureField(name="note", datatype="BYTES"),
        FeatureField(name="new", datatype="BOOL", default=0),
    ),
)
PRICES = FeatureView(
    name="prices",
    join_keys=("shop", "customer"),
    ttl_seconds=0,
    features=(FeatureField(name="discount", datatype="FP32", default=0.25, required=True),),
)
CONTRACT = FeatureContract(service="basic", project="shop", views=(VISITS, PRICES))


def packed(view, entity, at, features, created=0):
    values = tuple(entity[name] for name in key_order(entity))
    return pack_key(view_prefix("shop", view), values), to_microseconds(at), created, pack_row(features)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "online" / "features.db"


@pytest.fixture
def writer(path):
    connection = open_writer(path)
    yield connection
    connection.close()


def open_online(path, contract=CONTRACT):
    return OnlineReader.open(online_uri(path), contract)


def test_a_row_is_found_by_its_keys(path, writer):
    upsert(
        writer,
        [
            packed("visits", {"customer": "ann"}, NOON, {"spent": 1.5, "mood": "fine", "count": 3, "note": "n", "new": True}),
            packed("prices", {"customer": "ann", "shop": 7}, NOON, {"discount": 0.5}),
        ],
    )

    lookup = asyncio.run(open_online(path).read({"customer": ["bob", "ann"], "shop": [7, 7], "unrelated": [1]}, NOON))

    assert {name: column.tolist() for name, column in lookup.columns.items()} == {
        "visits__spent": [pytest.approx(float("nan"), nan_ok=True), 1.5],
        "visits__mood": ["unknown", "fine"],
        "visits__count": [0, 3],
        "visits__note": ["", "n"],
        "visits__new": [False, True],
        "prices__discount": [0.25, 0.5],
    }
    assert {name: str(column.dtype) for name, column in lookup.columns.items()} == {
        "visits__spent": "float32", "visits__mood": "object", "visits__count": "int64", "visits__note": "object",
        "visits__new": "bool", "prices__discount": "float32",
    }  # fmt: skip
    for view in ("visits", "prices"):
        assert np.isnat(lookup.times[view]).tolist() == [True, False]
        assert lookup.times[view][1] == np.datetime64("2013-07-01T12:00:00", "us")


@pytest.mark.parametrize(
    ("age", "found"),
    [
        pytest.param(timedelta(0), True, id="now"),
        pytest.param(timedelta(seconds=3600), True, id="as-old-as-the-ttl"),
        pytest.param(timedelta(seconds=3600, microseconds=1), False, id="older-than-the-ttl"),
        pytest.param(-timedelta(seconds=1), True, id="of-a-writer-whose-clock-is-ahead"),
    ],
)
def test_ttl(path, writer, age, found):
    upsert(writer, [packed("visits", {"customer": "ann"}, NOON, {"spent": 1.0, "mood": "fine", "count": 1})])

    lookup = asyncio.run(open_online(path).read({"customer": ["ann"], "shop": [1]}, NOON + age))

    assert np.isnat(lookup.times["visits"]).tolist() == [not found]
    assert np.isnan(lookup.columns["visits__spent"]).tolist() == [not found]
    assert lookup.columns["visits__mood"].tolist() == ["fine" if found else "unknown"]


def test_no_ttl_never_expires(path, writer):
    long_ago = NOON - timedelta(days=9000)
    upsert(writer, [packed("prices", {"customer": "ann", "shop": 1}, long_ago, {"discount": 0.5})])

    lookup = asyncio.run(open_online(path).read({"customer": ["ann"], "shop": [1]}, NOON))

    assert lookup.columns["prices__discount"].tolist() == [0.5]


def test_null_and_absent_features_become_the_default(path, writer):
    upsert(writer, [packed("visits", {"customer": "ann"}, NOON, {"mood": None, "spent": None, "count": 4})])

    lookup = asyncio.run(open_online(path).read({"customer": ["ann"], "shop": [1]}, NOON))

    assert lookup.columns["visits__mood"].tolist() == ["unknown"]
    assert np.isnan(lookup.columns["visits__spent"]).tolist() == [True]
    assert lookup.columns["visits__count"].tolist() == [4]
    assert lookup.columns["visits__note"].tolist() == [""]
    assert not np.isnat(lookup.times["visits"][0])


@pytest.mark.parametrize("nobody", [pytest.param(None, id="none"), pytest.param("", id="empty")])
def test_a_row_without_entity_is_missing(path, writer, nobody):
    upsert(writer, [packed("visits", {"customer": "ann"}, NOON, {"count": 4})])

    lookup = asyncio.run(open_online(path).read({"customer": [nobody, "ann"], "shop": [1, 1]}, NOON))

    assert lookup.columns["visits__count"].tolist() == [0, 4]


def test_no_rows(path, writer):
    lookup = asyncio.run(open_online(path).read({"customer": [], "shop": []}, NOON))

    assert {name: (column.shape, str(column.dtype)) for name, column in lookup.columns.items()}["visits__count"] == (
        (0,),
        "int64",
    )
    assert lookup.times["prices"].shape == (0,)


def test_arrays_are_keys_too(path, writer):
    upsert(writer, [packed("prices", {"customer": "ann", "shop": 7}, NOON, {"discount": 0.5})])

    lookup = asyncio.run(open_online(path).read({"customer": np.array(["ann"], object), "shop": np.array([7])}, NOON))

    assert lookup.columns["prices__discount"].tolist() == [0.5]


def test_ten_thousand_rows_in_one_call(path, writer):
    upsert(writer, [packed("visits", {"customer": f"c{i}"}, NOON, {"count": i}) for i in range(10_000)])

    lookup = asyncio.run(open_online(path).read({"customer": [f"c{i}" for i in range(10_000)], "shop": [0] * 10_000}, NOON))

    assert lookup.columns["visits__count"].tolist() == list(range(10_000))


def test_the_store_may_appear_later(path):
    reader = open_online(path)
    keys = {"customer": ["ann"], "shop": [1]}
    before = asyncio.run(reader.read(keys, NOON))
    with open_writer(path) as writer:
        upsert(writer, [packed("visits", {"customer": "ann"}, NOON, {"count": 4})])

    after = asyncio.run(reader.read(keys, NOON))

    assert (before.columns["visits__count"].tolist(), after.columns["visits__count"].tolist()) == ([0], [4])
    writer.close()


def test_a_reader_sees_whole_transactions_only(path, writer):
    upsert(writer, [packed("visits", {"customer": name}, NOON, {"count": 1}) for name in ("ann", "bob")])
    reader = open_online(path)
    keys = {"customer": ["ann", "bob"], "shop": [1, 1]}
    later = NOON + timedelta(seconds=1)

    writer.execute("BEGIN IMMEDIATE")
    upsert(writer, [packed("visits", {"customer": name}, later, {"count": 2}) for name in ("ann", "bob")])
    during = asyncio.run(reader.read(keys, later))
    writer.execute("COMMIT")
    after = asyncio.run(reader.read(keys, later))

    assert during.columns["visits__count"].tolist() == [1, 1]
    assert after.columns["visits__count"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("at", "created", "expected"),
    [
        pytest.param(NOON - timedelta(microseconds=1), 9, 1, id="an-older-event-loses"),
        pytest.param(NOON, 4, 1, id="an-earlier-creation-loses"),
        pytest.param(NOON, 5, 2, id="the-same-again-wins"),
        pytest.param(NOON, 6, 2, id="a-later-creation-wins"),
        pytest.param(NOON + timedelta(microseconds=1), 0, 2, id="a-later-event-wins"),
    ],
)
def test_an_older_event_never_overwrites_a_newer_one(path, writer, at, created, expected):
    upsert(writer, [packed("visits", {"customer": "ann"}, NOON, {"count": 1}, created=5)])

    upsert(writer, [packed("visits", {"customer": "ann"}, at, {"count": 2}, created=created)])

    lookup = asyncio.run(open_online(path).read({"customer": ["ann"], "shop": [1]}, NOON))
    assert lookup.columns["visits__count"].tolist() == [expected]


def test_the_reader_cannot_write(path, writer):
    with pytest.raises(Exception, match="readonly database"):
        open_reader(path).execute("DELETE FROM rows")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        pytest.param({"customer": ["ann"]}, "entity key 'shop': not given; needed are customer, shop", id="missing"),
        pytest.param(
            {"customer": ["ann"], "shop": [1, 2]}, "one value a row is needed of each, found customer 1, shop 2", id="length"
        ),
        pytest.param({"customer": [object()], "shop": [1]}, "every value must be a string or a 64-bit integer", id="type"),
    ],
)
def test_bad_keys_are_one_clear_error(path, writer, keys, message):
    with pytest.raises(FeatureError, match=message):
        asyncio.run(open_online(path).read(keys, NOON))


@pytest.mark.parametrize("uri", ["postgres://localhost:6379", "sqlite://relative.db", "/a/path"])
def test_another_address_is_refused(uri):
    with pytest.raises(FeatureError, match=r"not an address of one; use sqlite:///ABSOLUTE/PATH or redis://"):
        OnlineReader.open(uri, CONTRACT)


def test_a_broken_store_is_one_clear_error(path):
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, it is only some text" * 50)

    with pytest.raises(FeatureError, match=r"online store .*features\.db: cannot be read: file is not a database"):
        open_online(path)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        pytest.param(FeatureField(name="x", datatype="FP64"), "feature v:x: FP64 cannot be looked up", id="datatype"),
        pytest.param(FeatureField(name="x", datatype="INT64"), "feature v:x: INT64 has no missing value", id="no-default"),
    ],
)
def test_a_contract_that_cannot_be_read_is_refused(path, field, message):
    view = FeatureView(name="v", join_keys=("k",), ttl_seconds=0, features=(field,))

    with pytest.raises(FeatureError, match=message):
        open_online(path, FeatureContract(service="s", project="p", views=(view,)))


def test_the_reader_imports_nothing_heavy():
    heavy = ("feast", "pandas", "duckdb", "pydantic", "pyarrow")
    code = f"import sys, tidegate.features.online; print([name for name in {heavy} if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
