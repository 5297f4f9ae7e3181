"""Columns that the inference log leaves empty, or holds as keyed hashes, because they tell too much about people.

A redacted column stays in the schema, so that readers need not know. A name covers all that bears it: an entity key that is a
model input too is redacted in both its columns. While anything is redacted, the `error` of a failed request, whose words may
quote what was sent, is replaced.

A hash is HMAC-SHA-256 (RFC 2104) of the text's UTF-8 bytes, in lower-case hex, under a key that the server reads from
`TIDEGATE_LOG_HASH_KEY`: equal texts stay equal and can be joined and counted, but no one without the key can find out by trying
which text a hash is of.
"""

import hmac
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache

from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import LABEL, Manifest
from tidegate.packaging.labels import Labels

HASH_KEY_VARIABLE = "TIDEGATE_LOG_HASH_KEY"
REDACTED_ERROR = "redacted"

_HASH = "hash"
_SHORTEST_KEY = 16  # bytes
_HASHES_KEPT = 16_384


class Redaction:
    """What is redacted in the log of one model.

    Attributes:
        words: The redacted names as they were given, sorted and parted by commas; None if there are none.
    """

    def __init__(self, entries: Sequence[str], manifest: Manifest, environment: Mapping[str, str] = os.environ) -> None:
        """Read what is to be redacted.

        Args:
            entries: `NAME`, left empty; or `NAME:hash`, hashed.
            manifest: Its inputs, outputs and entity keys are what can be named.
            environment: Holds the key, if anything is to be hashed.

        Raises:
            ServingError: A name is unknown or given twice, a number is to be hashed, or the key is missing or too short.
        """
        texts = _is_text(manifest)
        self._hashed: set[str] = set()
        self._omitted: set[str] = set()
        for entry in entries:
            name, hashed = entry.removesuffix(f":{_HASH}"), entry.endswith(f":{_HASH}")
            if name not in texts:
                raise ServingError(f"log redact: {name!r} is nothing that {manifest.name} logs; it logs {', '.join(texts)}")
            if name in self._hashed | self._omitted:
                raise ServingError(f"log redact: {name!r} is named twice; name it once")
            if hashed and not texts[name]:
                raise ServingError(
                    f"log redact: {name!r} holds numbers, and only text can be hashed; leave it out by {name!r} alone"
                )
            (self._hashed if hashed else self._omitted).add(name)
        self.words = ",".join(sorted(entries)) or None
        self._hash = lru_cache(_HASHES_KEPT)(_Hash(_key(environment) if self._hashed else b""))

    def omits(self, name: str) -> bool:
        """Return whether the columns of this key, input or output are left empty."""
        return name in self._omitted

    def hashes(self, name: str) -> bool:
        """Return whether they are hashed."""
        return name in self._hashed

    def hashed(self, values: Sequence[str | None]) -> list[str | None]:
        """Return the values' hashes; a missing one stays missing."""
        return [None if value is None else self._hash(value) for value in values]


class _Hash:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(errors="surrogatepass"), "sha256").hex()


def redacted_names(words: str) -> set[str]:
    """Return the names that `Redaction.words`, as a log file holds it, speaks of."""
    return {entry.removesuffix(f":{_HASH}") for entry in words.split(",")}


def _is_text(manifest: Manifest) -> dict[str, bool]:
    """Return what can be redacted, in the log's order, and whether it is text."""
    names = dict.fromkeys(manifest.features.join_keys, True) if manifest.features else {}
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        names[spec.name] = spec.datatype == "BYTES"
    return names | {LABEL: True} if Labels(manifest).exist else names


def _key(environment: Mapping[str, str]) -> bytes:
    key = environment.get(HASH_KEY_VARIABLE, "").encode()
    if len(key) < _SHORTEST_KEY:
        found = f"holds {len(key)} bytes" if key else "is not set"
        raise ServingError(
            f"log redact: hashing needs a secret of at least {_SHORTEST_KEY} bytes in {HASH_KEY_VARIABLE}, which {found}; "
            "give it from a secret, such as the output of 'openssl rand -hex 32'"
        )
    return key
