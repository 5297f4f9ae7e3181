from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tidegate.errors import DataError
from tidegate.monitoring.labels import join_labels, read_labels, record_labels
from tidegate.storage import ObjectStore

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def labels(*rows: tuple[str, int | None, datetime | None]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table(
        {
            "prediction_id": pa.array(columns[0]),
            "label": pa.array(columns[1], pa.int64()),
            "known_at": pa.array(columns[2], pa.timestamp("us", tz="UTC")),
        }
    )


def test_labels_join_late_and_never_labelled_rows_stay_unlabelled(store: ObjectStore) -> None:
    record_labels(store, "flights", labels(("a/0", 1, NOON), ("cancelled/0", None, None)))
    record_labels(store, "flights", labels(("b/0", 0, NOON + DAY)))
    window = pa.table({"prediction_id": ["b/0", "a/0", "cancelled/0", "unknown/0"]})

    early = join_labels(window, read_labels(store, "flights", NOON, NOON + DAY / 2))
    late = join_labels(window, read_labels(store, "flights", NOON, NOON + 2 * DAY))

    assert early["label"].to_pylist() == [None, 1, None, None]
    assert late["label"].to_pylist() == [0, 1, None, None]
    assert late["known_at"].to_pylist()[0] == NOON + DAY


def test_recording_the_same_labels_again_changes_nothing(store: ObjectStore) -> None:
    table = labels(("a/0", 1, NOON))

    assert record_labels(store, "flights", table) == 1
    assert record_labels(store, "flights", table) == 1

    assert len(list(store.list("labels/"))) == 1


def test_a_corrected_label_wins(store: ObjectStore) -> None:
    record_labels(store, "flights", labels(("a/0", 1, NOON)))
    record_labels(store, "flights", labels(("a/0", 0, NOON + DAY)))

    assert read_labels(store, "flights", NOON, NOON + 2 * DAY)["label"].to_pylist() == [0]


def test_labels_of_nobody_record_nothing(store: ObjectStore) -> None:
    assert record_labels(store, "flights", labels(("a/0", None, None))) == 0
    assert list(store.list("labels/")) == []
    assert read_labels(store, "flights", NOON, NOON + DAY).num_rows == 0


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        pytest.param(labels(("a/0", 1, NOON)).drop(["known_at"]), "no column 'known_at'", id="missing column"),
        pytest.param(labels(("a/0", 2, NOON)), "label 2 is neither 0 nor 1", id="not a class"),
        pytest.param(labels(("a/0", 300, NOON)), "300", id="beyond a byte"),
        pytest.param(labels(("a/0", 1, None)), "1 labels have no known_at", id="unknown when"),
        pytest.param(
            pa.table({"prediction_id": ["a/0"], "label": [1], "known_at": ["noon"]}), "timestamp", id="text for a time"
        ),
    ],
)
def test_malformed_labels_are_refused(store: ObjectStore, table: Any, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        record_labels(store, "flights", table)
    assert list(store.list("labels/")) == []
