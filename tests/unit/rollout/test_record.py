"""The rollout record: one current rollout, conditional writes, a bounded number of looks."""

from datetime import UTC, datetime

import msgspec
import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.errors import RolloutError, StorageError
from tidegate.project import RolloutSection
from tidegate.rollout.judge import Observation, Pair, judge
from tidegate.rollout.record import KEPT_LOOKS, Look, RecordChanged, RolloutJournal, RolloutRecord
from tidegate.rollout.tally import NOTHING, Tally
from tidegate.storage.directory import DirectoryStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STABLE, CANARY = Revision("v1", "file:///m/1/"), Revision("v2", "file:///m/2/", {"TIDEGATE_WORKERS": "1"})


def record(rollout_id: str = "r1", **fields) -> RolloutRecord:
    defaults = {
        "rollout_id": rollout_id,
        "service": "flights-late",
        "namespace": "default",
        "version": 2,
        "reason": "test",
        "event_time": NOW,
        "logged_at": NOW,
        "rules": RolloutSection().model_dump(mode="json"),
        "stable": STABLE,
        "canary": CANARY,
        "champion": 1,
    }
    return RolloutRecord(**(defaults | fields))


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path)


@pytest.fixture
def journal(store):
    return RolloutJournal(store, "flights-late")


def test_what_is_written_is_read(journal, store):
    begun = journal.begin(record())
    look_seen = look(begun)
    saved = journal.save(begun.with_look(look_seen, Tally(seen=NOTHING), Tally()))

    assert RolloutJournal(store, "flights-late").current() == saved
    assert list(journal.history()) == [saved]


def test_killed_between_pointer_and_record(journal, store):
    journal.begin(record())
    store.delete("rollouts/flights-late/r1.json")

    assert RolloutJournal(store, "flights-late").current() == record()
    assert store.exists("rollouts/flights-late/r1.json")


def test_one_unfinished_rollout_at_a_time(journal, store):
    begun = journal.begin(record())

    with pytest.raises(RolloutError, match=r"rollout r1 of flights-late is pending .* `tidegate rollout abort`"):
        RolloutJournal(store, "flights-late").begin(record("r2"))

    journal.save(begun.moved_to("rolled_back", now=NOW, reason="test"))
    assert RolloutJournal(store, "flights-late").begin(record("r2")).rollout_id == "r2"


def test_two_starters_at_the_same_moment(store, tmp_path):
    class Slow(DirectoryStore):
        """Lets another process begin just before the first write."""

        def create(self, key, data):
            if key.endswith("current.json"):
                RolloutJournal(store, "flights-late").begin(record("other"))
            return super().create(key, data)

    with pytest.raises(RolloutError, match="was begun at the same moment"):
        RolloutJournal(Slow(tmp_path), "flights-late").begin(record())

    assert RolloutJournal(store, "flights-late").current().rollout_id == "other"


def test_outdated_writer_loses(journal, store):
    begun = journal.begin(record())
    other = RolloutJournal(store, "flights-late")
    other.save(other.current().moved_to("rolling_back", now=NOW, reason="abort"))

    with pytest.raises(RecordChanged, match="r1 of flights-late was changed by another process"):
        journal.save(begun.moved_to("progressing", now=NOW, reason="ready"))
    with pytest.raises(RecordChanged):
        journal.check(begun)

    assert journal.current().state == "rolling_back"


def test_store_without_conditional_writes_is_refused(tmp_path):
    class Careless(DirectoryStore):
        def create(self, key, data):
            return self.put(key, data)

    with pytest.raises(StorageError, match="conditional writes"):
        RolloutJournal(Careless(tmp_path), "flights-late").begin(record())

    assert list(RolloutJournal(DirectoryStore(tmp_path), "flights-late").history()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"{", "is not a rollout record", id="truncated"),
        pytest.param(b'{"rollout_id": "r1"}', "missing required field", id="field-missing"),
        pytest.param(msgspec.json.encode(record(schema_version=2)), "has schema version 2, not 1", id="newer"),
    ],
)
def test_damaged_record_is_named(journal, store, data, message):
    journal.begin(record())
    store.put("rollouts/flights-late/r1.json", data)

    with pytest.raises(RolloutError, match=message):
        journal.current()


def test_looks_are_bounded(journal):
    grown = record()
    for _ in range(KEPT_LOOKS + 5):
        grown = grown.with_look(look(grown), Tally(), Tally())

    assert len(grown.looks) == KEPT_LOOKS
    assert (grown.looks_taken, grown.looks[-1].number) == (KEPT_LOOKS + 5, KEPT_LOOKS + 5)


@pytest.mark.parametrize(
    ("state", "step", "stable", "expected"),
    [
        pytest.param("pending", 0, STABLE, ("v1", "v2", 0), id="pending"),
        pytest.param("progressing", 1, STABLE, ("v1", "v2", 25), id="progressing"),
        pytest.param("promoting", 3, STABLE, ("v2", None, 0), id="promoting"),
        pytest.param("rolling_back", 1, STABLE, ("v1", None, 0), id="rolling-back"),
        pytest.param("promoting", 0, None, ("v2", None, 0), id="first-release"),
        pytest.param("rolling_back", 0, None, None, id="first-release-failed"),
    ],
)
def test_desired_service(state, step, stable, expected):
    service = record(state=state, step=step, stable=stable).desired()

    assert (service and describe(service)) == expected


def describe(service: Service) -> tuple[str, str | None, int]:
    return service.stable.name, service.canary.name if service.canary else None, service.canary_percent


def look(of: RolloutRecord) -> Look:
    nothing = Pair(stable=NOTHING, canary=NOTHING)
    judgement = judge(of.rollout_rules, Observation(step=0, step_seconds=1, in_step=nothing, in_rollout=nothing))
    return Look(
        number=of.looks_taken + 1,
        at=NOW,
        step=0,
        percent=5,
        verdict=judgement.verdict,
        reason=judgement.reason,
        evidence=judgement.evidence,
    )
