import asyncio
import sys
from datetime import UTC, datetime, timedelta
from textwrap import dedent

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tidegate.errors import DataError, FeatureError
from tidegate.features import online_file
from tidegate.features.online import OnlineReader
from tidegate.features.repository import FeatureRepository
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def visit(customer, at, spent, created=None, count=1, mood="fine"):
    return {"customer": customer, "at": at, "spent": spent, "count_y": count, "mood": mood, "created": created or at}


@pytest.fixture
def repository(shop):
    repository = FeatureRepository(shop.repository, shop.workspace)
    repository.apply()
    return repository


class Online:
    """What the model server would see."""

    def __init__(self, repository):
        self._reader = OnlineReader.open(repository.online_store_uri, repository.contract("basic"))

    def spent(self, *customers, at=NOON):
        lookup = asyncio.run(self._reader.read({"customer": customers, "shop": [7] * len(customers)}, at))
        found = zip(lookup.columns["visits__spent"].tolist(), np.isnat(lookup.times["visits"]), strict=True)
        return [None if missing else value for value, missing in found]


def entity_rows(*rows):
    customers, times = zip(*rows, strict=True)
    return pa.table(
        {"id": range(len(rows)), "customer": customers, "shop": [7] * len(rows), "asked_at": pa.array(times, online_time())}
    )


def online_time():
    return pa.timestamp("us", tz="UTC")


# Contracts


def test_contract_freezes_keys_types_ttl_and_tags(repository):
    assert repository.contract("basic") == FeatureContract(
        service="basic",
        project="shop",
        views=(
            FeatureView(
                name="visits",
                join_keys=("customer",),
                ttl_seconds=3600,
                features=(
                    FeatureField(name="spent", datatype="FP32"),
                    FeatureField(name="count_y", datatype="INT64", default=0),
                    FeatureField(name="mood", datatype="BYTES", default="unknown"),
                ),
            ),
            FeatureView(
                name="prices",
                join_keys=("customer", "shop"),
                ttl_seconds=0,
                features=(FeatureField(name="discount", datatype="FP32", required=True),),
            ),
        ),
    )


def test_contract_is_the_same_in_another_process_of_the_repository(shop, repository):
    again = FeatureRepository(shop.repository, shop.workspace)

    assert again.contract("basic").digest == repository.contract("basic").digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "features=[visits, prices]",
            'features=[visits.with_name("calls"), prices]',
            "view visits is aliased as 'calls'",
            id="alias",
        ),
        pytest.param(
            ', tags={"tidegate.default": "0"}',
            "",
            "feature count_y: Int64 has no missing value; give it the tag",
            id="no-default",
        ),
        pytest.param(
            '"tidegate.default": "0"', '"tidegate.default": "many"', "tag tidegate.default is 'many'", id="bad-default"
        ),
        pytest.param(
            '"tidegate.required": "true"', '"tidegate.required": "yes"', "tag tidegate.required is 'yes'", id="bad-required"
        ),
        pytest.param('"discount", dtype=Float32', '"discount", dtype=Bytes', "type Bytes is no model input", id="datatype"),
        pytest.param("entities=[customer, shop]", "entities=[]", "view prices has no entity", id="no-entity"),
    ],
)
def test_what_cannot_be_frozen_is_refused(shop, old, new, message):
    text = (shop.repository / "definitions.py").read_text()
    assert old in text
    shop.define(text.replace(old, new).replace("import Float32", "import Bytes, Float32"))
    repository = FeatureRepository(shop.repository, shop.workspace)
    repository.apply()

    with pytest.raises(FeatureError, match=f"feature service basic: view .*{message.partition(' ')[2]}"):
        repository.contract("basic")


def test_unknown_service(repository):
    with pytest.raises(FeatureError, match="feature service 'nope' is not registered; there are: basic, both"):
        repository.contract("nope")


def test_nothing_is_registered_before_apply(shop):
    with pytest.raises(FeatureError, match="feature service 'basic' is not registered; there are: none; apply first"):
        FeatureRepository(shop.repository, shop.workspace).contract("basic")


