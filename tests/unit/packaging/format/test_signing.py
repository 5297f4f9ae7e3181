import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import PackageError
from tidegate.packaging.format.package import copy_package, fetch_package, inspect_package, read_manifest, verify_package
from tidegate.packaging.format.signing import check_signing_key, sign_package, trusting, verify_signature
from tidegate.packaging.format.signing_bundle import signer_of

CURVES = ("prime256v1", "secp384r1", "secp521r1")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of key pairs, `NAME.pem` and `NAME.pub`, made by openssl as the documentation says."""
    folder = tmp_path_factory.mktemp("keys")
    for name, curve in (("own", "prime256v1"), ("other", "prime256v1"), *((curve, curve) for curve in CURVES)):
        _openssl(folder, "ecparam", "-name", curve, "-genkey", "-noout", "-out", f"{name}.pem")
        _openssl(folder, "ec", "-in", f"{name}.pem", "-pubout", "-out", f"{name}.pub")
    _openssl(folder, "ec", "-in", "own.pem", "-aes256", "-passout", "pass:sésame", "-out", "locked.pem")
    _openssl(folder, "ecparam", "-name", "secp256k1", "-genkey", "-noout", "-out", "bitcoin.pem")
    _openssl(folder, "ec", "-in", "bitcoin.pem", "-pubout", "-out", "bitcoin.pub")
    _openssl(folder, "genrsa", "-out", "rsa.pem", "2048")
    _openssl(folder, "rsa", "-in", "rsa.pem", "-pubout", "-out", "rsa.pub")
    (folder / "text.pem").write_text("no key")
    (folder / "empty.pem").touch()
    (folder / "huge.pem").write_bytes(b"-" * 100_000)
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture
def package(make_package: Callable[..., Path]) -> Path:
    return make_package()


@pytest.fixture
def signed(package: Path, keys: Path) -> Path:
    sign_package(package, keys / "own.pem")
    return package


def library_verify(package: Path, public_key: Path) -> None:
    """Verify as model-signing's own command does; raises whatever it raises."""
    from model_signing import verifying

    verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(package, package / "package.sig")


@pytest.mark.parametrize("curve", CURVES)
def test_what_is_signed_verifies_here_and_in_the_library(package: Path, keys: Path, curve: str) -> None:
    assert sign_package(package, keys / f"{curve}.pem") == package / "package.sig"

    assert verify_signature(package, keys / f"{curve}.pub") == read_manifest(package)
    library_verify(package, keys / f"{curve}.pub")
    assert verify_package(package) == read_manifest(package)
    assert sorted(path.name for path in package.iterdir()) == sorted(
        [*read_manifest(package).files, "package.json", "package.sig"]
    )


def test_a_key_with_a_password(package: Path, keys: Path) -> None:
    sign_package(package, keys / "locked.pem", password="sésame")

    verify_signature(package, keys / "own.pub")


def test_signing_again_replaces_the_signature(signed: Path, keys: Path) -> None:
    sign_package(signed, keys / "other.pem")

    verify_signature(signed, keys / "other.pub")
    with pytest.raises(PackageError, match="is of another key than this one"):
        verify_signature(signed, keys / "own.pub")


def test_what_the_library_signs_with_its_own_settings_verifies(package: Path, keys: Path, tmp_path: Path) -> None:
    from model_signing import signing

    signing.Config().use_elliptic_key_signer(private_key=keys / "own.pem").sign(package, tmp_path / "package.sig")
    (tmp_path / "package.sig").rename(package / "package.sig")

    verify_signature(package, keys / "own.pub")


def test_the_signature_names_its_key(signed: Path, keys: Path) -> None:
    assert signer_of(inspect_package(signed), where="here") == hashlib.sha256((keys / "own.pub").read_bytes()).hexdigest()


