import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tidegate.errors import MonitoringError
from tidegate.monitoring.check import check_drift
from tidegate.monitoring.decision import check_and_decide
from tidegate.monitoring.labels import record_labels
from tidegate.monitoring.records import check_key, read_checks, read_retrainings
from tidegate.project import Project, load_project
from tidegate.registry.registry import ModelRegistry
from tidegate.storage import ObjectStore

START = datetime(2013, 4, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
LogTraffic = Callable[..., pa.Table]


def known(predictions: pa.Table, *, flip: bool = False) -> pa.Table:
    """Labels that are known three hours after the prediction."""
    label = pc.subtract(1, predictions["label"]) if flip else predictions["label"]
    moments = [moment + timedelta(hours=3) for moment in predictions["event_time"].to_pylist()]
    return pa.table(
        {
            "prediction_id": predictions["prediction_id"],
            "label": label.cast(pa.int8()),
            "known_at": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )


def check(project: Project, store: ObjectStore, end: datetime) -> object:
    return check_drift(project, store, ModelRegistry(store), end)


@pytest.mark.usefixtures("champion")
def test_traffic_like_the_reference_does_not_drift(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    record_labels(store, "tiny", known(log_traffic(START)))

    found = check(project, store, START + WEEK)

    assert found.rows == 600
    assert found.counted
    assert not found.drifted
    assert found.concept.labelled_rows > 400
    assert found.concept.loss == pytest.approx(0, abs=0.05)
    assert read_checks(store, "tiny") == [found]


@pytest.mark.usefixtures("champion")
def test_a_warmer_week_moves_its_column(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    log_traffic(START, warmer=15.0)

    found = check(project, store, START + WEEK)

    assert [column.column for column in found.columns if column.drifted] == ["weather__temp"]
    assert found.columns[0].missing_reference == pytest.approx(0.05, abs=0.03)
    assert "weather__temp" in found.summary
    assert found.data_drifted
    assert found.drifted


@pytest.mark.usefixtures("champion")
def test_a_redacted_column_is_not_watched_rather_than_called_drifted(
    project: Project, store: ObjectStore, log_traffic: LogTraffic
) -> None:
    log_traffic(START, rows=300)
    log_traffic(START, rows=300, prefix="s", redacted=["weather__temp", "origin"])

    found = check(project, store, START + WEEK)

    assert not found.data_drifted
    assert {"weather__temp", "origin"} == set(found.unwatched)
    assert not {column.column for column in found.columns} & set(found.unwatched)
    assert found.summary.endswith("; redacted, so not watched: origin, weather__temp")


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("redacted", "watched", "message"),
    [
        pytest.param(
            ["probability"], None, "redacts 'probability', without which there is no drift check", id="the prediction"
        ),
        pytest.param(["hour"], ("hour",), "monitoring.columns: 'hour' is redacted in the inference log", id="asked for"),
        pytest.param(
            ["carrier", "origin", "distance", "hour", "weather__temp", "route__delay"], None, "redacts every input", id="all"
        ),
    ],
)
def test_what_redaction_leaves_unwatchable_is_told_in_one_line(
    project: Project,
    store: ObjectStore,
    log_traffic: LogTraffic,
    redacted: list[str],
    watched: tuple[str, ...] | None,
    message: str,
) -> None:
    log_traffic(START, redacted=redacted)
    asked = project.model_copy(update={"monitoring": project.monitoring.model_copy(update={"columns": watched})})

    with pytest.raises(MonitoringError, match=message):
        check(asked, store, START + WEEK)


@pytest.mark.usefixtures("champion")
def test_hours_that_were_sampled_more_sparsely_weigh_no_less(
    project: Project, store: ObjectStore, log_traffic: LogTraffic
) -> None:
    log_traffic(START, share=0.3)
    log_traffic(START, prefix="s", warmer=15.0)

    found = check(project, store, START + WEEK)

    moved = next(column for column in found.columns if column.column == "weather__temp")
    assert 300 < found.rows < 420
    assert moved.drifted


@pytest.mark.usefixtures("champion")
def test_labels_against_the_model_are_concept_drift(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    record_labels(store, "tiny", known(log_traffic(START), flip=True))

    found = check(project, store, START + WEEK)

    assert found.concept.drifted
    assert not found.data_drifted
    assert found.summary.startswith("concept drift")


@pytest.mark.usefixtures("champion")
def test_the_report_and_its_snapshot_lie_beside_the_check(
    project: Project, store: ObjectStore, log_traffic: LogTraffic
) -> None:
    from evidently.core.report import Snapshot

    log_traffic(START)
    found = check(project, store, START + WEEK)

    html = store.get(check_key("tiny", found.window_end, ".html")).data.decode()
    snapshot = store.get(check_key("tiny", found.window_end, ".snapshot.json")).data.decode()
    loaded = Snapshot.loads(snapshot)

    assert "weather__temp" in html
    assert json.loads(loaded.dumps()) == json.loads(snapshot)
    values = {metric["metric_name"].split("(")[0]: metric["value"] for metric in loaded.dict()["metrics"]}
    assert values["DriftSummary"] == found.drifted_share


@pytest.mark.usefixtures("champion")
def test_a_canarys_rows_are_left_out(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    log_traffic(START, rows=300)
    log_traffic(START, rows=300, warmer=50.0, version=2, prefix="canary")

    found = check(project, store, START + WEEK)

    assert (found.version, found.rows) == (1, 300)
    assert not found.drifted


@pytest.mark.usefixtures("champion")
def test_a_small_window_is_recorded_but_does_not_count(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    log_traffic(START, rows=50, warmer=50.0)

    found = check(project, store, START + WEEK)

    assert not found.counted
    assert not found.drifted
    assert "not counted, 50 rows of at least 100" in found.summary


@pytest.mark.usefixtures("champion")
def test_an_empty_window_names_itself_and_what_the_log_holds(
    project: Project, store: ObjectStore, log_traffic: LogTraffic
) -> None:
    log_traffic(START, rows=10)

    with pytest.raises(MonitoringError) as error:
        check(project, store, START + 10 * WEEK)

    assert "2013-06-03T00:00Z to 2013-06-10T00:00Z" in str(error.value)
    assert "version 1 from 2013-04-01T00:00Z to 2013-04-01T01:00Z" in str(error.value)
    assert read_checks(store, "tiny") == []


def test_without_a_champion_there_is_nothing_to_check(project: Project, store: ObjectStore) -> None:
    with pytest.raises(MonitoringError, match="'tiny' has no champion"):
        check(project, store, START)


@pytest.mark.usefixtures("champion")
def test_an_unknown_column_to_watch_is_named(project: Project, store: ObjectStore, log_traffic: LogTraffic) -> None:
    log_traffic(START, rows=10)
    project.file.write_text(project.file.read_text().replace("window_days: 7", "window_days: 7\n  columns: [tmp]"))

    with pytest.raises(MonitoringError, match=r"monitoring\.columns: 'tmp' is not an input"):
        check(load_project(project.file), store, START + WEEK)


@pytest.mark.usefixtures("champion")
def test_two_drifted_weeks_retrain_once(project: Project, store: ObjectStore, log_traffic: LogTraffic, tmp_path: Path) -> None:
    for week in range(4):
        log_traffic(START + week * WEEK, warmer=20.0)
    report = tmp_path / "report.html"

    outcomes = [
        check_and_decide(project, now=START + (week + 1) * WEEK, report=report, run_id=f"run-{week}") for week in range(4)
    ]

    assert [outcome.retrain for outcome in outcomes] == [False, True, False, False]
    (retraining,) = read_retrainings(store, "tiny")
    assert retraining.reason == outcomes[1].reason
    assert "2 of the last 2 windows drifted" in retraining.reason
    assert "Retrain" in outcomes[1].markdown
    assert outcomes[1].metrics["drifted_share"] == pytest.approx(1 / 6)
    assert report.stat().st_size > 100_000


@pytest.mark.parametrize("store_uri", ["directory"], indirect=True)
@pytest.mark.usefixtures("champion")
def test_the_command_line(project: Project, log_traffic: LogTraffic) -> None:
    log_traffic(START, warmer=20.0)

    checked = tidegate("check", "--project", str(project.file), "--window-end", "2013-04-08", "--json")
    history = tidegate("history", "--project", str(project.file), "--json")
    table = tidegate("history", "--project", str(project.file))
    empty = tidegate("check", "--project", str(project.file), "--window-end", "2014-04-08")
    malformed = tidegate("check", "--project", str(project.file), "--window-end", "soon")

    found = json.loads(checked.stdout)
    assert checked.stderr == ""
    assert found["check"]["drifted"] is True
    assert found["decision"] == {"retrain": False, "reason": "1 of the last 1 windows drifted; 2 of 3 are needed"}
    assert json.loads(history.stdout)["checks"] == [found["check"]]
    assert "2013-04-08" in table.stdout
    for refused, problem in ((empty, "answered nothing"), (malformed, "'soon' is not a time")):
        assert refused.returncode == 1
        assert problem in refused.stderr
        assert refused.stderr.count("\n") == 1


def tidegate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from tidegate.cli.main import run; run()", "drift", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
