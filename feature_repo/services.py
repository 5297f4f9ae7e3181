"""The feature services of the flights example: what a version of the model reads."""

from feast import FeatureService
from views import (
    aircraft,
    aircraft_arrivals,
    carrier_arrivals,
    carrier_departures,
    origin_departures,
    origin_weather,
    route_arrivals,
)

_V1 = [origin_weather, aircraft, carrier_arrivals, route_arrivals, origin_departures, carrier_departures]

flights_late_v1 = FeatureService(name="flights_late_v1", features=_V1)

flights_late_v2 = FeatureService(
    name="flights_late_v2",
    features=[*_V1, aircraft_arrivals],
    description="Adds how late the aircraft landed last, which no online store holds: good offline, unservable.",
)
