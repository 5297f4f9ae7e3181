import os
from pathlib import Path

import pytest

from tidegate.errors import StorageError
from tidegate.storage import open_store


@pytest.mark.parametrize(
    "address", ["{tmp}/store", "file://{tmp}/store", "{tmp}/store/", "{tmp}/x/../store", "relative"], ids=lambda text: text
)
def test_directory_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.chdir(tmp_path)

    store = open_store(address.format(tmp=tmp_path))

    name = "relative" if address == "relative" else "store"
    assert store.uri == f"file://{os.path.realpath(tmp_path)}/{name}"
    assert not (tmp_path / name).exists(), "opening a store writes nothing"


@pytest.mark.parametrize(
    ("address", "names"),
    [
        pytest.param("", "not an address", id="empty"),
        pytest.param("file://", "not an address", id="file without a path"),
        pytest.param("file://store", "file:///absolute/path", id="file with a relative path"),
        pytest.param("gs://bucket/prefix", "s3://bucket/prefix", id="other scheme"),
        pytest.param("s3://", "'' is not a bucket name", id="no bucket"),
        pytest.param("s3://B/x", "'B' is not a bucket name", id="bad bucket"),
        pytest.param("s3://bucket/a/../b", "holds an empty, '.' or '..' part", id="unsafe prefix"),
        pytest.param("s3://bucket//a", "holds an empty, '.' or '..' part", id="empty part"),
    ],
)
def test_malformed_addresses(address: str, names: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_store(address)

    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"is not a directory; name a directory"):
        open_store(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("AWS_ENDPOINT_URL", "not a url"), ("AWS_PROFILE", "nobody-made-this"), ("AWS_DEFAULT_REGION", "in valid")],
)
def test_malformed_aws_settings(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv(setting, value)

    with pytest.raises(StorageError, match=r"^store s3://bucket/a: cannot be opened: .*; check the AWS settings$"):
        open_store("s3://bucket/a")