# Training sets


def test_training_set_keeps_rows_and_columns_and_adds_features(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1.5, count=None, mood=None), visit("bob", NOON, 2.5, count=4)])
    shop.write("prices", [{"customer": "ann", "shop": 7, "discount": 0.5, "at": NOON, "created": NOON}])
    rows = entity_rows(("bob", NOON), ("ann", NOON), (None, NOON), ("bob", None), ("bob", NOON))

    table = repository.training_set(rows, "basic", "asked_at")

    assert table.select(rows.column_names).equals(rows)
    assert table.select(table.column_names[4:]).to_pydict() == {
        "visits__spent": [2.5, 1.5, None, None, 2.5],
        "visits__count_y": [4, 0, 0, 0, 4],
        "visits__mood": ["fine", "unknown", "unknown", "unknown", "fine"],
        "prices__discount": [None, 0.5, None, None, None],
    }
    assert [str(table.schema.field(i).type) for i in range(4, 8)] == ["float", "int64", "string", "float"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda rows: rows.drop_columns(["shop"]),
            "entity rows: no column 'shop'; there are id, customer, asked_at",
            id="key",
        ),
        pytest.param(lambda rows: rows.drop_columns(["asked_at"]), "entity rows: no column 'asked_at'", id="timestamp"),
        pytest.param(
            lambda rows: rows.append_column("visits__spent", pa.array([1.0])),
            "column 'visits__spent' has the name of a feature",
            id="clash",
        ),
        pytest.param(
            lambda rows: rows.set_column(1, "customer", pa.array([5])), "column 'customer' is int64, but the key", id="key-type"
        ),
        pytest.param(
            lambda rows: rows.set_column(3, "asked_at", pa.array(["noon"])),
            "column 'asked_at' is string, not a timestamp",
            id="time-type",
        ),
    ],
)
def test_bad_entity_rows_are_one_clear_error(repository, change, message):
    with pytest.raises(DataError, match=message):
        repository.training_set(change(entity_rows(("ann", NOON))), "basic", "asked_at")


# Materialization


def test_only_the_latest_row_up_to_the_time_is_materialized(shop, repository):
    shop.write(
        "visits",
        [visit("ann", NOON - HOUR, 1), visit("ann", NOON, 2), visit("ann", NOON + HOUR, 3), visit("bob", NOON + HOUR, 4)],
    )

    report = repository.materialize(NOON)

    assert [(view.view, view.since, view.rows) for view in report.views] == [("prices", None, 0), ("visits", None, 1)]
    assert Online(repository).spent("ann", "bob") == [2, None]


def test_a_step_reads_only_what_is_new(shop, repository):
    online = Online(repository)
    shop.write("visits", [visit("ann", NOON, 1), visit("ann", NOON + HOUR, 2), visit("bob", NOON, 3)])
    repository.materialize(NOON)

    report = repository.materialize(NOON + HOUR)

    assert [(view.view, view.since, view.rows) for view in report.views][1] == ("visits", NOON, 1)
    assert report.rows == 1
    assert online.spent("ann", "bob") == [2, 3]


def test_doing_it_again_changes_nothing(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1)])

    assert [repository.materialize(NOON).rows for _ in range(3)] == [1, 0, 0]
    assert repository.materialize(NOON - HOUR).rows == 0


def test_steps_end_where_one_leap_ends(shop, repository):
    history = [visit("ann", NOON + timedelta(minutes=7 * i), i) for i in range(20)]
    history += [
        visit("bob", NOON + timedelta(minutes=11 * i), -i, created=NOON + timedelta(minutes=11 * i + 30)) for i in range(15)
    ]
    shop.write("visits", history)

    for minutes in range(0, 200, 10):
        repository.materialize(NOON + timedelta(minutes=minutes))

    at = NOON + timedelta(minutes=190)
    assert Online(repository).spent("ann", "bob", at=at) == [19, -14]


