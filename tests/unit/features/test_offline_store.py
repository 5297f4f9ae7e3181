"""The point-in-time join, by stock `get_historical_features`, against a slow reference that follows the definition."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import DataError, FeatureError
from tidegate.features.definitions import load_config, load_definitions

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
VISITS = ["visits:spent", "visits:count_y"]


def open_store(shop):
    store = FeatureStore(config=load_config(shop.repository, shop.workspace))
    store.apply(load_definitions(shop.repository, shop.workspace))
    return store


@pytest.fixture(scope="module")
def shop(make_shop):
    return make_shop()


@pytest.fixture(scope="module")
def store(shop):
    return open_store(shop)


def visit(customer, at, spent, created=None, count=0):
    return {"customer": customer, "at": at, "spent": spent, "count_y": count, "mood": None, "created": created or at}


def spent(store, entity_df, **kwargs):
    """What the store returns as `spent`, null as None."""
    table = store.get_historical_features(entity_df, VISITS, **kwargs).to_arrow()
    return table["spent"].to_pylist()


def entities(*rows):
    return pd.DataFrame(
        {"customer": pd.Series([key for key, _ in rows], dtype=object), "event_timestamp": [at for _, at in rows]}
    )


@pytest.mark.parametrize(
    ("rows", "asked", "expected"),
    [
        pytest.param([visit("ann", NOON, 1)], [("ann", NOON)], [1], id="known-at-its-own-time"),
        pytest.param([visit("ann", NOON + MICROSECOND, 1)], [("ann", NOON)], [None], id="a-microsecond-early-is-unknown"),
        pytest.param([visit("ann", NOON - HOUR, 1)], [("ann", NOON)], [1], id="as-old-as-the-ttl-counts"),
        pytest.param([visit("ann", NOON - HOUR - MICROSECOND, 1)], [("ann", NOON)], [None], id="older-than-the-ttl-is-missing"),
        pytest.param(
            [visit("ann", NOON - 3 * MICROSECOND, 1), visit("ann", NOON - 2 * MICROSECOND, 2)],
            [("ann", NOON)],
            [2],
            id="latest",
        ),
        pytest.param(
            [visit("ann", NOON, 2, created=NOON + 2 * HOUR), visit("ann", NOON, 1, created=NOON + HOUR)],
            [("ann", NOON)],
            [2],
            id="of-equal-times-the-last-created",
        ),
        pytest.param(
            [{**visit("ann", NOON, 1), "created": None}, visit("ann", NOON, 2)],
            [("ann", NOON)],
            [2],
            id="no-creation-comes-first",
        ),
        pytest.param([visit("ann", NOON, None), visit("ann", NOON - HOUR, 1)], [("ann", NOON)], [None], id="a-null-is-a-value"),
        pytest.param([visit("ann", NOON, 1)], [("ann", NOON)] * 3, [1, 1, 1], id="duplicate-rows-are-kept"),
        pytest.param([visit("ann", NOON, 1)], [(None, NOON), ("ann", NOON)], [None, 1], id="null-key-is-kept"),
        pytest.param([visit(None, NOON, 1)], [(None, NOON)], [None], id="null-keys-do-not-match"),
        pytest.param([visit("ann", NOON, 1)], [("ann", pd.NaT), ("ann", NOON)], [None, 1], id="nat-is-kept"),
        pytest.param([visit("ann", NOON, 1)], [("zoe", NOON), ("ann", NOON)], [None, 1], id="unknown-key-is-kept"),
        pytest.param(
            [visit("ann", NOON, 1), visit("bob", NOON, 2)],
            [("bob", NOON), ("ann", NOON), ("bob", NOON - HOUR), ("ann", NOON)],
            [2, 1, None, 1],
            id="order-is-kept",
        ),
        pytest.param([], [("ann", NOON)], [None], id="empty-source"),
        pytest.param([visit("ann", NOON, 1)], [], [], id="no-rows"),
        pytest.param(
            [visit("ann", datetime(1950, 1, 1, tzinfo=UTC), 1)],
            [("ann", datetime(1950, 1, 1, tzinfo=UTC) + MICROSECOND)],
            [1],
            id="before-1970",
        ),
    ],
)
def test_named_cases(shop, store, rows, asked, expected):
    shop.write("visits", rows)
    frame = entities(*asked)
    if not asked:
        frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], utc=True)

    assert spent(store, frame) == expected


def test_every_column_of_the_entity_rows_is_kept(shop, store):
    shop.write("visits", [visit("ann", NOON, 1.5, count=7)])
    frame = entities(("ann", NOON)).assign(note="x", also=[[1, 2]])

    table = store.get_historical_features(frame, VISITS, full_feature_names=True).to_arrow()

    assert table.column_names == ["customer", "event_timestamp", "note", "also", "visits__spent", "visits__count_y"]
    assert table.to_pylist()[0] | {"event_timestamp": None} == {
        "customer": "ann",
        "event_timestamp": None,
        "note": "x",
        "also": [1, 2],
        "visits__spent": 1.5,
        "visits__count_y": 7,
    }


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        pytest.param(pd.to_datetime(["2013-07-01 12:00:00"]), [1], id="without-zone-is-utc"),
        pytest.param(pd.to_datetime(["2013-07-01 08:00:00"]).tz_localize("America/New_York"), [1], id="another-zone"),
        pytest.param(pd.to_datetime(["2013-07-01 07:59:59"]).tz_localize("America/New_York"), [None], id="another-zone-early"),
        pytest.param(pd.to_datetime(["2013-07-01 11:59:59.999999999"]).tz_localize("UTC"), [None], id="nanosecond-rounds-down"),
        pytest.param(pd.to_datetime(["2013-07-01 12:00:00.000000999"]).tz_localize("UTC"), [1], id="nanosecond-after"),
        pytest.param(pd.to_datetime(["2013-07-01 12:00:00"]).as_unit("s"), [1], id="seconds"),
    ],
)
def test_entity_times(shop, store, moments, expected):
    shop.write("visits", [visit("ann", NOON, 1)])

    assert spent(store, pd.DataFrame({"customer": "ann", "event_timestamp": moments})) == expected


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(pa.timestamp("us"), id="us"),
        pytest.param(pa.timestamp("ms", tz="UTC"), id="ms-utc"),
        pytest.param(pa.timestamp("us", tz="America/New_York"), id="us-new-york"),
        pytest.param(pa.timestamp("ns"), id="ns"),
        pytest.param(pa.timestamp("ns", tz="UTC"), id="ns-utc"),
    ],
)
def test_source_times(shop, store, kind):
    """The row of 12:00 is known at 12:00 and not before, however the source stores the time."""
    schema = pa.schema([field.with_type(kind) if field.name in ("at", "created") else field for field in shop_schema(shop)])
    shop.write("visits", pa.Table.from_pylist([visit("ann", NOON, 1)], schema=shop_schema(shop)).cast(schema))

    assert spent(store, entities(("ann", NOON - MICROSECOND), ("ann", NOON))) == [None, 1]


def shop_schema(shop):
    shop.write("visits", [])
    return pq.read_schema(shop.workspace / "data" / "visits.parquet")


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        pytest.param(999, [None, 1], id="rounds-down-not-to-nearest"),
        pytest.param(1000, [None, 1], id="whole"),
        pytest.param(-1, [1, 1], id="just-before"),
    ],
)
def test_source_nanoseconds_round_down(shop, store, nanoseconds, expected):
    at = pd.Timestamp(NOON).value + nanoseconds
    schema = shop_schema(shop)
    columns = {
        "customer": ["ann"], "spent": [1.0], "count_y": [0], "mood": [None],
        "at": pa.array([at], pa.timestamp("ns", tz="UTC")), "created": pa.array([at], pa.timestamp("ns", tz="UTC")),
    }  # fmt: skip
    table = pa.table(
        {
            name: pa.array(value, schema.field(name).type) if isinstance(value, list) else value
            for name, value in columns.items()
        }
    )
    shop.write("visits", table)
    moments = pd.to_datetime([NOON - MICROSECOND, NOON + MICROSECOND * (nanoseconds // 1000)])

    assert spent(store, pd.DataFrame({"customer": "ann", "event_timestamp": moments})) == expected


def test_a_row_is_ignored_until_it_was_created_if_asked(shop, store):
    shop.write(
        "visits",
        [
            visit("ann", NOON, 1),
            visit("ann", NOON + 2 * MICROSECOND, 2, created=NOON + HOUR),
            visit("ann", NOON, 3, created=NOON + HOUR),
        ],
    )
    frame = entities(("ann", NOON + 5 * MICROSECOND), ("ann", NOON + HOUR))

    assert spent(store, frame) == [2, 2]
    assert spent(store, frame, filter_by_created_timestamp=True) == [1, 2]


def test_entity_rows_by_query(shop, store):
    shop.write("visits", [visit("ann", NOON, 1)])

    query = "SELECT 'ann' AS customer, TIMESTAMPTZ '2013-07-01 12:00:00+00' AS event_timestamp, 5 AS note"
    table = store.get_historical_features(query, VISITS).to_arrow()

    assert table.select(["customer", "note", "spent"]).to_pylist() == [{"customer": "ann", "note": 5, "spent": 1}]


def test_two_keys_and_no_ttl(shop, store):
    long_ago = NOON - timedelta(days=4000)
    shop.write("prices", [{"customer": "ann", "shop": 7, "discount": 0.5, "at": long_ago, "created": long_ago}])
    frame = pd.DataFrame({"customer": ["ann", "ann", "bob"], "shop": [7, 8, 7], "event_timestamp": [NOON] * 3})

    assert store.get_historical_features(frame, ["prices:discount"]).to_df()["discount"].fillna(-1).tolist() == [0.5, -1, -1]


def test_dictionary_keys(shop, store):
    shop.write("visits", [visit("ann", NOON, 1)])

    assert spent(store, entities(("ann", NOON), ("bob", NOON)).astype({"customer": "category"})) == [1, None]


def test_the_join_answers_like_the_definition(shop, store):
    """Random histories and questions on a grid coarse enough for ties, expiry and repeated keys to be common."""
    keys = st.sampled_from(["ann", "bob", "cid", None])
    minutes = st.integers(-90, 30)
    rows = st.lists(
        st.tuples(keys, minutes, st.integers(0, 40)), max_size=25, unique=True
    )  # key, event minute, minutes from event to creation
    asked = st.lists(st.tuples(keys, st.one_of(st.none(), minutes)), min_size=1, max_size=25)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(rows, asked, st.booleans())
    def check(rows, asked, only_created):
        history = [
            visit(key, NOON + timedelta(minutes=at), index, created=NOON + timedelta(minutes=at + lag))
            for index, (key, at, lag) in enumerate(rows)
        ]
        shop.write("visits", history)
        moments = [None if at is None else NOON + timedelta(minutes=at) for _, at in asked]
        frame = pd.DataFrame(
            {
                "customer": pd.Series([key for key, _ in asked], dtype=object),
                "event_timestamp": pd.to_datetime(moments, utc=True),
            }
        )

        found = spent(store, frame, filter_by_created_timestamp=only_created)

        assert found == [
            reference(history, key, at, only_created=only_created) for (key, _), at in zip(asked, moments, strict=True)
        ]

    check()


def reference(history, key, at, *, only_created):
    """The definition: of this key's rows known by `at`, the latest (of those, the last created), unless it is too old."""
    if key is None or at is None:
        return None
    known = [row for row in history if row["customer"] == key and row["at"] <= at]
    if only_created:
        known = [row for row in known if row["created"] <= at]
    if not known:
        return None
    latest = max(known, key=lambda row: (row["at"], row["created"]))
    return latest["spent"] if at - latest["at"] <= HOUR else None


