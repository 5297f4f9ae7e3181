"""What goes wrong between Tidegate and an S3 server, over real HTTP."""

import time
from typing import Any

import pytest

from tidegate.errors import PreconditionFailed, StorageError
from tidegate.storage import open_store
from tidegate.storage.probe import probe_conditional_writes


def test_a_store_that_ignores_conditions_is_refused(faulty_proxy: Any, s3_bucket: str) -> None:
    faulty_proxy.strip_conditions = True
    store = open_store(f"s3://{s3_bucket}/team")

    with pytest.raises(StorageError, match=r"ignores conditional writes: it created a key that was taken") as caught:
        probe_conditional_writes(store)

    assert not isinstance(caught.value, PreconditionFailed)
    assert list(store.list()) == [], "the probe removes its key"


def test_the_probe_is_made_once_for_each_opened_store(faulty_proxy: Any, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}/team")
    probe_conditional_writes(store)
    made = len(faulty_proxy.requests)

    probe_conditional_writes(store)

    assert len(faulty_proxy.requests) == made > 0


def test_a_create_whose_answer_was_lost_is_recognized_as_its_own(faulty_proxy: Any, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    faulty_proxy.lose_answers = 1

    etag = store.create("key", b"mine")

    assert sum(request.startswith("PUT") for request in faulty_proxy.requests) == 2, (
        "the first answer was lost, so it is sent again"
    )
    assert store.get("key").etag == etag
    with pytest.raises(PreconditionFailed):
        store.create("key", b"mine")


def test_a_replace_whose_answer_was_lost_is_recognized_as_its_own(faulty_proxy: Any, s3_bucket: str) -> None:
    store = open_store(f"s3://{s3_bucket}")
    first = store.create("key", b"first")
    faulty_proxy.lose_answers = 1

    second = store.replace("key", b"second", first)

    assert store.get("key").etag == second
    with pytest.raises(PreconditionFailed):
        store.replace("key", b"third", first)


@pytest.mark.parametrize("lost", [1, 3])
def test_lost_answers_to_plain_writes_do_no_harm(faulty_proxy: Any, s3_bucket: str, lost: int) -> None:
    store = open_store(f"s3://{s3_bucket}")
    faulty_proxy.lose_answers = lost

    store.put("key", b"data")

    assert store.get("key").data == b"data"


@pytest.mark.parametrize(
    ("status", "retried"), [pytest.param(403, False, id="forbidden"), pytest.param(503, True, id="unavailable")]
)
def test_an_error_of_the_server_is_one_line(faulty_proxy: Any, s3_bucket: str, status: int, retried: bool) -> None:
    faulty_proxy.answer_with = status
    store = open_store(f"s3://{s3_bucket}/team")

    with pytest.raises(StorageError, match=rf"^store s3://{s3_bucket}/team: cannot write 'key': .*{status}.*$") as caught:
        store.put("key", b"data")

    assert len(faulty_proxy.requests) == (4 if retried else 1), "retries are bounded"
    _assert_no_secret(caught.value)


def test_a_dead_server_is_one_line(s3_settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:test-secret@127.0.0.1:9")
    started = time.monotonic()

    with pytest.raises(StorageError, match=r"cannot read 'key': Could not connect to the endpoint URL") as caught:
        open_store("s3://bucket/team").get("key")

    assert time.monotonic() - started < 60
    _assert_no_secret(caught.value)


def test_a_missing_bucket_is_one_line(s3_settings: str) -> None:
    with pytest.raises(StorageError, match=r"cannot write 'key': NoSuchBucket: .*"):
        open_store("s3://no-such-bucket-anywhere/team").put("key", b"data")
    with pytest.raises(StorageError, match=r"NoSuchBucket"):
        list(open_store("s3://no-such-bucket-anywhere/team").list())


def test_missing_credentials_are_one_line(s3_settings: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")

    told = r"cannot write 'key': Unable to locate credentials; set AWS_ACCESS_KEY_ID and .*AWS_PROFILE$"
    with pytest.raises(StorageError, match=told):
        open_store("s3://bucket/team").put("key", b"data")


def test_two_prefixes_of_one_bucket_do_not_see_each_other(s3_bucket: str) -> None:
    open_store(f"s3://{s3_bucket}/1").put("key", b"one")
    open_store(f"s3://{s3_bucket}/10").put("key", b"ten")

    assert list(open_store(f"s3://{s3_bucket}/1").list()) == ["key"]
    assert list(open_store(f"s3://{s3_bucket}").list()) == ["1/key", "10/key"]


def _assert_no_secret(error: StorageError) -> None:
    assert "test-secret" not in str(error)
    assert "test-key" not in str(error)
    assert "\n" not in str(error)
