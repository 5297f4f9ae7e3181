"""Opens a store from its address; S3 is imported only when it is asked for."""

from pathlib import Path

from tidegate.errors import StorageError
from tidegate.storage.store import ObjectStore


def open_store(uri: str) -> ObjectStore:
    """Open the store at `uri`: a path or `file://` address, or `s3://bucket/prefix`; raises StorageError."""
    if uri.startswith("s3://"):
        from tidegate.storage.s3 import S3Store

        return S3Store.from_uri(uri)
    path = uri.removeprefix("file://")
    if not path or "://" in path or (path != uri and not path.startswith("/")):
        raise StorageError(f"store {uri!r}: not an address; use a path, 'file:///absolute/path' or 's3://bucket/prefix'")
    from tidegate.storage.directory import DirectoryStore

    return DirectoryStore(Path(path))
