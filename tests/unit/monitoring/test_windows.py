from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from tidegate.errors import MonitoringError
from tidegate.monitoring.compaction import Compaction, compact
from tidegate.monitoring.windows import describe_log, read_window
from tidegate.storage import ObjectStore

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LogRows = Callable[..., pa.Table]
WriteLog = Callable[..., str]


def ids(table: pa.Table) -> list[str]:
    return table["prediction_id"].to_pylist()


def test_a_window_is_half_open(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    write_log(log_rows(10, NOON), "a")

    window = read_window(store, "flights", NOON + timedelta(seconds=2), NOON + timedelta(seconds=5))

    assert ids(window) == ["r2/0", "r3/0", "r4/0"]


def test_an_empty_window_has_the_fixed_columns(store: ObjectStore) -> None:
    window = read_window(store, "flights", NOON, NOON + DAY)

    assert window.num_rows == 0
    assert "prediction_id" in window.column_names


def test_the_last_logged_row_of_a_prediction_is_kept(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    write_log(log_rows(3, NOON, input_x=[1.0, 1.0, 1.0]), "a")
    later = log_rows(1, NOON + timedelta(minutes=1), input_x=[2.0])
    write_log(later, "b")

    window = read_window(store, "flights", NOON, NOON + DAY)

    assert dict(zip(ids(window), window["input_x"].to_pylist(), strict=True)) == {"r0/0": 2.0, "r1/0": 1.0, "r2/0": 1.0}


def test_a_failed_attempt_is_replaced_by_its_answered_retry(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    write_log(log_rows(2, NOON, status=503), "a")
    write_log(log_rows(1, NOON + timedelta(seconds=1)), "b")

    assert ids(read_window(store, "flights", NOON, NOON + DAY)) == ["r0/0"]
    assert sorted(ids(read_window(store, "flights", NOON, NOON + DAY, answered=False))) == ["r0/0", "r1/0"]


def test_a_window_can_be_one_versions(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    write_log(log_rows(2, NOON, prefix="one"), "a")
    write_log(log_rows(1, NOON, prefix="two", version=2, input_new=[1.0]), "b")
    write_log(log_rows(1, NOON, prefix="ten", version=10), "c")

    assert ids(read_window(store, "flights", NOON, NOON + DAY, version=1)) == ["one0/0", "one1/0"]
    assert read_window(store, "flights", NOON, NOON + DAY).num_rows == 4


def test_a_file_without_footer_was_not_written(
    store: ObjectStore, log_rows: LogRows, write_log: WriteLog, tmp_path: Path
) -> None:
    write_log(log_rows(1, NOON, prefix="whole"), "a")
    key = write_log(log_rows(1, NOON, prefix="torn"), "b")
    store.put(key, store.get(key).data[:-6])

    assert ids(read_window(store, "flights", NOON, NOON + DAY)) == ["whole0/0"]


def test_a_malformed_file_is_an_error(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    key = write_log(log_rows(1, NOON), "a")
    store.put(key, b"PAR1 this is no parquet file PAR1")

    with pytest.raises(MonitoringError, match="inference log of flights: cannot be read"):
        read_window(store, "flights", NOON, NOON + DAY)


def test_a_folder_with_glob_signs_is_read(tmp_path: Path, log_rows: LogRows) -> None:
    from tidegate.storage import open_store

    store = open_store(str(tmp_path / "a[1]*?"))
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(log_rows(1, NOON), sink)
    store.put("inference-log/flights/version=1/hour=2013-04-01T12/a.parquet", sink.getvalue().to_pybytes())

    assert read_window(store, "flights", NOON, NOON + DAY).num_rows == 1


def test_the_log_is_described(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    assert describe_log(store, "flights") == "the inference log holds nothing of 'flights'"

    write_log(log_rows(1, NOON), "a")

    assert "version 1 from 2013-04-01T12:00Z to 2013-04-01T13:00Z" in describe_log(store, "flights")


def test_compaction_merges_whole_days_and_changes_no_row(store: ObjectStore, log_rows: LogRows, write_log: WriteLog) -> None:
    for number in range(4):
        write_log(log_rows(5, NOON + timedelta(hours=number), prefix=f"f{number}-"), f"{number}")
    today = write_log(log_rows(5, NOON + DAY, prefix="today"), "t")
    before = read_window(store, "flights", NOON, NOON + 3 * DAY)

    report = compact(store, "flights", NOON + DAY + timedelta(hours=6))

    assert report == Compaction(files_before=4, files_after=1)
    keys = list(store.list("inference-log/"))
    assert len(keys) == 2
    assert today in keys
    assert read_window(store, "flights", NOON, NOON + 3 * DAY).equals(before)
    assert compact(store, "flights", NOON + DAY) == Compaction(files_before=0, files_after=0)


def test_a_crash_between_merge_and_removal_costs_nothing(
    store: ObjectStore, log_rows: LogRows, write_log: WriteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_log(log_rows(5, NOON + timedelta(hours=number), prefix=f"f{number}-"), f"{number}")
    before = read_window(store, "flights", NOON, NOON + DAY)

    def crash(key: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "delete", crash)
    with pytest.raises(KeyboardInterrupt):
        compact(store, "flights", NOON + DAY)
    assert read_window(store, "flights", NOON, NOON + DAY).equals(before)

    monkeypatch.undo()
    compact(store, "flights", NOON + DAY)

    assert len(list(store.list("inference-log/"))) == 1
    assert read_window(store, "flights", NOON, NOON + DAY).equals(before)


def test_a_file_that_vanishes_while_it_is_read_is_looked_for_again(
    store: ObjectStore, log_rows: LogRows, write_log: WriteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(log_rows(1, NOON), "a")
    listed = list(store.list("inference-log/"))
    listings = iter([[*listed, listed[0].replace("/a.", "/gone.")], listed])
    monkeypatch.setattr(store, "list", lambda prefix="": iter(next(listings)))

    assert read_window(store, "flights", NOON, NOON + DAY).num_rows == 1
