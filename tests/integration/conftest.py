"""Fixtures for tests against real servers."""

from collections.abc import Iterator

import pytest

from tests.s3_server import running_s3


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a real HTTP server that speaks S3 and honours conditional writes."""
    with running_s3() as address:
        yield address


@pytest.fixture
def s3_settings(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The usual AWS settings, pointing at `s3_endpoint`."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return s3_endpoint


@pytest.fixture
def s3_bucket(s3_settings: str) -> str:
    """The name of a new bucket."""
    import uuid

    import boto3

    name = f"tidegate-{uuid.uuid4().hex}"
    boto3.session.Session().client("s3").create_bucket(Bucket=name)
    return name
