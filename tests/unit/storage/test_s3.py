from collections.abc import Iterator

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from tidegate.errors import ObjectNotFound, PreconditionFailed, StorageError
from tidegate.storage.s3 import S3Store


@pytest.fixture
def stubbed() -> Iterator[tuple[S3Store, Stubber]]:
    client = boto3.session.Session(aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1").client("s3")
    with Stubber(client) as stubber:
        yield S3Store(client, "bucket", "team"), stubber
        stubber.assert_no_pending_responses()


def test_a_conflict_with_a_write_under_way_is_tried_again(stubbed: tuple[S3Store, Stubber]) -> None:
    store, server = stubbed
    server.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)
    server.add_response("put_object", {"ETag": '"1"'}, _create("key"))

    assert store.create("key", b"data") == '"1"'


def test_a_conflict_that_never_ends_is_a_lost_write(stubbed: tuple[S3Store, Stubber]) -> None:
    store, server = stubbed
    for _ in range(5):
        server.add_client_error("put_object", "ConditionalRequestConflict", http_status_code=409)

    with pytest.raises(PreconditionFailed, match="is being written by others; try again"):
        store.create("key", b"data")


@pytest.mark.parametrize("code", ["NoSuchKey", "404"])
def test_replace_of_what_is_gone_is_a_lost_write(stubbed: tuple[S3Store, Stubber], code: str) -> None:
    store, server = stubbed
    server.add_client_error("put_object", code, http_status_code=404)
    server.add_client_error("head_object", "404", http_status_code=404)

    with pytest.raises(PreconditionFailed, match="'key' was changed since it was read"):
        store.replace("key", b"data", '"1"')


def test_a_loser_that_cannot_look_says_why(stubbed: tuple[S3Store, Stubber]) -> None:
    store, server = stubbed
    server.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
    server.add_client_error("head_object", "403", "Forbidden", http_status_code=403)

    with pytest.raises(StorageError, match="cannot write 'key': 403: Forbidden") as caught:
        store.create("key", b"data")
    assert not isinstance(caught.value, PreconditionFailed)


def test_an_unknown_bucket_is_no_missing_object(stubbed: tuple[S3Store, Stubber]) -> None:
    store, server = stubbed
    server.add_client_error("get_object", "NoSuchBucket", "The specified bucket does not exist", http_status_code=404)

    with pytest.raises(StorageError, match="cannot read 'key': NoSuchBucket: The specified bucket does not exist") as caught:
        store.get("key")
    assert not isinstance(caught.value, ObjectNotFound)


def test_an_object_cut_short_is_an_error(stubbed: tuple[S3Store, Stubber]) -> None:
    import io

    store, server = stubbed
    server.add_response("get_object", {"Body": StreamingBody(io.BytesIO(b"half"), 8), "ETag": '"1"'})

    with pytest.raises(StorageError, match="cannot read 'key': 4 read, but total bytes expected is 8"):
        store.get("key")


def _create(key: str) -> dict[str, object]:
    return {"Bucket": "bucket", "Key": f"team/{key}", "Body": ANY, "Metadata": ANY, "IfNoneMatch": "*"}
