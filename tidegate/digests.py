"""The digests by which files are known: `sha256:…` wherever one is recorded or compared."""

import hashlib
from pathlib import Path


def bytes_digest(content: bytes) -> str:
    """Return `sha256:…` of some bytes.

    >>> bytes_digest(b"")[:15]
    'sha256:e3b0c442'
    """
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def file_digest(path: Path) -> str:
    """Return `sha256:…` of a file, which need not fit into memory."""
    return f"sha256:{file_sha256(path)}"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
