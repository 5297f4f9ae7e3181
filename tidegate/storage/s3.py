"""S3, or a server that speaks it, as an object store: conditional writes by `If-None-Match` and `If-Match`."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from tidegate.errors import ObjectNotFound, PreconditionFailed, StorageError
from tidegate.storage.downloads import download_target
from tidegate.storage.keys import check_key, check_prefix
from tidegate.storage.store import StoredEntry, StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_WITHOUT_CREDENTIALS = "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_USER_IN_URL = re.compile(r"(?<=://)[^/@\s]*@")
_MISSING = {"404", "NoSuchKey", "NotFound"}
_LOST = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict"}
_CONFLICT_ATTEMPTS = 5
_WRITE_ID = "tidegate-write"


class S3Store:
    """An ObjectStore below a prefix of a bucket. It is safe to share between threads.

    Endpoint, region and credentials come from the usual AWS settings (`AWS_ENDPOINT_URL`, `AWS_REGION`,
    `AWS_ACCESS_KEY_ID`, profiles, service accounts). Requests time out and are retried a bounded number of times. Every
    write carries an id in the object's metadata, so that a conditional write whose first answer was lost, and whose retry
    then finds the key taken, is recognized as its own.
    """

    def __init__(self, client: "S3Client", bucket: str, prefix: str = "") -> None:
        """Use the bucket through `client`; keys are stored as `prefix/key`."""
        self._client = client
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""

    @classmethod
    def from_uri(cls, uri: str) -> "S3Store":
        """Open `s3://bucket/prefix` with the usual AWS settings; raises StorageError if the address is malformed."""
        bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise StorageError(f"store {uri!r}: {bucket!r} is not a bucket name; use 's3://bucket/prefix'")
        if prefix:
            check_key(prefix)
        config = Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=32,
            tcp_keepalive=True,
        )
        try:
            client = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"store {uri}: cannot be opened: {_one_line(error)}; check the AWS settings") from error
        return cls(client, bucket, prefix)

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._base}".rstrip("/")

    def get(self, key: str) -> StoredObject:
        """Return an object; raises ObjectNotFound."""
        with self._explained("read", key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key(key))
            return StoredObject(answer["Body"].read(), answer["ETag"])

    def put(self, key: str, data: bytes) -> str:
        """Write an object whatever is there, and return its entity tag."""
        with self._explained("write", key):
            return self._client.put_object(Bucket=self._bucket, Key=self._key(key), Body=data)["ETag"]

    def create(self, key: str, data: bytes) -> str:
        """Write an object only if the key is free; raises PreconditionFailed if it is not."""
        return self._write_if(key, data, "exists already", IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write an object only if its entity tag is still `etag`; raises PreconditionFailed if it is not."""
        return self._write_if(key, data, "was changed since it was read; read it again", IfMatch=etag)

    def exists(self, key: str) -> bool:
        """Tell whether the key holds an object."""
        try:
            with self._explained("read", key):
                self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ObjectNotFound:
            return False
        return True

    def size(self, key: str) -> int:
        """Return how many bytes an object has; raises ObjectNotFound."""
        with self._explained("read", key):
            return self._client.head_object(Bucket=self._bucket, Key=self._key(key))["ContentLength"]

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield, sorted, every key that starts with `prefix`."""
        check_prefix(prefix)
        with self._explained("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._base + prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self._base)

    def entries(self) -> Iterator[StoredEntry]:
        """Yield every object's key, size and entity tag, sorted by key; foreign keys too, which no other method takes."""
        with self._explained("list", ""):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._base):
                for entry in page.get("Contents", ()):
                    yield StoredEntry(entry["Key"].removeprefix(self._base), entry["Size"], entry["ETag"])

    def delete(self, key: str) -> None:
        """Remove an object; removing what is not there is no error."""
        with self._explained("delete", key):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(key))

    def upload(self, key: str, path: Path) -> None:
        """Write a local file as an object, streaming, in parts if it is large."""
        with self._explained("write", key):
            try:
                self._client.upload_file(str(path), self._bucket, self._key(key))
            except OSError as error:
                raise StorageError(f"store {self.uri}: cannot upload {path}: {error.strerror or error}") from error

    def download(self, key: str, path: Path) -> None:
        """Write an object to a local file, atomically and streaming; raises ObjectNotFound."""
        with download_target(path) as fresh, self._explained("read", key):
            self._client.download_file(self._bucket, self._key(key), str(fresh))

    def _key(self, key: str) -> str:
        check_key(key)
        return self._base + key

    def _write_if(self, key: str, data: bytes, otherwise: str, **condition: Any) -> str:
        write_id = uuid.uuid4().hex
        with self._explained("write", key):
            for _ in range(_CONFLICT_ATTEMPTS):
                try:
                    answer = self._client.put_object(
                        Bucket=self._bucket, Key=self._key(key), Body=data, Metadata={_WRITE_ID: write_id}, **condition
                    )
                except ClientError as error:
                    code = _code(error)
                    if code in _CONFLICT:
                        continue
                    if code in _LOST or (code in _MISSING and "IfMatch" in condition):
                        own = self._etag_of_own_write(key, write_id)
                        if own is not None:
                            return own
                        raise PreconditionFailed(f"store {self.uri}: {key!r} {otherwise}") from None
                    raise
                return answer["ETag"]
        raise PreconditionFailed(f"store {self.uri}: {key!r} is being written by others; try again")

    def _etag_of_own_write(self, key: str, write_id: str) -> str | None:
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._key(key))
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            raise
        return head["ETag"] if head["Metadata"].get(_WRITE_ID) == write_id else None

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if _code(error) in _MISSING:
                raise ObjectNotFound(f"store {self.uri}: holds no {key!r}") from None
            reason = _one_line(f"{_code(error)}: {error.response.get('Error', {}).get('Message', '')}")
            raise StorageError(f"store {self.uri}: cannot {verb} {key!r}: {reason}") from error
        except (BotoCoreError, Boto3Error) as error:
            remedy = _WITHOUT_CREDENTIALS if isinstance(error, NoCredentialsError) else ""
            raise StorageError(f"store {self.uri}: cannot {verb} {key!r}: {_one_line(error)}{remedy}") from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "Unknown"))


def _one_line(error: object) -> str:
    return _USER_IN_URL.sub("", " ".join(str(error).split())).strip().rstrip(".:")
