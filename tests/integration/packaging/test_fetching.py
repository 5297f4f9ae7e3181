"""Packages are fetched from a real S3 server whole, signature and all, and nothing that is not theirs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tidegate.errors import PackageError, StorageError
from tidegate.packaging.format import stored_package
from tidegate.packaging.format.package import fetch_package, inspect_package
from tidegate.packaging.format.signing import sign_package, verify_signature
from tidegate.storage import ObjectStore, open_store


@pytest.fixture
def public_key(tmp_path: Path) -> Path:
    """A key's public half; the private one lies beside it as `key.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    return tmp_path / "key.pub"


@pytest.fixture
def package(make_package: Callable[..., Path], public_key: Path) -> Path:
    """A signed package."""
    package = make_package()
    sign_package(package, public_key.with_suffix(".pem"))
    return package


@pytest.fixture
def store(s3_bucket: str, package: Path) -> ObjectStore:
    """Holds the package, and more that is none of its own."""
    store = open_store(f"s3://{s3_bucket}/models/1")
    for file in package.iterdir():
        store.upload(file.name, file)
    store.put("notes.txt", b"not of the package")
    return store


def test_a_package_is_fetched_with_its_signature_and_nothing_else(
    store: ObjectStore, package: Path, public_key: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"

    assert fetch_package(f"{store.uri}/", into) == into

    assert inspect_package(into) == inspect_package(package)
    verify_signature(into, public_key)
    assert fetch_package(f"{store.uri}/", into) == into, "once more changes nothing"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_unsigned_package_is_fetched(store: ObjectStore, tmp_path: Path) -> None:
    store.delete("package.sig")

    assert inspect_package(fetch_package(store.uri, tmp_path / "into")).signature is None


def test_a_package_that_was_signed_since_it_was_fetched_gets_its_signature(
    store: ObjectStore, public_key: Path, tmp_path: Path
) -> None:
    signature = store.get("package.sig").data
    store.delete("package.sig")
    into = fetch_package(store.uri, tmp_path / "into")
    store.put("package.sig", signature)

    verify_signature(fetch_package(store.uri, into), public_key)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(lambda s: s.delete("package.json"), "holds no package.json; check the address", id="no manifest"),
        pytest.param(lambda s: s.delete("model.onnx"), "model.onnx is missing; package again", id="a missing file"),
        pytest.param(
            lambda s: s.put("model.onnx", b"x" * 10_000), "model.onnx has 10000 bytes, package.json says", id="larger"
        ),
        pytest.param(lambda s: s.put("model.onnx", b"graph FIRST"), "model.onnx has sha256", id="altered"),
        pytest.param(lambda s: s.put("package.json", b"{}"), "schema_version", id="another manifest"),
        pytest.param(lambda s: s.put("package.sig", b"x" * (2 << 20)), "package.sig has 2097152 bytes", id="a huge signature"),
    ],
)
def test_a_damaged_package_is_not_fetched(
    store: ObjectStore, tmp_path: Path, damage: Callable[[ObjectStore], object], says: str
) -> None:
    damage(store)

    with pytest.raises(PackageError) as refused:
        fetch_package(store.uri, tmp_path / "into")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "into").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_manifest_without_end_is_not_read(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_package, "LARGEST_MANIFEST", 100)

    with pytest.raises(PackageError, match=r"package\.json has [0-9]+ bytes, at most 100 are read"):
        fetch_package(store.uri, tmp_path / "into")


def test_a_package_without_room_is_not_fetched(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))

    with pytest.raises(PackageError, match=r"has room for 0; make room"):
        fetch_package(store.uri, tmp_path / "into")


def test_no_place_to_write_is_one_line(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises((PackageError, StorageError), match=r"cannot be written to .*file/into: (File exists|Not a directory)"):
        fetch_package(store.uri, tmp_path / "file" / "into")
