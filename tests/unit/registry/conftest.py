"""Fixtures: keys, and packages that are signed with one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tidegate.packaging.format.signing import sign_package


@pytest.fixture(scope="session")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the private key called …, `NAME.pem`, with its public key `NAME.pub` beside it."""
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> Path:
        path = folder / f"{name}.pem"
        if not path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            path.with_suffix(".pub").write_bytes(public)
        return path

    return make


@pytest.fixture
def public_key(make_key: Callable[[str], Path]) -> Path:
    """The public key of who signs `signed_package`."""
    return make_key("own").with_suffix(".pub")


@pytest.fixture
def signed_package(make_package: Callable[..., Path], make_key: Callable[[str], Path]) -> Callable[..., Path]:
    """Make packages as `make_package` does, signed by the key called `key`."""

    def make(content: str = "first", *, key: str = "own") -> Path:
        package = make_package(content)
        sign_package(package, make_key(key))
        return package

    return make
