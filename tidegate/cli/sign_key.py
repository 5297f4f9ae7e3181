"""`--sign-key`: how every command that makes a package signs it."""

import os
from pathlib import Path
from typing import Annotated

import typer

KEY_PASSWORD = "TIDEGATE_KEY_PASSWORD"  # noqa: S105 - the name of a variable

SignKey = Annotated[
    Path | None,
    typer.Option("--sign-key", help=f"Sign the package with this private key (PEM; its password in {KEY_PASSWORD})."),
]


def check_sign_key(key: Path | None) -> None:
    """Raise PackageError if a command was given a key that cannot sign, before it starts to work."""
    if key is not None:
        from tidegate.packaging.format.signing import check_signing_key

        check_signing_key(key, key_password())


def sign_if_asked(package: Path, key: Path | None) -> None:
    """Sign a package that a command has made, if it was given a key."""
    if key is not None:
        from tidegate.packaging.format.signing import sign_package

        sign_package(package, key, key_password())


def key_password() -> str | None:
    """Return the private key's password: from the environment, since arguments can be seen by everybody."""
    return os.environ.get(KEY_PASSWORD) or None
