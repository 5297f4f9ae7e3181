"""Writes, verifies and fetches model packages; a package is written whole or not at all.

manifest = write_package(Path("out/trees"), manifest, model=onnx_bytes, golden=golden, reference=table)
verify_package(Path("out/trees"))                       # every file's size and sha256, and nothing else in there
path = fetch_package("s3://models/flights/versions/3/", into=Path("/tmp/flights-3"))

Whoever made a package need not be trusted to verify it: nothing is unpickled, no link, pipe or device is opened, no file
outside is referred to, and nothing is read or unpacked that is larger than a package's parts can be. Nobody else may write to
the directory meanwhile or afterwards: what was verified there is opened again when it is used.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.digests import bytes_digest
from tidegate.errors import ObjectNotFound, PackageError
from tidegate.packaging.format.bill import bill_of_materials
from tidegate.packaging.format.card import model_card
from tidegate.packaging.format.golden import Golden, check_golden, golden_bytes
from tidegate.packaging.format.graph_file import check_self_contained
from tidegate.packaging.format.manifest import (
    BILL_NAME,
    CARD_NAME,
    GOLDEN_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    SCHEMA_VERSION,
    SIGNATURE_NAME,
    Manifest,
)
from tidegate.packaging.format.manifest_rules import (
    LARGEST_MANIFEST,
    LARGEST_SIGNATURE,
    REQUIRED_FILES,
    check_manifest,
    is_file_name,
)
from tidegate.packaging.format.manifest_versions import decode_any_version, written_version
from tidegate.packaging.format.plain_files import check_entry, entry_of, read_plain
from tidegate.packaging.format.reference import check_reference
from tidegate.packaging.format.stored_package import download_files, download_signature, stored_manifest
from tidegate.storage import open_store
from tidegate.storage.folders import fresh_folder_beside, put_in_place

_MADE_HERE = REQUIRED_FILES | {MANIFEST_NAME, SIGNATURE_NAME, CARD_NAME, BILL_NAME}


@dataclass(frozen=True, slots=True)
class VerifiedPackage:
    """A package that is what its manifest says: the manifest, the very bytes it was read from, and the signature, if any."""

    manifest: Manifest
    raw: bytes
    signature: bytes | None

    @property
    def digests(self) -> dict[str, str]:
        """The sha256, in hex, of every file but the signature."""
        files = {name: entry.sha256 for name, entry in self.manifest.files.items()}
        return files | {MANIFEST_NAME: hashlib.sha256(self.raw).hexdigest()}

    @property
    def digest(self) -> str:
        """`sha256:…` of `package.json`, and so of the whole package, whose files' digests it holds."""
        return f"sha256:{self.digests[MANIFEST_NAME]}"

    @property
    def schema_version(self) -> int:
        """The version that the manifest was written in; `manifest` itself is always of the newest."""
        return written_version(self.raw)

    def with_signature(self, signature: bytes) -> Self:
        """Return the package with another signature."""
        return replace(self, signature=signature)


Trust = Callable[[VerifiedPackage], None]
"""Refuses a package by raising PackageError."""


