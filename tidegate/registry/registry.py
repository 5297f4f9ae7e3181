"""The model registry in an object store: versions that never change, aliases that move by compare-and-swap, an audit trail.

registry = ModelRegistry(open_store("s3://models/team-a"))
version = registry.register(Path("out/package"), reason="initial")             # 1; the same package again: still 1
registry.move_alias("flights-late", "champion", version, reason="passed its rollout", expected=None)
registry.download("flights-late", version, Path("/tmp/champion"))
"""

import random
import re
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import Final, Literal

from tidegate.clock import Clock
from tidegate.digests import bytes_digest
from tidegate.errors import ObjectNotFound, PreconditionFailed, RegistryError
from tidegate.packaging.format.manifest import MANIFEST_NAME, Manifest
from tidegate.packaging.format.package import Trust, decode_manifest, inspect_package, verify_package
from tidegate.packaging.format.signing_bundle import signer_of
from tidegate.registry.events import (
    ROOT,
    Event,
    alias_key,
    aliases_prefix,
    check_name,
    claim_key,
    claims_prefix,
    decode_event,
    encode_event,
    events_prefix,
    versions_prefix,
)
from tidegate.registry.journal import Journal, read_concurrently
from tidegate.registry.states import AliasState, VersionInfo, alias_state
from tidegate.registry.version_files import VersionFiles
from tidegate.storage.probe import probe_conditional_writes
from tidegate.storage.store import ObjectStore

