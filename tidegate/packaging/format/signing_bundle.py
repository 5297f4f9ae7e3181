"""What `package.sig` holds: a Sigstore bundle around a statement of every file's sha256, as `model-signing` writes it.

Read here without trust and without a key: what a bundle says is proven by `tidegate.packaging.format.signing` alone.

Source: model-signing 1.1's `Payload`; Sigstore's bundle v0.3; in-toto's Statement v1; DSSE v1.0.0, protocol.md.
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from tidegate.errors import PackageError, in_one_line
from tidegate.packaging.format.manifest import SIGNATURE_NAME
from tidegate.packaging.format.package import VerifiedPackage

_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_GARBLED = (msgspec.MsgspecError, ValueError, RecursionError)


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


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A bundle's content: the key it names (sha256 of its PEM, in hex), the statement's bytes, and their signature."""

    key: str
    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature is of: the payload with its type and the lengths of both."""
        return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(self.payload)} ".encode() + self.payload


def signer_of(package: VerifiedPackage, *, where: str) -> str:
    """Return which key a package says it is signed by: the sha256, in hex, of the public key. No proof without the key.

    Raises:
        PackageError: The package is not signed, or the signature is of other files than these.
    """
    check_statement(package, where=where)
    return read_statement(package, where=where).key


def read_statement(package: VerifiedPackage, *, where: str) -> SignedStatement:
    """Return what the signature of a package that was found at `where` holds; raises PackageError if there is none."""
    if package.signature is None:
        raise PackageError(f"{where}: is not signed; sign it with 'tidegate models sign'")
    try:
        bundle = msgspec.json.decode(package.signature, type=_Bundle)
        (raw,) = bundle.dsse_envelope.signatures
        payload, signed = _from_base64(bundle.dsse_envelope.payload), _from_base64(raw.sig)
    except _GARBLED as error:
        told = in_one_line(error)
        raise PackageError(f"{where}: {SIGNATURE_NAME} is no signature of a package: {told}; sign it anew") from error
    return SignedStatement(bundle.verification_material.public_key.hint, payload, signed)


def check_statement(package: VerifiedPackage, *, where: str) -> None:
    """Raise PackageError unless a package's signature is of every file that was found, and of no other; it proves nothing."""
    try:
        stated = msgspec.json.decode(read_statement(package, where=where).payload, type=_Statement)
        resources = stated.predicate.resources
        digests = {resource.name: resource.digest for resource in resources}
        whole = hashlib.sha256(b"".join(bytes.fromhex(resource.digest) for resource in resources)).hexdigest()
        (subject,) = stated.subject
    except _GARBLED as error:
        told = in_one_line(error)
        raise PackageError(f"{where}: {SIGNATURE_NAME} signs something else than a package: {told}; sign it anew") from error
    if len(digests) != len(resources) or subject.digest != {"sha256": whole}:
        raise PackageError(f"{where}: {SIGNATURE_NAME} signs a statement that contradicts itself; sign it anew")
    if digests != package.digests:
        names = ", ".join(sorted({repr(name) for name, _ in digests.items() ^ package.digests.items()}))
        raise PackageError(f"{where}: {names[:200]}: not as it was signed; fetch it again or sign it anew")


def _from_base64(text: str) -> bytes:
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded).decode() != text:  # the last character can hide bits that decoding drops
        raise ValueError("its base64 has more than one reading")
    return decoded
