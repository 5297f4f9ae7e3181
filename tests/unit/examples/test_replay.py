"""The flights replay: labels once and only after landing, seeded samples, and no question after a scheduled departure."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.flights import replay as replaying
from examples.flights.replay import TICK, Replay, sample_flights
from tidegate.clock import ReplayClock
from tidegate.monitoring.labels import read_labels
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView
from tidegate.project import Project, load_project
from tidegate.storage import open_store

START = datetime(2013, 4, 1, 4, tzinfo=UTC)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")


class Repository:
    """Is its own feed, and remembers when it was materialized."""

    def __init__(self) -> None:
        self.materialized: list[datetime] = []

    def open_feed(self) -> "Repository":
        return self

    def contract(self, service: str) -> FeatureContract:
        view = FeatureView(
            name="weather", join_keys=("origin",), ttl_seconds=0, features=(FeatureField(name="temp", datatype="FP32"),)
        )
        return FeatureContract(service=service, project="flights", views=(view,))

    def materialize(self, until: datetime) -> None:
        self.materialized.append(until)


class Endpoint:
    """A real HTTP server that notes at which event time each flight was asked for; it refuses flights to BAD."""

    def __init__(self) -> None:
        self.clock: ReplayClock | None = None
        self.asked: list[tuple[str, datetime]] = []
        self.payloads: list[dict[str, Any]] = []

    async def infer(self, request: web.Request) -> web.Response:
        payload = await request.json()
        self.payloads.append(payload)
        self.asked.append((payload["id"], self.clock.now()))
        if payload["id"].startswith("bad"):
            return web.json_response({"error": "no such carrier"}, status=400)
        return web.json_response({"model_version": "3", "outputs": []})

    def live(self, replay: Replay, until: datetime, **stop: Any) -> None:
        async def run() -> None:
            app = web.Application()
            app.router.add_post("/v2/models/flights-late/infer", self.infer)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = runner.addresses[0][1]
            try:
                await replay.run(f"http://127.0.0.1:{port}", until, **stop)
            finally:
                await runner.cleanup()

        asyncio.run(run())


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def project(tmp_path: Path, project_text: str) -> Project:
    file = tmp_path / "tidegate.yaml"
    file.write_text(project_text)
    return load_project(file)


def flights(*rows: tuple[str, timedelta, timedelta | None]) -> pa.Table:
    """Flights by id, scheduled departure after START, and how long after that they landed."""
    moments = [START + departs for _, departs, _ in rows]
    landed = [None if lasts is None else moment + lasts for moment, (_, _, lasts) in zip(moments, rows, strict=True)]
    return pa.table(
        {
            "flight_id": [name for name, _, _ in rows],
            "event_timestamp": pa.array(moments, TIME),
            "carrier": ["UA"] * len(rows),
            "origin": ["EWR"] * len(rows),
            "distance": pa.array([1400.0] * len(rows), pa.float32()),
            "late": pa.array([None if lasts is None else len(rows) % 2 for _, _, lasts in rows], pa.int8()),
            "landed_at": pa.array(landed, TIME),
        }
    )


@pytest.fixture
def make_replay(project: Project, tmp_path: Path, endpoint: Endpoint):
    def make(table: pa.Table) -> Replay:
        endpoint.clock = ReplayClock.create(tmp_path / "clock", START)
        return Replay(
            project, flights=table, clock=endpoint.clock, repository=Repository(), store=open_store(project.store_uri)
        )

    return make


def labelled(project: Project) -> list[str]:
    labels = read_labels(open_store(project.store_uri), project.name, START - DAY, START + 30 * DAY)
    return sorted(labels["prediction_id"].to_pylist())


def test_flight_is_asked_for_at_most_a_tick_before_its_scheduled_departure_and_never_after(make_replay, endpoint):
    departures = {f"f{minute}": timedelta(minutes=minute) for minute in range(0, 180, 7)}
    replay = make_replay(flights(*((name, departs, timedelta(hours=1)) for name, departs in departures.items())))

    endpoint.live(replay, START + timedelta(hours=4))

    assert {name for name, _ in endpoint.asked} == departures.keys()
    assert len(endpoint.asked) == len(departures)
    for name, asked_at in endpoint.asked:
        departs = START + departures[name]
        assert departs - TICK < asked_at <= departs, name


def test_request_holds_keys_and_request_inputs_and_nothing_of_the_outcome(make_replay, endpoint):
    endpoint.live(make_replay(flights(("f1", timedelta(0), timedelta(hours=1)))), START + TICK)

    [payload] = endpoint.payloads
    assert payload["id"] == "f1"
    assert {tensor["name"]: (tensor["datatype"], tensor["data"]) for tensor in payload["inputs"]} == {
        "origin": ("BYTES", ["EWR"]),
        "carrier": ("BYTES", ["UA"]),
        "distance": ("FP32", [1400.0]),
    }


def test_features_are_materialized_at_every_tick_before_its_flights(make_replay, endpoint):
    replay = make_replay(flights(("f1", timedelta(minutes=20), timedelta(hours=1))))
    seen: list[int] = []
    ask = endpoint.infer

    async def infer(request: web.Request) -> web.Response:
        seen.append(len(replay._feed.materialized))
        return await ask(request)

    endpoint.infer = infer
    endpoint.live(replay, START + timedelta(hours=1))

    assert replay._feed.materialized == [START + TICK * number for number in range(4)]
    assert seen == [2]


def test_labels_are_recorded_once_and_only_after_landing(make_replay, endpoint, project, monkeypatch):
    recorded: list[list[str]] = []
    record = replaying.record_labels

    def note(store, model, table: pa.Table) -> None:
        recorded.append(table["prediction_id"].to_pylist())
        record(store, model, table)

    monkeypatch.setattr(replaying, "record_labels", note)
    replay = make_replay(
        flights(("soon", timedelta(hours=1), timedelta(hours=2)), ("late", timedelta(hours=1), timedelta(hours=40)))
    )

    endpoint.live(replay, START + timedelta(hours=2))
    assert labelled(project) == []
    endpoint.live(replay, START + timedelta(hours=30))
    assert labelled(project) == ["soon/0"]
    endpoint.live(replay, START + timedelta(hours=60))
    replay.record_landed()

    assert labelled(project) == ["late/0", "soon/0"]
    assert sorted(recorded) == [["late/0"], ["soon/0"]]


def test_flight_that_never_lands_is_asked_for_and_never_labelled(make_replay, endpoint, project):
    replay = make_replay(flights(("lost", timedelta(hours=1), None), ("lands", timedelta(hours=1), timedelta(hours=2))))

    endpoint.live(replay, START + 10 * DAY)

    assert {name for name, _ in endpoint.asked} == {"lost", "lands"}
    assert labelled(project) == ["lands/0"]


def test_flight_that_was_not_asked_for_is_not_labelled_though_it_landed(make_replay, endpoint, project):
    """One that lands before it is scheduled to leave cannot be, but the record must not depend on that."""
    replay = make_replay(
        flights(("f1", timedelta(hours=1), timedelta(hours=1)), ("f2", timedelta(hours=9), timedelta(hours=-8)))
    )

    endpoint.live(replay, START + timedelta(hours=3))

    assert labelled(project) == ["f1/0"]


def test_failure_that_a_user_sees_is_counted_with_its_cause(make_replay, endpoint):
    replay = make_replay(flights(("bad-1", timedelta(0), None), ("f1", timedelta(0), None), ("f2", timedelta(0), None)))

    endpoint.live(replay, START + TICK)

    assert replay.traffic.snapshot() == (3, 1)
    assert replay.traffic.failed_with == {"400 no such carrier": 1}
    assert {version: len(times) for version, times in replay.traffic.latencies.items()} == {"3": 2}


def test_dead_endpoint_is_a_failure_and_time_goes_on(make_replay):
    replay = make_replay(flights(("f1", timedelta(0), None)))

    asyncio.run(replay.run("http://127.0.0.1:9", START + TICK))

    assert replay.traffic.snapshot() == (1, 1)
    assert replay.now == START + TICK


def test_replay_stops_between_two_ticks_when_told(make_replay, endpoint):
    replay = make_replay(flights(*((f"f{hour}", timedelta(hours=hour), None) for hour in range(10))))

    endpoint.live(replay, START + DAY, stop=lambda: replay.now >= START + timedelta(hours=3))

    assert replay.now == START + timedelta(hours=3)
    assert replay.asked == len(endpoint.asked) == 3
    endpoint.live(replay, START + DAY)
    assert sorted(name for name, _ in endpoint.asked) == [f"f{hour}" for hour in range(10)]


@pytest.fixture(scope="module")
def year() -> pa.Table:
    order = np.random.default_rng(1).permutation(2000)
    return flights(*((f"f{row}", timedelta(hours=int(row)), timedelta(hours=1)) for row in order))


def test_sample_is_seeded_and_in_order(year):
    def sample(seed: int) -> pa.Table:
        return sample_flights(year, share=0.3, seed=seed, start=START, end=START + 40 * DAY)

    assert sample(1).equals(sample(1))
    assert not sample(1).equals(sample(2))
    moments = sample(1)["event_timestamp"].to_numpy()
    assert (np.diff(moments) >= np.timedelta64(0)).all()


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.05, 1), first=st.integers(0, 60), days=st.integers(1, 20))
def test_sample_lies_in_its_span_and_is_a_share_of_it(year, share, first, days):
    start, end = START + first * DAY, START + (first + days) * DAY

    sample = sample_flights(year, share=share, seed=7, start=start, end=end)

    whole = sample_flights(year, share=1, seed=7, start=start, end=end).num_rows
    assert whole == days * 24
    assert all(start <= moment < end for moment in sample["event_timestamp"].to_pylist())
    assert abs(sample.num_rows - share * whole) <= 5 * np.sqrt(whole * share * (1 - share)) + 1
