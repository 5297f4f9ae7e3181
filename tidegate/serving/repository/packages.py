"""The versions that a server can load: found in a model registry, fetched, and proved to be what was registered and signed."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tidegate.errors import ObjectNotFound, PackageError, RegistryError, TidegateError
from tidegate.packaging.format.signing import trusting
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.registry.states import VersionInfo
from tidegate.serving.protocol.errors import RequestError, bad_request
from tidegate.serving.repository.plan import Version
from tidegate.storage import open_store

_ALLOWED = "'version' or 'alias'"


class PackageSource:
    """Fetches versions of one registered model into a directory of the server."""

    def __init__(self, store: str, model: str, folder: Path, verify_key: str | None) -> None:
        """Fetch versions of a model into a directory that holds nothing else.

        Args:
            store: Address of the object store that the registry is in.
            model: What the registry calls the model.
            folder: Where packages go; must exist.
            verify_key: File of the public key that packages must be signed with; None if they need not be.

        Raises:
            StorageError: `store` is not the address of an object store.
        """
        self._registry = ModelRegistry(open_store(store))
        self._model = model
        self._folder = folder
        self._verify_key = None if verify_key is None else Path(verify_key)

    def number(self, parameters: Mapping[str, Any]) -> int:
        """Return the version that a request's parameters mean; raises RequestError."""
        with _refusals():
            return self._registry.resolve(self._model, reference(parameters))

    def digest(self, number: int) -> str:
        """Return the digest that a version was registered with; raises RequestError."""
        with _refusals():
            return self._registry.digest(self._model, number) or ""

    def fetch(self, number: int, digest: str, attempt: int) -> Version:
        """Download a version, verified, to a directory that no other `attempt` uses; raises RequestError."""
        to = self._folder / f"{self._model}-{number}-{attempt}"
        where = f"package {self._model} version {number}"
        trust = None if self._verify_key is None else trusting(self._verify_key, where=where)
        with _refusals():
            self._registry.download(self._model, number, to, trust=trust)
        return Version(str(number), digest, str(to), fetched=True)

    def remove_all_but(self, kept: Version | None) -> None:
        """Remove what was fetched and is no longer needed; where it is still being opened, nobody waits for that any more."""
        for folder in self._folder.iterdir():
            if kept is None or str(folder) != kept.package:
                shutil.rmtree(folder, ignore_errors=True)

    def versions(self) -> list[VersionInfo]:
        """Return every version of the model, oldest first; raises RequestError."""
        with _refusals():
            return self._registry.versions(self._model)


def reference(parameters: Mapping[str, Any]) -> str:
    """Return what the parameters of a load name: a version's number or an alias; raises RequestError (400).

    >>> reference({"version": 3}), reference({"alias": "challenger"}), reference({})
    ('3', 'challenger', 'champion')
    """
    unknown = sorted(parameters.keys() - {"version", "alias"})
    if unknown:
        raise bad_request(f"parameter {unknown[0][:80]!r} is not known; a load takes {_ALLOWED}")
    if len(parameters) == 2:
        raise bad_request(f"parameters: both 'version' and 'alias' are given; give {_ALLOWED}")
    alias = parameters.get("alias", CHAMPION)
    if not isinstance(alias, str) or alias.isdecimal():
        raise bad_request(f"parameter 'alias': {str(alias)[:80]!r} is no name of an alias; give one such as {CHAMPION!r}")
    if "version" not in parameters:
        return alias
    version = parameters["version"]
    text = str(version)
    if isinstance(version, bool | float) or not (text.isascii() and text.isdecimal()) or not 1 <= len(text) <= 9:
        raise bad_request(f"parameter 'version': {text[:80]!r} is no version's number; give one such as 3")
    return text


@contextmanager
def _refusals() -> Iterator[None]:
    """Give what the registry and its store say the status of an answer."""
    try:
        yield
    except RequestError:
        raise
    except (RegistryError, ObjectNotFound) as error:
        raise RequestError(404, str(error)) from error
    except PackageError as error:
        raise RequestError(409, str(error)) from error
    except TidegateError as error:
        raise RequestError(503, str(error)) from error