def test_on_demand_views_and_aliases(make_shop):
    shop = make_shop()
    definitions = (shop.repository / "definitions.py").read_text()
    shop.define(
        definitions
        + """
@on_demand_feature_view(sources=[visits], schema=[Field(name="spent_twice", dtype=Float64)])
def twice(inputs):
    import pandas as pd
    return pd.DataFrame({"spent_twice": inputs["spent"].astype("float64") * 2})

rich = FeatureService(name="rich", features=[
    visits.with_name("own")[["spent"]],
    visits.with_name("friends").with_join_key_map({"customer": "friend"})[["spent"]],
    twice,
])
"""
    )
    store = open_store(shop)
    shop.write("visits", [visit("ann", NOON, 1), visit("bob", NOON, 2)])
    frame = pd.DataFrame({"customer": ["ann"], "friend": ["bob"], "event_timestamp": [NOON]})

    table = store.get_historical_features(frame, store.get_feature_service("rich"), full_feature_names=True).to_arrow()

    row = table.to_pylist()[0]
    assert (row["own__spent"], row["friends__spent"], row["twice__spent_twice"]) == (1, 2, 2)


def test_saved_dataset(shop, store, tmp_path):
    shop.write("visits", [visit("ann", NOON, 1)])
    job = store.get_historical_features(entities(("ann", NOON)), VISITS)

    job.persist(SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet")))

    assert pq.read_table(tmp_path / "saved.parquet")["spent"].to_pylist() == [1]
    with pytest.raises(FeatureError, match=r"saved\.parquet exists; pass allow_overwrite=True"):
        job.persist(SavedDatasetFileStorage(path=str(tmp_path / "saved.parquet")))


def without(column):
    return lambda table: table.drop_columns([column])


def with_type(column, kind, value):
    def change(table):
        return table.set_column(table.column_names.index(column), column, pa.array([value] * table.num_rows, kind))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            without("spent"), r"feature view visits: source .*visits\.parquet has no column 'spent'; it has ", id="feature"
        ),
        pytest.param(without("customer"), r"feature view visits: .* has no column 'customer'", id="key"),
        pytest.param(without("created"), r"feature view visits: .* has no column 'created'", id="created"),
        pytest.param(
            with_type("spent", pa.string(), "much"),
            r"column 'spent' of .* is VARCHAR, but the view declares Float32",
            id="dtype",
        ),
        pytest.param(
            with_type("count_y", pa.float64(), 1.5), r"column 'count_y' of .* is DOUBLE, but .* Int64", id="int-dtype"
        ),
        pytest.param(with_type("at", pa.string(), "noon"), r"column 'at' of .* is VARCHAR, not a timestamp", id="time-dtype"),
    ],
)
def test_a_bad_source_is_one_clear_error(shop, store, change, message):
    table = pa.Table.from_pylist([visit("ann", NOON, 1)], schema=shop_schema(shop))
    shop.write("visits", change(table))

    with pytest.raises(DataError, match=message):
        store.get_historical_features(entities(("ann", NOON)), VISITS).to_arrow()