def bundle(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(package: Path) -> None:
        document = json.loads((package / "package.sig").read_bytes())
        change(document)
        (package / "package.sig").write_text(json.dumps(document))

    return edit


def payload(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what is signed, without the key to sign it."""

    def edit(document: dict[str, Any]) -> None:
        statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        change(statement)
        document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()

    return bundle(edit)


def altered(package: Path) -> None:
    """Another threshold, in a manifest whose digests are all right."""
    text = (package / "package.json").read_text()
    (package / "package.json").write_text(text.replace('"threshold": 0.5', '"threshold": 0.1'))


def rewritten(package: Path) -> None:
    """Another model under the same signature, everything else consistent."""
    signature = (package / "package.sig").read_bytes()
    renamed = msgspec.structs.replace(read_manifest(package), name="better")
    copy_package(package, package, renamed)
    (package / "package.sig").write_bytes(signature)


TAMPERINGS = [
    pytest.param(lambda p: (p / "package.sig").unlink(), "is not signed; sign it with", id="no signature"),
    pytest.param(lambda p: (p / "package.sig").write_bytes(b""), "is no signature of a package", id="empty"),
    pytest.param(lambda p: (p / "package.sig").write_bytes(b"\xff" * 9), "is no signature of a package", id="foreign"),
    pytest.param(lambda p: (p / "package.sig").write_text("[" * 100_000), "is no signature of a package", id="nested"),
    pytest.param(
        lambda p: (p / "package.sig").write_bytes((p / "package.sig").read_bytes()[:-40]), "is no signature", id="truncated"
    ),
    pytest.param(altered, "'package.json': not as it was signed", id="an altered manifest"),
    pytest.param(rewritten, "'package.json': not as it was signed", id="another model under the same signature"),
    pytest.param(lambda p: (p / "model.onnx").write_bytes(b"graph FIRST"), "model.onnx has sha256", id="an altered file"),
    pytest.param(lambda p: (p / "more").touch(), "'more' is not in package.json", id="a file more"),
    pytest.param(payload(lambda s: s["predicate"]["resources"].pop()), "forged or damaged", id="fewer files signed"),
    pytest.param(payload(lambda s: s.update(_type="other")), "forged or damaged", id="another statement"),
    pytest.param(bundle(lambda d: d.update(mediaType="other")), "mediaType", id="another kind of bundle"),
    pytest.param(bundle(lambda d: d.update(more=1)), "more", id="a bundle with more"),
    pytest.param(bundle(lambda d: d["dsseEnvelope"].update(payloadType="text/plain")), "payloadType", id="another payload"),
    pytest.param(bundle(lambda d: d["dsseEnvelope"]["signatures"].clear()), "is no signature", id="no signatures"),
    pytest.param(
        bundle(lambda d: d["dsseEnvelope"]["signatures"].append(d["dsseEnvelope"]["signatures"][0])),
        "is no signature",
        id="two signatures",
    ),
    pytest.param(
        bundle(lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="AAAA")), "forged or damaged", id="a short one"
    ),
    pytest.param(
        bundle(lambda d: d["dsseEnvelope"]["signatures"][0].update(sig="no base64!")), "is no signature", id="no base64"
    ),
    pytest.param(
        bundle(lambda d: d["verificationMaterial"]["publicKey"].update(hint="")), "is of another key", id="no hint of the key"
    ),
    pytest.param(
        bundle(lambda d: d["verificationMaterial"]["tlogEntries"].append({})), "tlogEntries", id="a transparency log's entry"
    ),
]


@pytest.mark.parametrize(("tamper", "says"), TAMPERINGS)
def test_tampering_is_refused(signed: Path, keys: Path, tamper: Callable[[Path], object], says: str) -> None:
    tamper(signed)

    with pytest.raises(PackageError) as refused:
        verify_signature(signed, keys / "own.pub")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def _resigned(package: Path, keys: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Sign another statement with the right key."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    payload(change)(package)
    document = json.loads((package / "package.sig").read_bytes())
    content = base64.b64decode(document["dsseEnvelope"]["payload"])
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(content), content)
    key = load_pem_private_key((keys / "own.pem").read_bytes(), None)
    document["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(
        key.sign(encoded, ec.ECDSA(hashes.SHA256()))
    ).decode()  # fmt: skip
    (package / "package.sig").write_text(json.dumps(document))


def _forget_a_file(statement: dict[str, Any]) -> None:
    resources = statement["predicate"]["resources"]
    resources.pop()
    whole = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
    statement["subject"][0]["digest"]["sha256"] = whole


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(_forget_a_file, "'reference.parquet': not as it was signed", id="a file not covered"),
        pytest.param(lambda s: s["predicate"]["resources"].pop(), "contradicts itself", id="a wrong whole"),
        pytest.param(
            lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
            "contradicts itself",
            id="a file twice",
        ),
        pytest.param(lambda s: s.update(predicateType="other"), "signs something else than a package", id="another predicate"),
        pytest.param(lambda s: s["subject"].append(s["subject"][0]), "signs something else", id="two subjects"),
        pytest.param(lambda s: s["predicate"]["resources"][0].update(digest="xyz"), "signs something else", id="no digest"),
        pytest.param(
            lambda s: s["predicate"]["serialization"].update(method="shards"), "signs something else", id="files in shards"
        ),
    ],
)
def test_a_statement_about_something_else_is_refused_even_from_the_right_key(
    signed: Path, keys: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    _resigned(signed, keys, lambda statement: None)
    verify_signature(signed, keys / "own.pub")
    _resigned(signed, keys, change)

    with pytest.raises(PackageError) as refused:
        verify_signature(signed, keys / "own.pub")
    assert says in str(refused.value)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_byte_passes(signed: Path, keys: Path, data: st.DataObject) -> None:
    """Of no file, manifest and signature included."""
    file = signed / data.draw(st.sampled_from(sorted(path.name for path in signed.iterdir())))
    original = file.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        with pytest.raises(PackageError):
            verify_signature(signed, keys / "own.pub")
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize(
    ("key", "password", "says"),
    [
        pytest.param("absent.pem", None, "cannot be read: No such file", id="no file"),
        pytest.param(".", None, "cannot be read: Is a directory", id="a directory"),
        pytest.param("own.pub", None, "is no private key in PEM", id="a public key"),
        pytest.param("text.pem", None, "is no private key in PEM", id="a text"),
        pytest.param("empty.pem", None, "is no private key in PEM", id="an empty file"),
        pytest.param("huge.pem", None, "more than 65536 bytes", id="a huge file"),
        pytest.param("rsa.pem", None, "its kind cannot sign packages; make one on the curve P-256", id="RSA"),
        pytest.param("bitcoin.pem", None, "its kind cannot sign packages", id="another curve"),
        pytest.param("locked.pem", None, "give its password", id="a password missing"),
        pytest.param("locked.pem", "open", "its password is wrong", id="a wrong password"),
        pytest.param("own.pem", "open", "it is not encrypted, so give no password", id="a password too many"),
    ],
)
def test_a_key_that_cannot_sign_is_named(package: Path, keys: Path, key: str, password: str | None, says: str) -> None:
    for ask in (lambda: check_signing_key(keys / key, password), lambda: sign_package(package, keys / key, password)):
        with pytest.raises(PackageError, match=r"^key ") as refused:
            ask()
        assert says in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not (package / "package.sig").exists()


@pytest.mark.parametrize(
    ("key", "says"),
    [
        pytest.param("absent.pub", "cannot be read: No such file", id="no file"),
        pytest.param("own.pem", "is no public key in PEM", id="a private key"),
        pytest.param("text.pem", "is no public key in PEM", id="a text"),
        pytest.param("rsa.pub", "its kind signs no packages", id="RSA"),
        pytest.param("bitcoin.pub", "its kind signs no packages", id="another curve"),
        pytest.param("other.pub", "is of another key than this one", id="another key"),
    ],
)
def test_a_key_that_proves_nothing_is_refused(signed: Path, keys: Path, key: str, says: str) -> None:
    with pytest.raises(PackageError) as refused:
        verify_signature(signed, keys / key)
    assert says in str(refused.value)


def test_nothing_of_a_package_is_parsed_before_its_signature_has_proved_right(
    signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[Path] = []
    monkeypatch.setattr("tidegate.packaging.format.package._check_content", parsed.append)
    with pytest.raises(PackageError, match="is of another key"):
        verify_signature(signed, keys / "other.pub")
    assert parsed == []
    verify_signature(signed, keys / "own.pub")
    assert sorted(file.name for file in parsed) == sorted(read_manifest(signed).files)


def test_a_package_that_is_fetched_from_where_anybody_writes_must_be_signed(signed: Path, keys: Path, tmp_path: Path) -> None:
    trust = trusting(keys / "own.pub", where=f"package {signed}")
    assert fetch_package(str(signed), tmp_path / "unused", trust=trust) == signed
    (signed / "package.sig").unlink()
    with pytest.raises(PackageError, match="is not signed; sign it with"):
        fetch_package(str(signed), tmp_path / "unused", trust=trust)


def test_a_damaged_package_is_not_signed(package: Path, keys: Path) -> None:
    (package / "model.onnx").write_bytes(b"another graph")

    with pytest.raises(PackageError, match=r"model\.onnx has 13 bytes"):
        sign_package(package, keys / "own.pem")
    assert not (package / "package.sig").exists()


def test_a_package_that_changes_while_it_is_signed_is_not_signed(
    package: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tidegate.packaging.format import signing

    sign = signing._sign

    def change_and_sign(package: Path, key: Path, password: str | None) -> bytes:
        (package / "model.onnx").write_bytes(b"graph FIRST")
        return sign(package, key, password)

    monkeypatch.setattr(signing, "_sign", change_and_sign)

    with pytest.raises(PackageError, match=r"'model\.onnx': not as it was signed"):
        sign_package(package, keys / "own.pem")
    assert not (package / "package.sig").exists()


@pytest.mark.parametrize("module", ["model_signing", "cryptography"])
def test_a_missing_extra_is_named(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(PackageError, match=rf"needs? the module {module}.*; pip install 'tidegate\[signing\]'"):
        sign_package(signed, keys / "own.pem")


def test_to_verify_needs_no_more_than_cryptography(signed: Path, keys: Path) -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from tidegate.packaging.format.signing import verify_signature;"
            f"verify_signature(Path({str(signed)!r}), Path({str(keys / 'own.pub')!r}));"
            "print(*{name.partition('.')[0] for name in sys.modules})",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()

    assert "cryptography" in loaded
    assert not {"model_signing", "sigstore", "sigstore_models", "in_toto_attestation", "cyclonedx", "onnx"} & set(loaded)


def test_the_librarys_own_command_accepts_it(signed: Path, keys: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(signed, tmp_path / "elsewhere")
    command = ["verify", "key", str(copy), "--signature", str(copy / "package.sig"), "--public_key", str(keys / "own.pub")]

    ran = subprocess.run(
        [sys.executable, "-m", "model_signing", *command], capture_output=True, text=True, timeout=60, check=False
    )

    assert (ran.returncode, "Verification succeeded" in ran.stdout + ran.stderr) == (0, True), ran.stderr
