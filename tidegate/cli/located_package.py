"""The package that a command is about: a registered version, or one that lies somewhere."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.errors import PackageError, RegistryError
from tidegate.packaging.format.package import fetch_package
from tidegate.registry.registry import CHAMPION, ModelRegistry
from tidegate.storage import open_store

ModelOrPackage = Annotated[
    str, typer.Argument(help="A registered model; or a package: s3://…, or a path with a '/' in it.", metavar="MODEL")
]
VersionIfModel = Annotated[str | None, typer.Argument(help="A version's number, or an alias; champion by default.")]


@contextmanager
def located(model: str, version: str | None, store: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the package's folder, and which it is: `version` of a registered model, or the `path` that was given.

    Raises:
        PackageError: A package was given together with a version, or cannot be fetched.
        RegistryError: There is no such model or version.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-package-") as folder:
        copy = Path(folder) / "package"
        if "/" in model or model in (".", ".."):
            if version is not None:
                raise PackageError(f"{model}: a package has no versions, so {version!r} means nothing; give one argument")
            yield fetch_package(model, copy), {"path": model}
        else:
            registry = ModelRegistry(open_store(store))
            number = _resolved(registry, model, version or CHAMPION)
            yield registry.download(model, number, copy), {"version": number}


def _resolved(registry: ModelRegistry, model: str, version: str) -> int:
    try:
        return registry.resolve(model, version)
    except RegistryError as error:
        if Path(model).is_dir():
            raise RegistryError(f"{error}; or, if the directory here is meant, say ./{model}") from error
        raise
