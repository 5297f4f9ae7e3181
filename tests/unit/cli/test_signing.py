import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate.cli.main import run
from tidegate.cli.sign_key import KEY_PASSWORD, check_sign_key, sign_if_asked
from tidegate.errors import PackageError
from tidegate.packaging.format.signing import verify_signature
from tidegate.registry.registry import ModelRegistry
from tidegate.storage import open_store

MODEL = "flights-late"
GOLDEN = Path(__file__).parent.parent / "packaging" / "format" / "golden"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys that docs/model-packages.md says how to make, and the same key with a password."""
    folder = tmp_path_factory.mktemp("keys")
    for command in (
        "ecparam -name prime256v1 -genkey -noout -out key.pem",
        "ec -in key.pem -pubout -out key.pub",
        "ec -in key.pem -aes256 -passout pass:secret -out locked.pem",
        "ecparam -name prime256v1 -genkey -noout -out other.pem",
        "ec -in other.pem -pubout -out other.pub",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture
def package(make_package: Callable[..., Path]) -> Path:
    return make_package()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tidegate models …` in a folder of its own; gives status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TIDEGATE_STORE", raising=False)
    monkeypatch.delenv(KEY_PASSWORD, raising=False)

    def models(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(["models", *map(str, arguments)])
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return models


def _json(ran: tuple[int, str, str]) -> Any:
    status, out, err = ran
    assert (status, err) == (0, "")
    return json.loads(out)


def test_a_package_is_signed_registered_and_verified(models: Run, package: Path, keys: Path) -> None:
    signed = _json(models("sign", package, "--key", keys / "key.pem", "--json"))
    ModelRegistry(open_store(".tidegate/store")).register(package, reason="why")

    unproven = _json(models("verify", MODEL, "1", "--json"))
    proven = _json(models("verify", MODEL, "1", "--public-key", keys / "key.pub", "--json"))

    assert signed["signature"] == str(package / "package.sig")
    assert (unproven["signature"], proven["signature"]) == ("not verified", "verified")
    assert unproven["signed_by"] == proven["signed_by"] == signed["signed_by"]
    assert "to prove it, give --public-key" in models("verify", MODEL, "1")[1]
    assert (
        f"signature  valid, by key {signed['signed_by']}" in models("verify", MODEL, "1", "--public-key", keys / "key.pub")[1]
    )


def test_a_directory_is_verified(models: Run, package: Path, keys: Path) -> None:
    shown = _json(models("verify", package, "--json"))
    _, text, _ = models("verify", package)

    assert (shown["path"], shown["name"], shown["valid"], "version" in shown) == (str(package), MODEL, True, False)
    assert text.splitlines()[0] == f"valid  {package}: 5 files, {shown['bytes'] / 1e6:.2f} MB, schema 3"
    assert text.splitlines()[2] == "signature  none"


def test_a_package_of_an_earlier_schema_is_verified(models: Run) -> None:
    shown = _json(models("verify", GOLDEN / "schema-1-baseline", "--json"))

    assert (shown["schema_version"], shown["files"]) == (1, 3)


def test_a_password_comes_from_the_environment(models: Run, package: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "give its password" in models("sign", package, "--key", keys / "locked.pem")[2]
    monkeypatch.setenv(KEY_PASSWORD, "secret")

    assert models("sign", package, "--key", keys / "locked.pem")[0] == 0
    verify_signature(package, keys / "key.pub")


def test_a_name_that_is_a_directory_too_is_a_model(models: Run, package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / MODEL)

    status, _, err = models("verify", MODEL)
    assert status == 1
    assert f"holds no model '{MODEL}'" in err
    assert f"if the directory here is meant, say ./{MODEL}" in err
    assert models("verify", f"./{MODEL}")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["sign", "{package}", "--key", "absent.pem"], "absent.pem: cannot be read", id="no key"),
        pytest.param(["sign", "{package}", "--key", "{keys}/key.pub"], "is no private key in PEM", id="a public key"),
        pytest.param(
            ["sign", "./absent", "--key", "{keys}/key.pem"], "package.json is missing; not a model package", id="none"
        ),
        pytest.param(["verify", "./absent"], "package.json is missing; not a model package", id="no package"),
        pytest.param(["verify", "{package}", "champion"], "a package has no versions", id="a package's version"),
        pytest.param(["verify", "{package}", "--public-key", "{keys}/key.pub"], "is not signed", id="not signed"),
        pytest.param(["verify", "nobody"], "holds no model 'nobody'", id="no model"),
        pytest.param(["verify", "gs://bucket/package"], "is neither a directory nor at s3://", id="another kind of store"),
    ],
)
def test_mistakes_are_one_line(models: Run, package: Path, keys: Path, arguments: list[str], says: str) -> None:
    status, out, err = models(*(argument.format(package=package, keys=keys) for argument in arguments))

    assert (status, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1


def test_the_wrong_key_is_refused(models: Run, package: Path, keys: Path) -> None:
    models("sign", package, "--key", keys / "key.pem")

    status, _, err = models("verify", package, "--public-key", keys / "other.pub")

    assert (status, "is of another key than this one" in err) == (1, True)


def test_a_command_signs_what_it_made_if_it_is_asked(package: Path, keys: Path) -> None:
    check_sign_key(None)
    sign_if_asked(package, None)
    assert not (package / "package.sig").exists()

    check_sign_key(keys / "key.pem")
    sign_if_asked(package, keys / "key.pem")
    verify_signature(package, keys / "key.pub")


def test_a_command_refuses_a_bad_key_before_it_works(keys: Path) -> None:
    with pytest.raises(PackageError, match="is no private key in PEM"):
        check_sign_key(keys / "key.pub")
