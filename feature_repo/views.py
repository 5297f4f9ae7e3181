"""The feature views of the flights example. Each reads the Parquet file of its own name, in the workspace's data folder."""

import os
from datetime import timedelta
from pathlib import Path

from entities import carrier, dest, origin, tailnum
from feast import FeatureView, Field, FileSource
from feast.types import Float32, String

DATA = Path(os.environ["TIDEGATE_WORKSPACE"]) / "data"


def source(view: str) -> FileSource:
    return FileSource(
        name=f"{view}_source",
        path=str(DATA / f"{view}.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def delays(short: int, long: int) -> list[Field]:
    return [
        *(Field(name=f"mean_delay_{hours}h", dtype=Float32) for hours in (short, long)),
        *(Field(name=f"late_share_{hours}h", dtype=Float32) for hours in (short, long)),
        Field(name=f"flights_{short}h", dtype=Float32),
    ]


origin_weather = FeatureView(
    name="origin_weather",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=[Field(name=name, dtype=Float32) for name in ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")],
    source=source("origin_weather"),
    description="The last hourly observation at the airport of departure.",
)

aircraft = FeatureView(
    name="aircraft",
    entities=[tailnum],
    ttl=timedelta(0),  # the register does not expire
    schema=[
        Field(name="year_built", dtype=Float32),
        Field(name="seats", dtype=Float32),
        Field(name="engines", dtype=Float32),
        Field(name="engine", dtype=String, tags={"tidegate.default": "unknown"}),
    ],
    source=source("aircraft"),
    description="The register of aircraft.",
)

carrier_arrivals = FeatureView(
    name="carrier_arrivals",
    entities=[carrier],
    ttl=timedelta(hours=12),
    schema=delays(3, 24),
    source=source("carrier_arrivals"),
    description="Arrival delays of the carrier's flights that have landed.",
)

route_arrivals = FeatureView(
    name="route_arrivals",
    entities=[origin, dest],
    ttl=timedelta(hours=24),
    schema=delays(6, 24),
    source=source("route_arrivals"),
    description="Arrival delays of the route's flights that have landed.",
)

origin_departures = FeatureView(
    name="origin_departures",
    entities=[origin],
    ttl=timedelta(hours=3),
    schema=delays(1, 3),
    source=source("origin_departures"),
    description="Departure delays of the flights that have left the airport.",
)

carrier_departures = FeatureView(
    name="carrier_departures",
    entities=[carrier, origin],
    ttl=timedelta(hours=3),
    schema=delays(1, 3),
    source=source("carrier_departures"),
    description="Departure delays of the carrier's flights that have left the airport.",
)

aircraft_arrivals = FeatureView(
    name="aircraft_arrivals",
    entities=[tailnum],
    ttl=timedelta(hours=48),
    schema=[Field(name=name, dtype=Float32, tags={"tidegate.required": "true"}) for name in ("last_delay", "mean_delay_24h")],
    source=source("aircraft_arrivals"),
    online=False,
    description="How late the aircraft landed last. For analysis; not materialized.",
)