def test_rows_that_arrive_late_are_picked_up(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1)])
    repository.materialize(NOON + HOUR)

    shop.write("visits", [visit("ann", NOON, 1), visit("bob", NOON, 2, created=NOON + HOUR + HOUR / 2)])
    FeatureRepository(shop.repository, shop.workspace).materialize(NOON + 2 * HOUR)

    assert Online(repository).spent("ann", "bob") == [1, 2]


def test_a_late_row_does_not_hide_a_newer_one(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1), visit("ann", NOON - HOUR, 9, created=NOON + HOUR)])
    repository.materialize(NOON)

    repository.materialize(NOON + HOUR)

    assert Online(repository).spent("ann") == [1]


def test_a_view_that_is_not_online_is_not_materialized(shop, repository):
    shop.write("hidden", [{"customer": "ann", "secret": 1.0, "at": NOON, "created": NOON}])

    report = repository.materialize(NOON)

    assert "hidden" not in [view.view for view in report.views]
    reader = OnlineReader.open(repository.online_store_uri, repository.contract("both"))
    assert np.isnat(asyncio.run(reader.read({"customer": ["ann"]}, NOON)).times["hidden"]).tolist() == [True]
    table = repository.training_set(entity_rows(("ann", NOON)), "both", "asked_at")
    assert table["hidden__secret"].to_pylist() == [1.0]


def test_a_changed_view_starts_from_the_beginning(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1)])
    repository.materialize(NOON)
    text = (shop.repository / "definitions.py").read_text()
    shop.define(
        text.replace('Field(name="mood", dtype=String', 'Field(name="extra", dtype=Float32), Field(name="mood", dtype=String')
    )
    table = pa.Table.from_pylist([visit("ann", NOON, 1) | {"extra": 5.0}])
    shop.write("visits", table.set_column(1, "at", table["at"].cast(online_time())))

    changed = FeatureRepository(shop.repository, shop.workspace)
    changed.apply()

    assert changed.materialize(NOON).rows == 1
    reader = OnlineReader.open(changed.online_store_uri, changed.contract("basic"))
    assert asyncio.run(reader.read({"customer": ["ann"], "shop": [7]}, NOON)).columns["visits__extra"].tolist() == [5.0]


def test_a_killed_step_leaves_neither_rows_nor_watermark(shop, repository, monkeypatch):
    shop.write("visits", [visit("ann", NOON, 1)])
    monkeypatch.setattr(online_file, "upsert", killed_after_writing)
    with pytest.raises(KeyboardInterrupt):
        repository.materialize(NOON)
    assert Online(repository).spent("ann") == [None]
    monkeypatch.undo()

    report = repository.materialize(NOON)

    assert report.rows == 1
    assert Online(repository).spent("ann") == [1]


def killed_after_writing(connection, rows, upsert=online_file.upsert):
    upsert(connection, rows)
    raise KeyboardInterrupt


def test_clearing_forgets_rows_and_watermarks(shop, repository):
    shop.write("visits", [visit("ann", NOON - HOUR, 1), visit("ann", NOON, 2)])
    repository.materialize(NOON)

    repository.clear_online_store()

    assert Online(repository).spent("ann") == [None]
    assert repository.materialize(NOON - HOUR).rows == 1
    assert Online(repository).spent("ann", at=NOON - HOUR) == [1]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(pa.timestamp("us"), id="without-zone"),
        pytest.param(pa.timestamp("ns", tz="UTC"), id="ns-utc"),
        pytest.param(pa.timestamp("ns"), id="ns"),
        pytest.param(pa.timestamp("ms", tz="UTC"), id="ms"),
    ],
)
def test_source_times(shop, repository, kind):
    path = shop.write("visits", [visit("ann", NOON, 1), visit("ann", NOON + HOUR, 2)])
    table = duckdb.sql(f"FROM '{path}'").to_arrow_table()
    for name in ("at", "created"):
        position = table.column_names.index(name)
        table = table.set_column(position, name, table[name].cast(kind))
    shop.write("visits", table)

    for until, expected in ((NOON - timedelta(microseconds=1), [None]), (NOON, [1]), (NOON + HOUR, [2])):
        repository.materialize(until)
        assert Online(repository).spent("ann") == expected


