"""Writes, verifies and fetches model packages; a package is written whole or not at all.

manifest = write_package(Path("out/trees"), manifest, model=onnx_bytes, golden=golden, reference=table)
verify_package(Path("out/trees"))                       # every file's size and sha256, and nothing else in there
path = fetch_package("s3://models/flights/versions/3/", into=Path("/tmp/flights-3"))
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import ObjectNotFound, PackageError
from tidegate.packaging.golden import Golden, golden_bytes, read_golden
from tidegate.packaging.manifest import (
    GOLDEN_NAME,
    MANIFEST_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    SCHEMA_VERSION,
    FileEntry,
    Manifest,
)
from tidegate.packaging.manifest_versions import decode_any_version
from tidegate.storage import open_store

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_REQUIRED_FILES = frozenset({MODEL_NAME, GOLDEN_NAME, REFERENCE_NAME})


def write_package(
    to: Path,
    manifest: Manifest,
    *,
    model: bytes | Path,
    golden: Golden,
    reference: pa.Table | Path,
    files: Mapping[str, bytes | Path] = MappingProxyType({}),
) -> Manifest:
    """Write a model package to the directory `to`, atomically, and return its manifest with `files` filled in.

    Args:
        to: Must be free, an empty directory, or an earlier package, which is replaced.
        manifest: What `package.json` will say; its `schema_version` and `files` are set here.
        model: The ONNX graph: its bytes, or a file to copy.
        golden: The golden sample.
        reference: Columns: model inputs, outputs, `label`; a table, or a Parquet file to copy.
        files: Further files by name, such as `engine.onnx`.

    Raises:
        PackageError: `to` holds something that is not a package, or cannot be written.
    """
    _refuse_to_overwrite(to)
    try:
        with _fresh_directory_beside(to) as fresh:
            _write(fresh / MODEL_NAME, model)
            _write(fresh / GOLDEN_NAME, golden_bytes(golden))
            if isinstance(reference, pa.Table):
                pq.write_table(reference, fresh / REFERENCE_NAME, compression="zstd")
            else:
                _write(fresh / REFERENCE_NAME, reference)
            for name, content in files.items():
                _write(fresh / name, content)
            entries = {path.name: _entry_of(path) for path in sorted(fresh.iterdir())}
            complete = msgspec.structs.replace(manifest, schema_version=SCHEMA_VERSION, files=entries)
            encoded = msgspec.json.format(msgspec.json.encode(complete, order="deterministic"), indent=2)
            _write(fresh / MANIFEST_NAME, encoded + b"\n")
            _put_in_place(fresh, to)
    except OSError as error:
        raise PackageError(f"package {to}: cannot be written: {error.strerror or error}") from error
    return complete


def copy_package(package: Path, to: Path, manifest: Manifest) -> Manifest:
    """Write the files of `package` as a package at `to` that says what `manifest` says; as `write_package` otherwise."""
    return write_package(
        to,
        manifest,
        model=package / MODEL_NAME,
        golden=read_golden(package / GOLDEN_NAME),
        reference=package / REFERENCE_NAME,
        files={name: package / name for name in read_manifest(package).files.keys() - _REQUIRED_FILES},
    )


def read_manifest(path: Path) -> Manifest:
    """Read `package.json` of the package at `path`, checking its schema but no digest; raises PackageError."""
    file = path / MANIFEST_NAME
    try:
        return decode_manifest(file.read_bytes(), where=str(file))
    except OSError as error:
        raise PackageError(f"package {path}: {MANIFEST_NAME}: {error.strerror}; not a model package") from error


def decode_manifest(raw: bytes, *, where: str) -> Manifest:
    """Decode the bytes of a `package.json` that was found at `where`; raises PackageError naming the field at fault."""
    manifest = decode_any_version(raw, where=where)
    _check_file_names(manifest, where)
    return manifest


def package_digest(path: Path) -> str:
    """Return `sha256:…` of `package.json`, and so of the whole package, whose files' digests it holds."""
    read_manifest(path)
    return f"sha256:{hashlib.sha256((path / MANIFEST_NAME).read_bytes()).hexdigest()}"


