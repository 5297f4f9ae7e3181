"""Signs model packages with an elliptic-curve key, and proves who signed them. No network, no certificate authority.

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem          # the private key; keep it
    openssl ec -in key.pem -pubout -out key.pub                           # the public key; give it to who verifies

    sign_package(Path("out/package"), Path("key.pem"))                    # writes out/package/package.sig
    verify_signature(Path("out/package"), Path("key.pub"))                # raises PackageError unless all of it is as signed

`package.sig` is what sigstore's `model-signing` writes: a Sigstore bundle around an in-toto statement with the sha256 of every
other file, `package.json` included. That library signs here; its own `model_signing verify key` accepts what is signed. To
verify, only `cryptography` is needed: a server can afford it (the import takes 0.05 s, the library's own 0.6 s), and it is
stricter, since a file more or less than was signed, and a bundle that says anything else than these do, is refused.
"""

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import SIGNATURE_NAME, Manifest
from tidegate.packaging.format.package import Trust, VerifiedPackage, inspect_package
from tidegate.packaging.format.signing_bundle import check_statement, read_statement

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KEY_BYTES = 64 << 10
_NEEDED = "pip install 'tidegate[signing]'"


def sign_package(package: Path, private_key: Path, password: str | None = None) -> Path:
    """Verify the package and write its signature, `package.sig`, in place of an earlier one; return where it lies.

    Args:
        package: The package's directory.
        private_key: PEM file of a private key on the curve P-256, P-384 or P-521.
        password: Of the key, if it is encrypted.

    Raises:
        PackageError: The package is damaged, the key is not one, or the extra `signing` is not installed.
    """
    found = inspect_package(package)
    check_signing_key(private_key, password)
    try:
        signature = _sign(package, private_key, password)
        check_statement(found.with_signature(signature), where=f"package {package}")  # nobody changed a file meanwhile
        return _put_in_place(package, signature)
    except (OSError, ValueError) as error:
        raise PackageError(f"package {package}: cannot be signed: {in_one_line(error)}") from error


def check_signing_key(private_key: Path, password: str | None = None) -> None:
    """Raise PackageError unless the file holds a key that can sign packages; to be asked before long work starts."""
    _private_key(private_key, password)


def verify_signature(package: Path, public_key: Path) -> Manifest:
    """Check that the package is exactly what the owner of `public_key` signed, and return its manifest.

    Every file is checked as by `verify_package`, and read once for it; none is parsed before the signature has proved right.

    Args:
        package: The package's directory.
        public_key: PEM file of the public key.

    Raises:
        PackageError: The package is damaged; it is not signed, or not by this key, or something else was signed; the key is
            none; or `cryptography` is not installed.
    """
    return inspect_package(package, trust=trusting(public_key, where=f"package {package}")).manifest


def trusting(public_key: Path, *, where: str) -> Trust:
    """Return what refuses a package at `where` unless the owner of `public_key` signed it; for `verify_package` and others."""
    return lambda package: check_signature(package, public_key, where=where)


def check_signature(package: VerifiedPackage, public_key: Path, *, where: str) -> None:
    """Do as `verify_signature` for a package that was found at `where` and is verified already."""
    key = _public_key(public_key)
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    statement = read_statement(package, where=where)
    if statement.key != _hint(key):
        raise PackageError(f"{where}: {SIGNATURE_NAME} is of another key than this one; give the signer's public key")
    try:
        key.verify(statement.signature, statement.signed, ec.ECDSA(_hash_for(key)))
    except InvalidSignature:
        raise PackageError(f"{where}: {SIGNATURE_NAME} is forged or damaged; do not use the package") from None
    check_statement(package, where=where)


def _sign(package: Path, private_key: Path, password: str | None) -> bytes:
    with _installed():
        from model_signing import hashing, signing
    what_to_hash = hashing.Config().use_file_serialization(max_workers=1)
    what_to_hash.set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
    # The library hands the password to cryptography as it is, which wants bytes, whatever the library's annotation says.
    secret = password.encode() if password else None
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    with tempfile.TemporaryDirectory(prefix="tidegate-sign-") as folder:
        signature = Path(folder) / SIGNATURE_NAME
        signer.set_hashing_config(what_to_hash).sign(package, signature)
        return signature.read_bytes()


def _put_in_place(package: Path, signature: bytes) -> Path:
    fresh = package / f".{SIGNATURE_NAME}.{uuid.uuid4().hex}"
    try:
        with fresh.open("xb") as stream:
            stream.write(signature)
            stream.flush()
            os.fsync(stream.fileno())
        return fresh.replace(package / SIGNATURE_NAME)
    finally:
        fresh.unlink(missing_ok=True)


def _private_key(path: Path, password: str | None) -> "EllipticCurvePrivateKey":
    pem = _read_key(path)
    with _installed():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(pem, password.encode() if password else None)
    except TypeError as error:  # cryptography's way to say that a password is missing, or is one too many
        remedy = "give its password" if password is None else "it is not encrypted, so give no password"
        raise PackageError(f"key {path}: {remedy}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = "its password is wrong" if password else "it is no private key in PEM"
        raise PackageError(f"key {path}: {wrong}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise PackageError(f"key {path}: its kind cannot sign packages; make one on the curve P-256 (prime256v1)")
    return key


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    pem = _read_key(path)
    with _installed():
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PackageError(f"key {path}: it is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise PackageError(
            f"key {path}: its kind signs no packages; give the signer's public key, of the curve P-256 or larger"
        )
    return key


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise PackageError(f"signatures need the module {error.name}, which is not installed; {_NEEDED}") from error


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_KEY_BYTES + 1)
    except OSError as error:
        raise PackageError(f"key {path}: cannot be read: {error.strerror or error}") from error
    if len(content) > _KEY_BYTES:
        raise PackageError(f"key {path}: has more than {_KEY_BYTES} bytes, which no key needs")
    return content


def _hint(key: "EllipticCurvePublicKey") -> str:
    """Return what a bundle calls a key by: the sha256 of its PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _hash_for(key: "EllipticCurvePublicKey") -> "HashAlgorithm":
    """Return the hash that Sigstore pairs with the key's curve."""
    from cryptography.hazmat.primitives import hashes

    hash_of: dict[int, HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    return hash_of[key.curve.key_size]