def test_a_time_without_zone_is_refused(repository):
    with pytest.raises(FeatureError, match="has no time zone; event time is UTC"):
        repository.materialize(datetime(2013, 7, 1))  # noqa: DTZ001


def test_a_missing_source_is_one_clear_error_and_writes_nothing(shop, repository):
    shop.write("visits", [visit("ann", NOON, 1)])
    (shop.workspace / "data" / "prices.parquet").unlink()

    with pytest.raises(DataError, match=r"feature view prices: source .*prices\.parquet does not exist; write it first"):
        repository.materialize(NOON)
    assert Online(repository).spent("ann") == [None]


# The repository folder


def test_applying_twice_changes_nothing_and_what_is_gone_is_forgotten(shop, repository):
    digest = repository.contract("basic").digest
    repository.apply()
    assert repository.contract("basic").digest == digest

    text = (shop.repository / "definitions.py").read_text()
    shop.define(text.replace('both = FeatureService(name="both", features=[visits, hidden])', ""))
    repository.apply()

    with pytest.raises(FeatureError, match=r"there are: basic$"):
        repository.contract("both")


def test_two_workspaces_do_not_mix(shop, tmp_path, repository):
    other = FeatureRepository(shop.repository, tmp_path / "other")
    (tmp_path / "other" / "data").mkdir(parents=True)
    for name in ("visits", "prices", "hidden"):
        (tmp_path / "other" / "data" / f"{name}.parquet").write_bytes(
            (shop.workspace / "data" / f"{name}.parquet").read_bytes()
        )
    other.apply()
    shop.write("visits", [visit("ann", NOON, 1)])

    assert (repository.materialize(NOON).rows, other.materialize(NOON).rows) == (1, 0)
    assert other.online_store_uri == f"sqlite://{tmp_path}/other/features/online.db"


def test_files_may_import_each_other_and_leave_nothing_behind(shop):
    text = (shop.repository / "definitions.py").read_text()
    head, _, tail = text.partition("visits = FeatureView(")
    (shop.repository / "things.py").write_text(head)
    shop.define(f"from things import *\nvisits = FeatureView({tail}")
    before, path = set(sys.modules), list(sys.path)

    FeatureRepository(shop.repository, shop.workspace).apply()

    assert not {"things", "definitions"} & (set(sys.modules) - before)
    assert sys.path == path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"feature_store.yaml": None}, "no feature_store.yaml there; name a Feast repository folder", id="no-yaml"),
        pytest.param({"feature_store.yaml": "project: [broken"}, r"feature_store\.yaml: \w+: .*", id="broken-yaml"),
        pytest.param(
            {"feature_store.yaml": "project: shop\nprovider: local\nregistry: r.db\noffline_store: {type: nope}\n"},
            "nope",
            id="unknown-type",
        ),
        pytest.param(
            {"feature_store.yaml": "project: shop\nprovider: local\nregistry: r.db\n"},
            "online_store.type is 'sqlite'; use",
            id="other-online-store",
        ),
        pytest.param(
            {"definitions.py": "1 / 0"}, "definitions.py fails: ZeroDivisionError: division by zero", id="definition-fails"
        ),
        pytest.param({"definitions.py": "x = 1"}, "no Python file in it defines a feature view", id="nothing-defined"),
    ],
)
def test_a_bad_repository_is_one_clear_error(shop, files, message):
    for name, text in files.items():
        if text is None:
            (shop.repository / name).unlink()
        else:
            (shop.repository / name).write_text(dedent(text))

    with pytest.raises(FeatureError, match=message) as caught:
        FeatureRepository(shop.repository, shop.workspace).apply()
    assert "\n" not in str(caught.value)


def test_a_declared_feature_that_the_source_lacks_is_refused_when_used(shop, repository):
    shop.write(
        "visits",
        pa.table({"customer": ["ann"], "at": pa.array([NOON], online_time()), "created": pa.array([NOON], online_time())}),
    )

    with pytest.raises(DataError, match=r"feature view visits: source .* has no column 'spent'"):
        repository.materialize(NOON)
