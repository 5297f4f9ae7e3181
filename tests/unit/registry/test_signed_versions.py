"""Versions keep the signature of the package that they are, and nobody else's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.errors import PackageError, RegistryError
from tidegate.packaging.format.signing import sign_package, trusting, verify_signature
from tidegate.registry.registry import ModelRegistry
from tidegate.storage.directory import DirectoryStore

MakePackage = Callable[..., Path]
MODEL = "flights-late"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def registry(store: DirectoryStore) -> ModelRegistry:
    return ModelRegistry(store, actor="ada@lab")


def stored_signature(store: DirectoryStore) -> bytes:
    return store.get(f"models/{MODEL}/versions/1/package.sig").data


def test_a_signature_is_kept_with_its_version(
    registry: ModelRegistry, signed_package: MakePackage, public_key: Path, tmp_path: Path
) -> None:
    version = registry.register(signed_package(), reason="why")

    copy = registry.download(MODEL, version, tmp_path / "copy")

    assert verify_signature(copy, public_key) == registry.manifest(MODEL, version)
    assert verify_signature(Path(registry.uri(MODEL, version).removeprefix("file://")), public_key)


def test_a_version_that_must_be_signed_is_downloaded_only_if_it_is(
    registry: ModelRegistry, signed_package: MakePackage, make_key: Callable[[str], Path], public_key: Path, tmp_path: Path
) -> None:
    version = registry.register(signed_package(), reason="why")
    other = make_key("other").with_suffix(".pub")

    for _ in range(2):  # the second time there is a copy, which must prove right as well
        registry.download(MODEL, version, tmp_path / "copy", trust=trusting(public_key, where="version 1"))
    with pytest.raises(PackageError, match="is of another key"):
        registry.download(MODEL, version, tmp_path / "copy", trust=trusting(other, where="version 1"))
    with pytest.raises(PackageError, match="is of another key"):
        registry.download(MODEL, version, tmp_path / "another", trust=trusting(other, where="version 1"))
    assert not (tmp_path / "another").exists()


def test_a_signature_changes_no_digest(
    registry: ModelRegistry, make_package: MakePackage, make_key: Callable[[str], Path]
) -> None:
    package = make_package()
    registry.register(package, reason="unsigned")
    sign_package(package, make_key("own"))

    assert registry.register(package, reason="signed") == 1
    assert [info.digest for info in registry.versions(MODEL)] == [registry.events(MODEL)[0].digest]


def test_a_version_may_be_signed_later(
    registry: ModelRegistry, make_package: MakePackage, make_key: Callable[[str], Path], public_key: Path, tmp_path: Path
) -> None:
    package = make_package()
    registry.register(package, reason="unsigned")
    copy = registry.download(MODEL, 1, tmp_path / "copy")
    sign_package(package, make_key("own"))

    registry.register(package, reason="signed")

    assert not (copy / "package.sig").exists()
    verify_signature(registry.download(MODEL, 1, copy), public_key)
    verify_signature(registry.download(MODEL, 1, tmp_path / "another"), public_key)


def test_the_first_signature_of_a_key_stays(
    registry: ModelRegistry, store: DirectoryStore, signed_package: MakePackage
) -> None:
    registry.register(signed_package(), reason="first")
    first = stored_signature(store)

    assert registry.register(signed_package(), reason="again") == 1

    assert stored_signature(store) == first


def test_another_key_cannot_sign_a_version_that_is_signed(
    registry: ModelRegistry, store: DirectoryStore, signed_package: MakePackage
) -> None:
    registry.register(signed_package(), reason="first")
    first = stored_signature(store)

    with pytest.raises(RegistryError, match="is signed by another key already; a version's signature never changes"):
        registry.register(signed_package(key="other"), reason="again")
    assert stored_signature(store) == first


def test_an_unsigned_package_leaves_a_signature_as_it_is(
    registry: ModelRegistry, store: DirectoryStore, make_package: MakePackage, signed_package: MakePackage
) -> None:
    registry.register(signed_package(), reason="signed")
    first = stored_signature(store)

    assert registry.register(make_package(), reason="unsigned") == 1
    assert stored_signature(store) == first


@pytest.mark.parametrize(
    ("signature", "says"),
    [
        pytest.param(b"", "is no signature of a package", id="empty"),
        pytest.param(b"{}", "is no signature of a package", id="foreign"),
        pytest.param(None, "not as it was signed", id="of another package"),
    ],
)
def test_what_does_not_sign_the_package_is_not_registered(
    registry: ModelRegistry,
    store: DirectoryStore,
    make_package: MakePackage,
    signed_package: MakePackage,
    signature: bytes | None,
    says: str,
) -> None:
    package = make_package("a")
    content = (signed_package("b") / "package.sig").read_bytes() if signature is None else signature
    (package / "package.sig").write_bytes(content)

    with pytest.raises(PackageError, match=says):
        registry.register(package, reason="why")
    assert list(store.list()) == []


def test_a_manifest_that_was_exchanged_in_the_store_is_noticed(
    registry: ModelRegistry, store: DirectoryStore, make_package: MakePackage, tmp_path: Path
) -> None:
    """Its digests are all right: only the claim knows that it is another."""
    registry.register(make_package(), reason="why")
    key = f"models/{MODEL}/versions/1/package.json"
    store.put(key, store.get(key).data.replace(b'"threshold": 0.5', b'"threshold": 0.1'))

    for read in (lambda: registry.verify(MODEL, 1), lambda: registry.download(MODEL, 1, tmp_path / "copy")):
        with pytest.raises(PackageError, match=r"its package\.json is not the one that was registered"):
            read()


@pytest.mark.parametrize("name", ["package.json", "model.onnx", "package.sig"])
def test_an_object_without_end_is_not_downloaded(
    registry: ModelRegistry, make_package: MakePackage, signed_package: MakePackage, tmp_path: Path, name: str
) -> None:
    registry.register(signed_package(), reason="why")
    os.truncate(Path(registry.uri(MODEL, 1).removeprefix("file://")) / name, 10 * 10**12)

    with pytest.raises(
        PackageError, match=rf"{name} has 10000000000000 bytes, (at most [0-9]+ are read|package\.json says 11)"
    ):
        registry.download(MODEL, 1, tmp_path / "copy")


def test_a_package_for_which_there_is_no_room_is_not_downloaded(
    registry: ModelRegistry, make_package: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(make_package(), reason="why")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))

    with pytest.raises(PackageError, match=r"its files have [0-9]+ bytes, and .* has room for 100; make room"):
        registry.download(MODEL, 1, tmp_path / "copy")
