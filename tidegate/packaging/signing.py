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

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from tidegate.errors import PackageError
from tidegate.packaging.manifest import SIGNATURE_NAME, Manifest
from tidegate.packaging.package import VerifiedPackage, inspect_package

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_KEY_BYTES = 64 << 10
_NEEDED = "pip install 'tidegate[signing]'"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"


class _Exact(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    pass


class _KeyHint(_Exact):
    hint: str


class _Material(_Exact):
    public_key: _KeyHint
    tlog_entries: Annotated[list[Any], msgspec.Meta(max_length=0)]


class _RawSignature(_Exact):
    sig: str
    keyid: Literal[""] = ""


class _Envelope(_Exact):
    payload: str
    signatures: list[_RawSignature]
    payload_type: Literal["application/vnd.in-toto+json"]


class _Bundle(_Exact):
    """What is signed is `payload` and its type; the rest is held to be exactly what a signer with a key writes."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    verification_material: _Material
    dsse_envelope: _Envelope


class _Resource(_Exact):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Serialization(msgspec.Struct):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]


class _Subject(msgspec.Struct):
    digest: dict[str, str]


class _Statement(msgspec.Struct, kw_only=True):
    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    predicate_type: Literal["https://model_signing/signature/v1.0"] = msgspec.field(name="predicateType")
    subject: list[_Subject]
    predicate: _Predicate


def sign_package(package: Path, private_key: Path, password: str | None = None) -> Path:
    """Verify the package and write its signature, `package.sig`, in place of an earlier one; return where it lies.

    Args:
        package: The package's directory.
        private_key: PEM file of a private key on the curve P-256, P-384 or P-521.
        password: Of the key, if it is encrypted.

    Raises:
        PackageError: The package is damaged, the key is not one, or the extra `signing` is not installed.
    """
    inspect_package(package)
    check_signing_key(private_key, password)
    with _installed():
        from model_signing import hashing, signing
    what_to_hash = hashing.Config().use_file_serialization(max_workers=1)
    what_to_hash.set_ignored_paths(paths=[SIGNATURE_NAME], ignore_git_paths=False)
    # The library hands the password to cryptography as it is, which wants bytes, whatever the library's annotation says.
    secret = password.encode() if password else None
    signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=secret)
    signature = package / SIGNATURE_NAME
    try:
        with tempfile.TemporaryDirectory(prefix=f".{package.name}.", dir=package.resolve().parent) as beside:
            fresh = Path(beside) / SIGNATURE_NAME
            signer.set_hashing_config(what_to_hash).sign(package, fresh)
            _flush(fresh)
            fresh.replace(signature)
    except (OSError, ValueError) as error:
        raise PackageError(f"package {package}: cannot be signed: {' '.join(str(error).split())}") from error
    return signature


def check_signing_key(private_key: Path, password: str | None = None) -> None:
    """Raise PackageError unless the file holds a key that can sign packages; to be asked before long work starts."""
    _private_key(private_key, password)


def verify_signature(package: Path, public_key: Path) -> Manifest:
    """Check that the package is exactly what the owner of `public_key` signed, and return its manifest.

    Every file is checked as by `verify_package`, and read once for it.

    Args:
        package: The package's directory.
        public_key: PEM file of the public key.

    Raises:
        PackageError: The package is damaged; it is not signed, or not by this key, or something else was signed; the key is
            none; or `cryptography` is not installed.
    """
    key = _public_key(public_key)
    found = inspect_package(package)
    check_signature(found, key, where=f"package {package}")
    return found.manifest


def signature_hint(signature: bytes) -> str | None:
    """Return the sha256, in hex, of the public key that a signature says it is verified with; None if it is no signature."""
    try:
        return msgspec.json.decode(signature, type=_Bundle).verification_material.public_key.hint
    except msgspec.MsgspecError:
        return None


def check_signature(package: VerifiedPackage, key: "EllipticCurvePublicKey", *, where: str) -> None:
    """Raise PackageError unless the signature of a package that was found at `where` is by `key`, and of what was found."""
    if package.signature is None:
        raise PackageError(f"{where}: is not signed; sign it with 'tidegate models sign'")
    payload = _signed_payload(package.signature, key, where)
    signed = _signed_digests(payload, where)
    if signed != package.digests:
        names = sorted(name for name, _ in signed.items() ^ package.digests.items())
        raise PackageError(f"{where}: {', '.join(dict.fromkeys(names))}: not what was signed; fetch it again or sign it anew")


def _signed_payload(signature: bytes, key: "EllipticCurvePublicKey", where: str) -> bytes:
    """Return what was signed, once the signature is proven to be the key's.

    Source: DSSE v1.0.0, protocol.md, "Signature Definition": what is signed is the payload with its type and both lengths.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        bundle = msgspec.json.decode(signature, type=_Bundle)
        (raw,) = bundle.dsse_envelope.signatures
        payload, signed = _from_base64(bundle.dsse_envelope.payload), _from_base64(raw.sig)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PackageError(f"{where}: {SIGNATURE_NAME} is no signature of a package: {error}; sign it anew") from error
    if bundle.verification_material.public_key.hint != _hint(key):
        raise PackageError(f"{where}: {SIGNATURE_NAME} is of another key than this one; give the signer's public key")
    encoded = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    try:
        key.verify(signed, encoded, ec.ECDSA(_hash_for(key)))
    except InvalidSignature:
        raise PackageError(f"{where}: {SIGNATURE_NAME} is forged or damaged; do not use the package") from None
    return payload


def _signed_digests(payload: bytes, where: str) -> dict[str, str]:
    try:
        statement = msgspec.json.decode(payload, type=_Statement)
        resources = statement.predicate.resources
        digests = {resource.name: resource.digest for resource in resources}
        whole = hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()
        (subject,) = statement.subject
    except (msgspec.MsgspecError, ValueError) as error:
        raise PackageError(f"{where}: {SIGNATURE_NAME} signs something else than a package: {error}; sign it anew") from error
    if len(digests) != len(resources) or subject.digest != {"sha256": whole}:
        raise PackageError(f"{where}: {SIGNATURE_NAME} signs a statement that contradicts itself; sign it anew")
    return digests


def _from_base64(text: str) -> bytes:
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:  # the last character can hide bits that decoding drops
        raise ValueError("its base64 has more than one reading")
    return decoded


def _private_key(path: Path, password: str | None) -> "EllipticCurvePrivateKey":
    pem = _read_key(path)
    with _installed():
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    try:
        key = load_pem_private_key(pem, password.encode() if password else None)
    except TypeError as error:  # cryptography's way to say that a password is missing, or is one too many
        remedy = "give its password" if password is None else "it is not encrypted, so give no password"
        raise PackageError(f"key {path}: {remedy}") from error
    except ValueError as error:
        wrong = "its password is wrong" if password else "it is no private key in PEM"
        raise PackageError(f"key {path}: {wrong}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise PackageError(f"key {path}: its kind cannot sign packages; make one on the curve P-256 (prime256v1)")
    return key


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    pem = _read_key(path)
    with _installed():
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
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


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
