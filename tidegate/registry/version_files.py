"""The files of registered versions: written once, `package.json` last, and checked whenever they are read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.digests import bytes_digest
from tidegate.errors import PackageError, PreconditionFailed, RegistryError
from tidegate.packaging.format.manifest import MANIFEST_NAME, SIGNATURE_NAME
from tidegate.packaging.format.package import Trust, VerifiedPackage, decode_manifest, verify_package
from tidegate.packaging.format.signing_bundle import signer_of
from tidegate.packaging.format.stored_package import download_files, download_signature, stored_manifest, stored_signature
from tidegate.registry.events import version_prefix
from tidegate.storage.folders import fresh_folder_beside
from tidegate.storage.store import ObjectStore


class VersionFiles:
    """Packages in the store, by model and version number; which number a package has is not decided here."""

    def __init__(self, store: ObjectStore) -> None:
        """Use `store`."""
        self._store = store

    def address(self, name: str, version: int) -> str:
        """Return the address of a version's package, ending in `/`."""
        return f"{self._store.uri}/{version_prefix(name, version)}"

    def exists(self, name: str, version: int) -> bool:
        """Tell whether a version is published."""
        return self._store.exists(version_prefix(name, version) + MANIFEST_NAME)

    def manifest_bytes(self, name: str, version: int) -> bytes:
        """Return a version's `package.json` as it was written; raises ObjectNotFound."""
        return stored_manifest(self._store, version_prefix(name, version), f"registry {self._store.uri}")

    def publish(self, package: Path, found: VerifiedPackage, version: int) -> None:
        """Write a package as a version, or complete it; raises RegistryError if another package or signature is there."""
        prefix = version_prefix(found.manifest.name, version)
        published = self.exists(found.manifest.name, version)
        if not published:
            for file in found.manifest.files:
                self._store.upload(prefix + file, package / file)
        if found.signature is not None:
            self._keep_signature(prefix, found, found.signature)
        if not published:
            self._create_manifest(prefix, found.raw)

    @contextmanager
    def downloaded(
        self, name: str, version: int, raw: bytes, digest: str | None, *, beside: Path, trust: Trust | None = None
    ) -> Iterator[Path]:
        """Give a verified copy of a version, whose manifest is `raw`, in a fresh directory beside `beside`; move it or lose it.

        Raises:
            PackageError: The copy does not match its manifest, or the manifest not the digest it was registered with.
            RegistryError: The copy cannot be written.
        """
        where = f"package {name} version {version}"
        if digest != bytes_digest(raw):
            raise PackageError(f"{where}: its {MANIFEST_NAME} is not the one that was registered; restore it from a copy")
        manifest = decode_manifest(raw, where=self.address(name, version) + MANIFEST_NAME)
        try:
            with fresh_folder_beside(beside) as fresh:
                download_files(self._store, version_prefix(name, version), manifest, fresh, where)
                (fresh / MANIFEST_NAME).write_bytes(raw)
                verify_package(fresh, trust=trust)
                yield fresh
        except OSError as error:
            raise RegistryError(f"registry: cannot write {beside}: {error.strerror or error}") from error

    def download_signature(self, name: str, version: int, to: Path) -> None:
        """Add a version's signature, if it has one, to the copy of it at `to`."""
        download_signature(self._store, version_prefix(name, version), to, f"package {name} version {version}")

    def _create_manifest(self, prefix: str, raw: bytes) -> None:
        try:
            self._store.create(prefix + MANIFEST_NAME, raw)
        except PreconditionFailed:
            if self._store.get(prefix + MANIFEST_NAME).data != raw:
                raise RegistryError(
                    f"registry {self._store.uri}: {prefix} holds another package than its claim says; remove it or its claim"
                ) from None

    def _keep_signature(self, prefix: str, found: VerifiedPackage, signature: bytes) -> None:
        """Write a version's signature once. Two signatures by one key never have the same bytes, and are both as good."""
        where = f"registry {self._store.uri}: {prefix}"
        try:
            self._store.create(prefix + SIGNATURE_NAME, signature)
        except PreconditionFailed:
            kept = found.with_signature(stored_signature(self._store, prefix, where))
            if signer_of(kept, where=where) != signer_of(found, where=where):
                raise RegistryError(f"{where} is signed by another key already; a version's signature never changes") from None
