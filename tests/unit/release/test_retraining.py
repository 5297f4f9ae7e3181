"""Retrainings as releases: begun by the drift run that claimed them, and closed with what the release record says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidegate.errors import MonitoringError
from tidegate.monitoring.decision import DriftOutcome
from tidegate.monitoring.policy import Decision
from tidegate.monitoring.records import ColumnDrift, ConceptDrift, DriftCheck, read_retrainings
from tidegate.monitoring.trigger import claim_retraining
from tidegate.project import load_project
from tidegate.release import retraining as glue
from tidegate.release.record import ReleaseLedger

AT = datetime(2013, 6, 1, 4, tzinfo=UTC)
CHECK = DriftCheck(
    model="flights-late",
    version=1,
    window_start=AT - timedelta(days=7),
    window_end=AT,
    rows=1000,
    counted=True,
    columns=(),
    drifted_share=1.0,
    data_drifted=True,
    prediction=ColumnDrift(column="probability", psi=0.0, drifted=False, missing_reference=0.0, missing_current=0.0),
    concept=ConceptDrift(labelled_rows=0, bound=0.03, drifted=False),
    drifted=True,
    summary="data drift",
)
DECISION = Decision(True, "drift: 2 of the last 3 windows drifted", AT, (AT,))


@pytest.fixture
def claimed(store):
    return claim_retraining(store, CHECK, DECISION, number=1, run_id="drift-7")


@pytest.fixture
def ledger(store) -> ReleaseLedger:
    return ReleaseLedger(store, "flights-late")


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        pytest.param(lambda ledger: ledger.rolled_out("drift-7", "r", "promoted"), "promoted", id="promoted"),
        pytest.param(lambda ledger: ledger.rolled_out("drift-7", "r", "rolled_back"), "rolled_back", id="rolled-back"),
        pytest.param(
            lambda ledger: ledger.stop("drift-7", "champion gate: too weak"), "stopped: champion gate: too weak", id="stopped"
        ),
    ],
)
def test_retraining_ends_as_its_release_does(project, store, ledger, claimed, change, outcome):
    glue.begin_retraining(project, number=1, release_id="drift-7")
    assert [entry.state for entry in read_retrainings(store, project.name)] == ["started"]
    ledger.begin("drift-7", event_time=AT, reason=DECISION.reason)
    change(ledger)

    assert glue.close_retraining(project, number=1, release_id="drift-7") == outcome

    [retraining] = read_retrainings(store, project.name)
    assert (retraining.state, retraining.release_id, retraining.outcome) == ("finished", "drift-7", outcome)


def test_retraining_without_a_release_says_so(project, store, claimed):
    assert glue.close_retraining(project, number=1, release_id="drift-7") == "no release was begun"


@pytest.mark.parametrize(
    "step", [pytest.param(glue.begin_retraining, id="begin"), pytest.param(glue.close_retraining, id="close")]
)
def test_unknown_retraining_is_one_error(project, claimed, step):
    with pytest.raises(MonitoringError, match="model 'flights-late' has no retraining 2"):
        step(project, number=2, release_id="drift-7")


@pytest.mark.parametrize("retrain", [pytest.param(True, id="retrain"), pytest.param(False, id="keep")])
def test_decision_is_written_down(project, store, claimed, monkeypatch, tmp_path, retrain):
    decision = DECISION if retrain else Decision(False, "1 of the last 3 windows drifted", AT)
    outcome = DriftOutcome(CHECK, decision, claimed if retrain else None)
    asked = []
    monkeypatch.setattr(glue, "check_and_decide", lambda *given, **named: asked.append((given, named)) or outcome)

    found = glue.run_drift_check(project, now=AT, report=Path("report.html"), run_id="drift-7")

    assert found is outcome
    assert asked == [((project,), {"now": AT, "report": Path("report.html"), "run_id": "drift-7"})]
    [record] = glue.read_decisions(store, project.name)
    assert record == glue.DecisionRecord(
        window_end=AT, retrain=retrain, reason=decision.reason, retraining=1 if retrain else None
    )


def test_decision_on_the_same_window_replaces_the_earlier_and_windows_are_in_order(project, store, monkeypatch):
    for end, reason in ((AT + timedelta(days=7), "later"), (AT, "first"), (AT, "again")):
        check = CHECK.__class__(**{name: getattr(CHECK, name) for name in CHECK.__struct_fields__} | {"window_end": end})
        outcome = DriftOutcome(check, Decision(False, reason, end), None)
        monkeypatch.setattr(glue, "check_and_decide", lambda *_, outcome=outcome, **__: outcome)
        glue.run_drift_check(project, now=end, report=Path("report.html"), run_id="drift-7")

    assert [record.reason for record in glue.read_decisions(store, project.name)] == ["again", "later"]


def test_numbers_that_cannot_be_pushed_cost_no_decision(tmp_path, project_text, store, claimed, monkeypatch):
    cluster = "cluster:\n  store: s3://bucket/p\n  prometheus:\n    url: http://p:9090\n    pushgateway: http://127.0.0.1:1\n"
    (tmp_path / "cluster.yaml").write_text(project_text + cluster)
    on_cluster = load_project(tmp_path / "cluster.yaml", target="kserve")
    monkeypatch.setattr(glue, "open_store", lambda uri: store)
    monkeypatch.setattr(glue, "check_and_decide", lambda *_, **__: DriftOutcome(CHECK, DECISION, claimed))

    found = glue.run_drift_check(on_cluster, now=AT, report=Path("report.html"), run_id="drift-7")

    assert found.retrain
    assert found.note.startswith("The numbers could not be pushed: the Pushgateway at http://127.0.0.1:1 cannot be reached")
    assert found.note in found.markdown
    assert len(glue.read_decisions(store, on_cluster.name)) == 1