CHAMPION = "champion"
CHALLENGER = "challenger"
_MOVE_ATTEMPTS = 200
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 1.0  # seconds
_PUBLISHED = re.compile(rf"{ROOT}([^/]+)/versions/([1-9][0-9]*)/{re.escape(MANIFEST_NAME)}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CLAIM = re.compile(r".*/([1-9][0-9]*)\.json")


class _AnyVersion(Enum):
    ANY = "any"


ANY: Final = _AnyVersion.ANY


class ModelRegistry:
    """Numbered versions of model packages, their aliases, and the audit trail of both. Safe to share between threads.

    A writer claims a version number by creating its claim, uploads the files, and creates `package.json` last: until then
    the version does not exist. The claim names the package's digest, so whoever registers the same package again completes
    or finds that version, however often and from wherever; a claim left by a crash costs at most a number.

    Before its first write the registry proves that the store honours conditional writes, and refuses it otherwise.
    """

    def __init__(self, store: ObjectStore, *, clock: Clock | None = None, actor: str | None = None) -> None:
        """Use `store`; events carry the event time of `clock` (default: the wall) and `actor` (default: `user@host`)."""
        self._store = store
        self._journal = Journal(store, clock=clock, actor=actor)
        self._files = VersionFiles(store)

    def register(self, package: Path, *, reason: str) -> int:
        """Verify a package, register it as a new version of its model, and return the version's number.

        A package that is registered already keeps its number and its first reason; a signature that it has got since is added.

        Raises:
            PackageError: The package does not match its manifest, or is signed for other files.
            RegistryError: The model's name or the reason is not acceptable, or the version is signed by another key already.
            StorageError: The store cannot be written, or ignores conditional writes.
        """
        found = inspect_package(package)
        check_name("model name", found.manifest.name)
        _check_reason(reason)
        if found.signature is not None:
            signer_of(found, where=f"package {package}")
        probe_conditional_writes(self._store)
        claim = self._claim(found.manifest.name, bytes_digest(found.raw), reason)
        self._files.publish(package, found, claim.version)
        self._journal.record(claim)
        return claim.version

    def models(self) -> list[str]:
        """Return the names of all models that have a version, sorted."""
        return sorted({found[1] for key in self._store.list(ROOT) if (found := _PUBLISHED.fullmatch(key))})

    def latest(self, name: str) -> int:
        """Return the highest version of a model; raises RegistryError if there is no such model."""
        numbers = self._version_numbers(name)
        if not numbers:
            raise self._unknown_model(name)
        return numbers[-1]

    def versions(self, name: str) -> list[VersionInfo]:
        """Return every version of a model, oldest first; raises RegistryError if there is no such model."""
        numbers = self._version_numbers(name)
        if not numbers:
            raise self._unknown_model(name)
        aliases = self.aliases(name)
        claims = self._journal.read_all(claim_key(name, number) for number in numbers)
        manifests = read_concurrently(lambda number: self.manifest(name, number), numbers)
        return [
            VersionInfo(
                version=number,
                digest=claim.digest or "",
                reason=claim.reason,
                actor=claim.actor,
                event_time=claim.event_time,
                logged_at=claim.logged_at,
                aliases=tuple(alias for alias, state in aliases.items() if state.version == number),
                manifest=manifest,
            )
            for number, claim, manifest in zip(numbers, claims, manifests, strict=True)
        ]

    def manifest(self, name: str, version: int) -> Manifest:
        """Return a version's manifest; raises RegistryError if there is no such version, PackageError if it is damaged."""
        raw = self._manifest_bytes(name, version)
        return decode_manifest(raw, where=self._files.address(name, version) + MANIFEST_NAME)

    def digest(self, name: str, version: int) -> str | None:
        """Return the `sha256:…` that a version was registered with; raises RegistryError if there is no such version."""
        self._require_version(name, version)
        return self._journal.read(claim_key(name, version)).digest

    def uri(self, name: str, version: int) -> str:
        """Return the address of a version's package, ending in `/`; raises RegistryError if there is no such version."""
        self._require_version(name, version)
        return self._files.address(name, version)

    def download(self, name: str, version: int, to: Path, *, trust: Trust | None = None) -> Path:
        """Write a version's package to the directory `to`, verified and whole or not at all, and return `to`.

        The manifest must be the one that was registered, byte for byte. A signature comes with it, but only `trust` checks it.

        Raises:
            RegistryError: There is no such version, or `to` holds something else.
            PackageError: The stored package does not match its manifest.
        """
        raw = self._manifest_bytes(name, version)
        if to.exists() or to.is_symlink():
            if _holds(to, raw):
                self._files.download_signature(name, version, to)
                verify_package(to, trust=trust)
                return to
            raise RegistryError(f"registry: cannot download {name} version {version} to {to}: it exists; choose another place")
        with self._files.downloaded(name, version, raw, self.digest(name, version), beside=to, trust=trust) as fresh:
            fresh.rename(to)
        return to

    def verify(self, name: str, version: int) -> Manifest:
        """Read a stored package back, check it, and return its manifest; raises PackageError if it is damaged."""
        raw = self._manifest_bytes(name, version)
        with (
            tempfile.TemporaryDirectory(prefix="tidegate-verify-") as scratch,
            self._files.downloaded(name, version, raw, self.digest(name, version), beside=Path(scratch) / "package") as fresh,
        ):
            return verify_package(fresh)

    def alias(self, name: str, alias: str) -> AliasState | None:
        """Return where an alias is, or None if it has never been set."""
        check_name("model name", name)
        check_name("alias", alias)
        found = self._read_alias(alias_key(name, alias))
        return found[0] if found else None

    def aliases(self, name: str) -> dict[str, AliasState]:
        """Return every alias of a model, by name, sorted."""
        check_name("model name", name)
        keys = list(self._store.list(aliases_prefix(name)))
        found = read_concurrently(self._read_alias, keys)
        return {_stem(key): state[0] for key, state in zip(keys, found, strict=True) if state}

    def resolve(self, name: str, reference: str) -> int:
        """Return the version that `reference` means: a number such as `3`, or an alias; raises RegistryError if none."""
        if _NUMBER.fullmatch(reference):
            self._require_version(name, int(reference))
            return int(reference)
        state = self.alias(name, reference)
        if state is None:
            self.latest(name)
            known = ", ".join(self.aliases(name)) or "none"
            raise RegistryError(f"registry {self._store.uri}: model {name} has no alias {reference!r}; its aliases: {known}")
        return state.version

    def move_alias(
        self, name: str, alias: str, version: int, *, reason: str, expected: int | Literal[_AnyVersion.ANY] | None
    ) -> AliasState:
        """Move an alias to a version by compare-and-swap, and write the move down.

        Args:
            name: The model.
            alias: The alias, such as `champion`; set for the first time if it is new.
            version: Where it goes.
            reason: Why; kept in the alias and in the audit trail.
            expected: The version the alias must be at: a number, None if it must not be set yet, or ANY. With ANY an
                alias that is at `version` already stays as it is.

        Raises:
            PreconditionFailed: The alias is not at `expected`, or was moved by someone else at the same moment.
            RegistryError: There is no such version.
        """
        check_name("alias", alias)
        _check_reason(reason)
        self._require_version(name, version)
        probe_conditional_writes(self._store)
        key = alias_key(name, alias)
        for attempt in range(_MOVE_ATTEMPTS):
            _give_way(attempt)
            found = self._read_alias(key)
            at = found[0].version if found else None
            if expected is not ANY and at != expected:
                raise PreconditionFailed(
                    f"registry {self._store.uri}: alias {alias} of {name} is at {_spoken(at)}, not at {_spoken(expected)} "
                    "as expected; look again and decide"
                )
            if found and expected is ANY and at == version:
                return found[0]
            move = self._journal.new(
                kind="alias-moved",
                model=name,
                version=version,
                alias=alias,
                previous=at,
                sequence=found[0].sequence + 1 if found else 1,
                reason=reason,
            )
            try:
                if found is None:
                    etag = self._store.create(key, encode_event(move))
                else:
                    # The alias is the only copy of its last move until that is in the audit trail; a crash may lie between.
                    self._journal.record(found[1])
                    etag = self._store.replace(key, encode_event(move), found[0].etag)
            except PreconditionFailed:
                continue
            self._journal.record(move)
            return alias_state(move, etag)
        raise PreconditionFailed(f"registry {self._store.uri}: others keep moving alias {alias} of {name}; try again")

    def rollback(self, name: str, *, reason: str, alias: str = CHAMPION) -> AliasState:
        """Move an alias back to the version it was at before its last move.

        Raises:
            RegistryError: The alias is not set, or has not been at another version.
            PreconditionFailed: Someone else moved it at the same moment.
        """
        self.resolve(name, alias)
        state = self.alias(name, alias)
        if state is None or state.previous is None:
            raise RegistryError(f"registry {self._store.uri}: alias {alias} of {name} has no earlier version to roll back to")
        return self.move_alias(name, alias, state.previous, reason=reason, expected=state.version)

    def events(self, name: str) -> list[Event]:
        """Return the audit trail of a model, oldest first; what a crash kept out of it is taken from where it happened."""
        check_name("model name", name)
        claims = [claim_key(name, number) for number in self._version_numbers(name)]
        keys = [*self._store.list(events_prefix(name)), *self._store.list(aliases_prefix(name)), *claims]
        events = {event.id: event for event in self._journal.read_all(keys)}
        return sorted(events.values(), key=lambda event: (event.logged_at, event.sequence, event.id))

    def _claim(self, name: str, digest: str, reason: str) -> Event:
        keys = self._store.list(claims_prefix(name))
        numbers = sorted(int(found[1]) for key in keys if (found := _CLAIM.fullmatch(key)))
        for claim in self._journal.read_all(claim_key(name, number) for number in numbers):
            if claim.digest == digest:
                return claim
        number = max(numbers, default=0) + 1
        while True:
            claim = self._journal.new(kind="registered", model=name, version=number, digest=digest, reason=reason)
            try:
                self._store.create(claim_key(name, number), encode_event(claim))
                return claim
            except PreconditionFailed:
                other = self._journal.read(claim_key(name, number))
            if other.digest == digest:
                return other
            number += 1

    def _read_alias(self, key: str) -> tuple[AliasState, Event] | None:
        try:
            stored = self._store.get(key)
        except ObjectNotFound:
            return None
        move = decode_event(stored.data, where=f"{self._store.uri}/{key}")
        return alias_state(move, stored.etag), move

    def _manifest_bytes(self, name: str, version: int) -> bytes:
        check_name("model name", name)
        try:
            return self._files.manifest_bytes(name, version)
        except ObjectNotFound:
            raise self._unknown_version(name, version) from None

    def _version_numbers(self, name: str) -> list[int]:
        check_name("model name", name)
        keys = self._store.list(versions_prefix(name))
        return sorted(int(found[2]) for key in keys if (found := _PUBLISHED.fullmatch(key)))

    def _require_version(self, name: str, version: int) -> None:
        check_name("model name", name)
        if not self._files.exists(name, version):
            raise self._unknown_version(name, version)

    def _unknown_model(self, name: str) -> RegistryError:
        known = ", ".join(self.models()) or "none"
        return RegistryError(f"registry {self._store.uri}: holds no model {name!r}; its models: {known}")

    def _unknown_version(self, name: str, version: int) -> RegistryError:
        numbers = self._version_numbers(name)
        if not numbers:
            return self._unknown_model(name)
        known = ", ".join(map(str, numbers))
        return RegistryError(f"registry {self._store.uri}: model {name} has no version {version}; its versions: {known}")


def _give_way(attempt: int) -> None:
    """Wait at random before another attempt, longer each time, so that many writers do not meet again ("full jitter").

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    if attempt:
        time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))  # noqa: S311


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise RegistryError(f"registry: reason {reason!r} is empty; say why, it is kept in the audit trail")


def _holds(package: Path, raw: bytes) -> bool:
    manifest = package / MANIFEST_NAME
    return not package.is_symlink() and manifest.is_file() and manifest.read_bytes() == raw


def _stem(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")


def _spoken(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