def write_package(
    to: Path,
    manifest: Manifest,
    *,
    model: bytes | Path,
    golden: Golden | Path,
    reference: pa.Table | Path,
    files: Mapping[str, bytes | Path] = MappingProxyType({}),
) -> Manifest:
    """Write a model package to the directory `to`, whole or not at all, and return its manifest with `files` filled in.

    The model card and the bill of materials are made from the manifest. An earlier package is moved aside, then the new one in:
    a process that is killed between the two leaves the earlier one beside `to`, as `.NAME.…/replaced`.

    Args:
        to: Must be free, an empty directory, or an earlier package, which is replaced.
        manifest: What `package.json` will say; its `schema_version` and `files` are set here.
        model: The ONNX graph: its bytes, or a file to copy.
        golden: The golden sample, or a file to copy.
        reference: Columns: model inputs, outputs, `label`; a table, or a Parquet file to copy.
        files: Further files by name, such as `engine.onnx`.

    Raises:
        PackageError: The manifest breaks a rule, `to` holds something that is not a package, or cannot be written.
    """
    _refuse_to_overwrite(to)
    for name in files:
        if name in _MADE_HERE or not is_file_name(name):
            raise PackageError(f"package {to}: a further file cannot be called {name!r}; choose another name")
    try:
        with fresh_folder_beside(to) as fresh:
            _write(fresh / MODEL_NAME, model)
            _write(fresh / GOLDEN_NAME, golden_bytes(golden) if isinstance(golden, Golden) else golden)
            if isinstance(reference, pa.Table):
                pq.write_table(reference, fresh / REFERENCE_NAME, compression="zstd")
            else:
                _write(fresh / REFERENCE_NAME, reference)
            for name, content in files.items():
                _write(fresh / name, content)
            made = _listing(msgspec.structs.replace(manifest, files={}), fresh)
            _write(fresh / CARD_NAME, model_card(made).encode())
            _write(fresh / BILL_NAME, bill_of_materials(made))
            complete = _listing(made, fresh)
            check_manifest(complete, str(to))
            # msgspec leaves a text out if it is the default itself, and writes one that only equals it: read, all are the same.
            as_read = msgspec.json.decode(msgspec.json.encode(complete), type=Manifest)
            encoded = msgspec.json.format(msgspec.json.encode(as_read, order="deterministic"), indent=2)
            _write(fresh / MANIFEST_NAME, encoded + b"\n")
            put_in_place(fresh, to)
    except OSError as error:
        raise PackageError(f"package {to}: cannot be written: {error.strerror or error}") from error
    return complete


def copy_package(package: Path, to: Path, manifest: Manifest) -> Manifest:
    """Write the files of `package` as a package at `to` that says what `manifest` says; as `write_package` otherwise.

    The card and the bill are made anew, and a signature is not copied: it is of the old manifest.
    """
    copied = verify_package(package).files.keys() - _MADE_HERE
    return write_package(
        to,
        manifest,
        model=package / MODEL_NAME,
        golden=package / GOLDEN_NAME,
        reference=package / REFERENCE_NAME,
        files={name: package / name for name in sorted(copied)},
    )


def read_manifest(path: Path) -> Manifest:
    """Read `package.json` of the package at `path`, checking its rules but no digest; raises PackageError."""
    return decode_manifest(_manifest_bytes(path), where=str(path / MANIFEST_NAME))


def decode_manifest(raw: bytes, *, where: str) -> Manifest:
    """Decode the bytes of a `package.json` that was found at `where`; raises PackageError naming the field at fault."""
    manifest = decode_any_version(raw, where=where)
    check_manifest(manifest, where)
    return manifest


def package_digest(path: Path) -> str:
    """Return `sha256:…` of `package.json`, and so of the whole package, whose files' digests it holds."""
    raw = _manifest_bytes(path)
    decode_manifest(raw, where=str(path / MANIFEST_NAME))
    return bytes_digest(raw)


def verify_package(path: Path, *, trust: Trust | None = None) -> Manifest:
    """Check that the package at `path` is exactly what its manifest says, and return the manifest.

    A signature is checked only if `trust` does so; `tidegate.packaging.format.signing.trusting` makes one that does.

    Args:
        path: The package's directory.
        trust: Asked once every file is what the manifest says, and before any of them is parsed; raises to refuse the package.

    Raises:
        PackageError: The manifest is malformed or of another schema version; a file is missing, altered, truncated, not a
            plain file, refers to others, cannot be read within bounds, or is not in the manifest. The message names it.
    """
    return inspect_package(path, trust=trust).manifest