def verify_package(path: Path) -> Manifest:
    """Check that the package at `path` is exactly what its manifest says, and return the manifest.

    Raises:
        PackageError: The manifest is malformed or of another schema version; a file is missing, altered, truncated, not a
            plain file, or not in the manifest. The message names the file.
    """
    manifest = read_manifest(path)
    found = {entry.name for entry in path.iterdir()}
    for extra in sorted(found - manifest.files.keys() - {MANIFEST_NAME}):
        raise PackageError(f"package {path}: {extra} is not in {MANIFEST_NAME}; remove it or package again")
    for name, entry in sorted(manifest.files.items()):
        _verify_file(path, name, entry)
    return manifest


def fetch_package(uri: str, into: Path) -> Path:
    """Return the directory of the verified package at `uri`.

    Args:
        uri: A directory or `file://…/`, which is verified where it lies; or `s3://…/`, which is downloaded.
        into: Where a download goes; created whole or not at all. A package that is there already is kept if it is the same.

    Raises:
        PackageError: There is no package at `uri`, or it does not match its manifest.
        StorageError: The object store cannot be read.
    """
    if not uri.startswith("s3://"):
        path = Path(uri.removeprefix("file://"))
        verify_package(path)
        return path
    store = open_store(uri.rstrip("/"))
    try:
        raw = store.get(MANIFEST_NAME).data
    except ObjectNotFound:
        raise PackageError(f"package {uri}: holds no {MANIFEST_NAME}; check the address") from None
    manifest = decode_manifest(raw, where=f"{uri.rstrip('/')}/{MANIFEST_NAME}")
    _refuse_to_overwrite(into)
    if (into / MANIFEST_NAME).is_file() and (into / MANIFEST_NAME).read_bytes() == raw:
        verify_package(into)
        return into
    with _fresh_directory_beside(into) as fresh:
        for name in manifest.files:
            try:
                store.download(name, fresh / name)
            except ObjectNotFound:
                raise PackageError(f"package {uri}: {name} is missing; package again") from None
        _write(fresh / MANIFEST_NAME, raw)
        verify_package(fresh)
        _put_in_place(fresh, into)
    return into


def _check_file_names(manifest: Manifest, where: str) -> None:
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
            raise PackageError(f"{where}: files: {name!r} is not a plain file name; package again")
    for name in sorted(_REQUIRED_FILES - manifest.files.keys()):
        raise PackageError(f"{where}: files: {name} is not listed; package again")


def _verify_file(path: Path, name: str, entry: FileEntry) -> None:
    file = path / name
    if file.is_symlink() or not file.is_file():
        state = "is not a plain file" if file.is_symlink() or file.exists() else "is missing"
        raise PackageError(f"package {path}: {name} {state}; package again")
    found = _entry_of(file)
    if found.size != entry.size:
        raise PackageError(f"package {path}: {name} has {found.size} bytes, {MANIFEST_NAME} says {entry.size}; fetch it again")
    if found.sha256 != entry.sha256:
        raise PackageError(
            f"package {path}: {name} has sha256 {found.sha256[:12]}…, {MANIFEST_NAME} says {entry.sha256[:12]}…; fetch it again"
        )


def _entry_of(file: Path) -> FileEntry:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(size=stream.tell(), sha256=digest)


def _refuse_to_overwrite(to: Path) -> None:
    if not to.exists() and not to.is_symlink():
        return
    if not to.is_dir() or to.is_symlink():
        raise PackageError(f"package {to}: exists and is not a directory; choose another place")
    if any(to.iterdir()) and not (to / MANIFEST_NAME).is_file():
        raise PackageError(f"package {to}: the directory holds something that is not a package; choose another place")


@contextmanager
def _fresh_directory_beside(to: Path) -> Iterator[Path]:
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, to: Path) -> None:
    fresh.chmod(0o755)
    for file in fresh.iterdir():
        _flush(file)
    _flush(fresh)
    with _fresh_directory_beside(to) as aside:
        if to.exists():
            to.rename(aside / "replaced")
        fresh.rename(to)


def _write(file: Path, content: bytes | Path) -> None:
    if isinstance(content, Path):
        shutil.copyfile(content, file)
    else:
        file.write_bytes(content)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