def test_a_missing_or_broken_source_is_one_clear_error(shop, store):
    path = shop.write("visits", [])

    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"feature view visits: source .*visits\.parquet cannot be read"):
        spent(store, entities(("ann", NOON)))
    path.unlink()
    with pytest.raises(DataError, match=r"feature view visits: source .*visits\.parquet does not exist; write it first"):
        spent(store, entities(("ann", NOON)))


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        pytest.param(pd.DataFrame({"event_timestamp": [NOON]}), DataError, "entity rows: no column 'customer'", id="no-key"),
        pytest.param(
            pd.DataFrame({"customer": [5], "event_timestamp": [NOON]}),
            DataError,
            "entity rows: column 'customer' is int64, but the key 'customer' of feature view visits is VARCHAR",
            id="key-type",
        ),
        pytest.param(
            pd.DataFrame({"customer": ["ann"], "event_timestamp": ["noon"]}),
            DataError,
            "'event_timestamp' is .*string",
            id="time-type",
        ),
        pytest.param("SELECT nonsense", DataError, "entity rows: the query failed", id="query"),
    ],
)
def test_bad_entity_rows_are_one_clear_error(shop, store, frame, error, message):
    shop.write("visits", [visit("ann", NOON, 1)])

    with pytest.raises(error, match=message):
        store.get_historical_features(frame, VISITS).to_arrow()


def test_a_time_range_alone_is_refused(store):
    with pytest.raises(FeatureError, match="entity rows: not given"):
        store.get_historical_features(features=VISITS, start_date=NOON, end_date=NOON + HOUR)