def inspect_package(path: Path, *, trust: Trust | None = None) -> VerifiedPackage:
    """Check a package as `verify_package` does, and return what was read of it."""
    raw = _manifest_bytes(path)
    manifest = decode_manifest(raw, where=str(path / MANIFEST_NAME))
    try:
        found = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise PackageError(f"package {path}: cannot be read: {error.strerror or error}; check its permissions") from error
    for extra in sorted(found - manifest.files.keys() - {MANIFEST_NAME, SIGNATURE_NAME}):
        raise PackageError(f"package {path}: {extra[:120]!r} is not in {MANIFEST_NAME}; remove it or package again")
    for name, entry in sorted(manifest.files.items()):
        check_entry(path / name, entry)
    signature = read_plain(path / SIGNATURE_NAME, limit=LARGEST_SIGNATURE) if SIGNATURE_NAME in found else None
    package = VerifiedPackage(manifest, raw, signature)
    if trust is not None:
        trust(package)
    for name in sorted(manifest.files):
        _check_content(path / name)
    return package


def fetch_package(uri: str, into: Path, *, trust: Trust | None = None) -> Path:
    """Return the directory of the verified package at `uri`.

    Args:
        uri: A directory or `file://…/`, which is verified where it lies; or `s3://…/`, which is downloaded.
        into: Where a download goes; created whole or not at all. A package that is there already is kept if it is the same.
        trust: Refuses the package by raising, as in `verify_package`.

    Raises:
        PackageError: There is no package at `uri`, it does not match its manifest, or there is no room for it.
        StorageError: The object store cannot be read.
    """
    if not uri.startswith("s3://"):
        address = uri.removeprefix("file://")
        if "://" in address:
            raise PackageError(f"package {uri}: is neither a directory nor at s3://; copy it to one of them")
        path = Path(address)
        verify_package(path, trust=trust)
        return path
    store = open_store(uri.rstrip("/"))
    where = f"package {uri}"
    try:
        raw = stored_manifest(store, "", where)
    except ObjectNotFound:
        raise PackageError(f"{where}: holds no {MANIFEST_NAME}; check the address") from None
    manifest = decode_manifest(raw, where=f"{uri.rstrip('/')}/{MANIFEST_NAME}")
    _refuse_to_overwrite(into)
    if (into / MANIFEST_NAME).is_file() and _manifest_bytes(into) == raw:
        download_signature(store, "", into, where)
        verify_package(into, trust=trust)
        return into
    try:
        with fresh_folder_beside(into) as fresh:
            download_files(store, "", manifest, fresh, where)
            _write(fresh / MANIFEST_NAME, raw)
            verify_package(fresh, trust=trust)
            put_in_place(fresh, into)
    except OSError as error:
        raise PackageError(f"{where}: cannot be written to {into}: {error.strerror or error}") from error
    return into


def _manifest_bytes(path: Path) -> bytes:
    return read_plain(path / MANIFEST_NAME, limit=LARGEST_MANIFEST)


def _check_content(file: Path) -> None:
    if file.suffix == ".onnx":
        check_self_contained(file)
    elif file.name == GOLDEN_NAME:
        check_golden(file)
    elif file.name == REFERENCE_NAME:
        check_reference(file)


def _listing(manifest: Manifest, folder: Path) -> Manifest:
    """Return the manifest with every file of the folder; those that it lists already are not read again."""
    names = sorted(path.name for path in folder.iterdir())
    entries = {name: manifest.files.get(name) or entry_of(folder / name) for name in names}
    return msgspec.structs.replace(manifest, schema_version=SCHEMA_VERSION, files=entries)


def _refuse_to_overwrite(to: Path) -> None:
    if not to.exists() and not to.is_symlink():
        return
    if not to.is_dir() or to.is_symlink():
        raise PackageError(f"package {to}: exists and is not a directory; choose another place")
    if any(to.iterdir()) and not (to / MANIFEST_NAME).is_file():
        raise PackageError(f"package {to}: the directory holds something that is not a package; choose another place")


def _write(file: Path, content: bytes | Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        file.write_bytes(content)
