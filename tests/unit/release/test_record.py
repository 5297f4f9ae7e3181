"""The release record: begun once, each gate's verdicts kept, changed by compare-and-swap."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from tidegate.errors import PreconditionFailed, RegistryError, StorageError
from tidegate.packaging.format.manifest import Verdict
from tidegate.release.record import ReleaseLedger
from tidegate.storage.directory import DirectoryStore

AT = datetime(2013, 4, 1, 4, tzinfo=UTC)


def verdict(subject: str = "min_rows", *, passed: bool = True, value: float = 1.0, gate: str = "data") -> Verdict:
    return Verdict(gate=gate, subject=subject, measure="rows", value=value, bound=2.0, passed=passed)


@pytest.fixture
def ledger(store) -> ReleaseLedger:
    return ReleaseLedger(store, "flights-late")


def test_begun_release_is_running(ledger, store):
    record = ledger.begin("run-1", event_time=AT.astimezone(timezone(timedelta(hours=-4))), reason="initial")

    assert (record.state, record.reason, record.version, record.verdicts) == ("running", "initial", None, ())
    assert record.event_time == AT.isoformat()
    assert ledger.find("run-1") == record
    assert list(store.list("releases/")) == ["releases/flights-late/20130401T040000-run-1.json"]


def test_beginning_again_changes_nothing(ledger):
    first = ledger.begin("run-1", event_time=AT, reason="initial")
    ledger.stop("run-1", "data gate")

    again = ledger.begin("run-1", event_time=AT + timedelta(days=1), reason="another")

    assert (again.started_at, again.reason, again.state) == (first.started_at, "initial", "stopped")
    assert len(ledger.records()) == 1


def test_release_is_not_mistaken_for_one_whose_id_ends_alike(ledger):
    ledger.begin("drift-run-1", event_time=AT, reason="drift")

    assert ledger.find("run-1") is None
    assert ledger.find("1") is None
    assert ledger.begin("run-1", event_time=AT, reason="initial").reason == "initial"
    assert ledger.find("drift-run-1").reason == "drift"


def test_repeated_step_replaces_its_verdicts_and_keeps_the_others(ledger):
    ledger.begin("run-1", event_time=AT, reason="initial")
    ledger.add_verdicts("run-1", [verdict("a", passed=False), verdict("b")])

    record = ledger.add_verdicts("run-1", [verdict("a", value=3.0), verdict("a", gate="parity")])

    found = [(entry.gate, entry.subject, entry.value, entry.passed) for entry in record.verdicts]
    assert found == [("data", "a", 3.0, True), ("data", "b", 1.0, True), ("parity", "a", 1.0, True)]


@pytest.mark.parametrize(
    ("change", "state", "fields"),
    [
        pytest.param(lambda ledger: ledger.stop("run-1", "why"), "stopped", {"stopped_by": "why"}, id="stopped"),
        pytest.param(lambda ledger: ledger.registered("run-1", 4), "registered", {"version": 4}, id="registered"),
        pytest.param(
            lambda ledger: ledger.rolled_out("run-1", "r-9", "promoted"), "promoted", {"rollout_id": "r-9"}, id="promoted"
        ),
        pytest.param(
            lambda ledger: ledger.rolled_out("run-1", "r-9", "rolled_back"),
            "rolled_back",
            {"rollout_id": "r-9"},
            id="rolled-back",
        ),
    ],
)
def test_progress_is_recorded(ledger, change, state, fields):
    begun = ledger.begin("run-1", event_time=AT, reason="initial")

    record = change(ledger)

    assert ledger.find("run-1") == record
    assert record == msgspec.structs.replace(begun, state=state, updated_at=record.updated_at, **fields)
    assert record.updated_at >= begun.updated_at


def test_change_made_meanwhile_is_not_overwritten(ledger, store, monkeypatch):
    ledger.begin("run-1", event_time=AT, reason="initial")
    replace = type(store).replace

    def late(self, *arguments):
        monkeypatch.setattr(type(store), "replace", replace)
        ReleaseLedger(store, "flights-late").registered("run-1", 7)
        return self.replace(*arguments)

    monkeypatch.setattr(type(store), "replace", late)
    monkeypatch.setattr(ledger, "_store", store)
    with pytest.raises(PreconditionFailed):
        ledger.stop("run-1", "too late")

    assert (ledger.find("run-1").state, ledger.find("run-1").version) == ("registered", 7)


def test_release_that_was_never_begun_is_one_error(ledger):
    with pytest.raises(RegistryError, match="release 'run-9' of flights-late was never begun; start the release pipeline"):
        ledger.add_verdicts("run-9", [verdict()])


def test_release_without_a_reason_is_refused_at_once(ledger):
    with pytest.raises(RegistryError, match="release 'run-1': reason ' ' is empty"):
        ledger.begin("run-1", event_time=AT, reason=" ")

    assert ledger.records() == []


def test_store_that_ignores_conditional_writes_is_refused_at_once(tmp_path):
    class IgnoresCreate(DirectoryStore):
        def create(self, key: str, data: bytes) -> str:
            return self.put(key, data)

    ledger = ReleaseLedger(IgnoresCreate(tmp_path), "flights-late")

    with pytest.raises(StorageError, match="ignores conditional writes"):
        ledger.begin("run-1", event_time=AT, reason="initial")
    assert ledger.records() == []


def test_records_come_in_order_of_event_time_and_of_one_project(ledger, store):
    for day, name in ((3, "c"), (1, "a"), (2, "b")):
        ledger.begin(name, event_time=AT + timedelta(days=day), reason=name)
    ReleaseLedger(store, "flights-late-2").begin("other", event_time=AT, reason="other")

    assert [record.release_id for record in ledger.records()] == ["a", "b", "c"]
