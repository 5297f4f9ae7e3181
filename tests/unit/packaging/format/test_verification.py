"""What may have happened to a package, by accident or on purpose: each is one clear line, soon, and nothing is harmed."""

import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import PackageError
from tidegate.packaging.format import plain_files
from tidegate.packaging.format.package import decode_manifest, read_manifest, verify_package
from tidegate.packaging.format.plain_files import check_entry

TERABYTES = 10 * 10**12


@pytest.fixture
def package(make_package: Callable[..., Path]) -> Path:
    return make_package()


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(package: Path) -> None:
        file = package / "package.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    return edit


def listed(name: str, **changes: object) -> Callable[[Path], None]:
    """List a file in the manifest, or change its entry."""
    return edited(lambda document: document["files"].setdefault(name, {"size": 1, "sha256": "0" * 64}).update(changes))


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(package: Path) -> None:
        (package / name).unlink()
        make(package / name)

    return replace


def flipped(name: str) -> Callable[[Path], None]:
    def flip(package: Path) -> None:
        raw = bytearray((package / name).read_bytes())
        raw[len(raw) // 2] ^= 1
        (package / name).write_bytes(raw)

    return flip


def linked_elsewhere(file: Path) -> None:
    elsewhere = file.parent.parent / "elsewhere"
    elsewhere.write_bytes(b"x")
    file.symlink_to(elsewhere)


def bound_socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's path is short
    try:
        socket.socket(socket.AF_UNIX).bind(file.name)
    finally:
        os.chdir(here)


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(TERABYTES)


ATTACKS = [
    pytest.param(flipped("model.onnx"), "model.onnx has sha256", id="a flipped byte"),
    pytest.param(flipped("model-card.md"), "model-card.md has sha256", id="a flipped byte of the card"),
    pytest.param(lambda p: os.truncate(p / "golden.npz", 100), "golden.npz has 100 bytes", id="a truncated file"),
    pytest.param(replaced("model.onnx", sparse), f"model.onnx has {TERABYTES} bytes", id="a file of 10 TB"),
    pytest.param(lambda p: (p / "reference.parquet").unlink(), "reference.parquet is missing", id="a missing file"),
    pytest.param(lambda p: (p / "evil.py").write_text("x"), "'evil.py' is not in package.json", id="an extra file"),
    pytest.param(lambda p: (p / "sub").mkdir(), "'sub' is not in package.json", id="an extra directory"),
    pytest.param(lambda p: (p / "a\x1b[2J\nb").touch(), r"'a\x1b[2J\nb' is not in", id="a name that plays with the terminal"),
    pytest.param(replaced("model.onnx", linked_elsewhere), "model.onnx is not a plain file", id="a link"),
    pytest.param(replaced("model.onnx", lambda f: f.symlink_to(f)), "model.onnx is not a plain file", id="a link to itself"),
    pytest.param(replaced("model.onnx", os.mkfifo), "model.onnx is not a plain file", id="a pipe"),
    pytest.param(replaced("model.onnx", Path.mkdir), "model.onnx is not a plain file", id="a directory as a file"),
    pytest.param(replaced("model.onnx", bound_socket), "model.onnx is not a plain file", id="a socket"),
    pytest.param(replaced("package.json", os.mkfifo), "package.json is not a plain file", id="a pipe as the manifest"),
    pytest.param(replaced("package.json", linked_elsewhere), "package.json is not a plain file", id="a linked manifest"),
    pytest.param(
        replaced("package.json", lambda f: f.symlink_to("/dev/zero")),
        "package.json is not a plain file",
        id="an endless manifest",
    ),
    pytest.param(replaced("package.json", sparse), "package.json has more than 16777216 bytes", id="a manifest of 10 TB"),
    pytest.param(lambda p: os.mkfifo(p / "package.sig"), "package.sig is not a plain file", id="a pipe as the signature"),
    pytest.param(lambda p: sparse(p / "package.sig"), "package.sig has more than 1048576 bytes", id="a signature of 10 TB"),
    pytest.param(lambda p: (p / "package.json").unlink(), "package.json is missing; not a model package", id="no manifest"),
    pytest.param(lambda p: (p / "package.json").write_text('{"schema_ver'), "truncated", id="a truncated manifest"),
    pytest.param(lambda p: (p / "package.json").write_bytes(b""), "truncated", id="an empty manifest"),
    pytest.param(lambda p: (p / "package.json").write_bytes(b"\xff\xfe{}"), "package.json", id="not UTF-8"),
    pytest.param(lambda p: (p / "package.json").write_text("[]"), "Expected `object`", id="not an object"),
    pytest.param(
        lambda p: (p / "package.json").write_text('{"schema_version":3,"x":' + "[" * 100_000), "nested deeper", id="nested deep"
    ),
    pytest.param(
        lambda p: (p / "package.json").write_text((p / "package.json").read_text().replace("{", '{"name": "other",', 1)),
        "field 'name' is there twice",
        id="a field that is there twice",
    ),
    pytest.param(
        lambda p: (p / "package.json").write_text((p / "package.json").read_text().replace("0.71", "NaN", 1)),
        "malformed",
        id="a number that is none",
    ),
    pytest.param(edited(lambda d: d.update(schema_version=4)), "schema_version is 4, this Tidegate reads 1 to 3", id="newer"),
    pytest.param(edited(lambda d: d.update(schema_version=0)), "schema_version is 0", id="older than any"),
    pytest.param(edited(lambda d: d.update(schema_version="3")), "schema_version", id="a version that is no number"),
    pytest.param(edited(lambda d: d.update(surprise=1)), "surprise", id="an unknown field"),
    pytest.param(edited(lambda d: d.pop("metrics")), "metrics", id="a missing field"),
    pytest.param(edited(lambda d: d.update(threshold="high")), "threshold", id="a wrong type"),
    pytest.param(listed("../x"), "files: '../x' is not a plain file name", id="a path out of the package"),
    pytest.param(listed("/etc/passwd"), "'/etc/passwd' is not a plain file name", id="an absolute path"),
    pytest.param(listed("sub/x"), "'sub/x' is not a plain file name", id="a path into a directory"),
    pytest.param(listed(".."), "'..' is not a plain file name", id="the directory above"),
    pytest.param(listed("a\0b"), r"'a\x00b' is not a plain file name", id="a zero byte"),
    pytest.param(listed("modél.onnx"), "'modél.onnx' is not a plain file name", id="a name with two spellings"),
    pytest.param(listed("x" * 5_000), "xxx' is not a plain file name", id="an endless name"),
    pytest.param(listed("MODEL.ONNX"), "'model.onnx' is listed in upper and lower case", id="names that differ in case"),
    pytest.param(listed("Package.json"), "'package.json' is listed in upper and lower case", id="the manifest in another case"),
    pytest.param(listed("package.json"), "'package.json' is not a plain file name", id="the manifest lists itself"),
    pytest.param(listed("package.sig"), "'package.sig' is not a plain file name", id="the manifest lists the signature"),
    pytest.param(edited(lambda d: d["files"].pop("model.onnx")), "model.onnx is not listed", id="model not listed"),
    pytest.param(
        edited(lambda d: d["files"].update({f"f{n}": {"size": 1, "sha256": "0" * 64} for n in range(100)})),
        "105 files are listed, at most 64 are allowed",
        id="files without end",
    ),
    pytest.param(
        listed("model.onnx", size=TERABYTES), f"model.onnx is said to have {TERABYTES} bytes, at most", id="a claim of 10 TB"
    ),
    pytest.param(listed("model.onnx", size=10**30), f"have {10**30} bytes", id="a size beyond any integer"),
    pytest.param(listed("model.onnx", size=-1), "size", id="a negative size"),
    pytest.param(listed("model.onnx", sha256="../../x"), "sha256", id="a digest that is none"),
    pytest.param(listed("model.onnx", sha256="0" * 64 + "\n"), "sha256", id="a digest and more"),
]


@pytest.mark.parametrize(("attack", "says"), ATTACKS)
def test_a_package_that_was_tampered_with_is_refused(package: Path, attack: Callable[[Path], object], says: str) -> None:
    attack(package)

    with pytest.raises(PackageError) as refused:
        verify_package(package)

    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["nowhere", "file", "/dev/null", "/dev/zero"])
def test_what_is_no_directory_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(PackageError, match=r"package\.json is missing; not a model package$"):
        verify_package(tmp_path / place)


def test_a_device_is_not_opened(package: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    (package / "model.onnx").unlink()
    try:
        os.mknod(package / "model.onnx", 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("this machine lets not even root make devices")

    with pytest.raises(PackageError, match=r"model\.onnx is not a plain file"):
        verify_package(package)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that everybody may enter, while this process acts as somebody who may read only what is open to all."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        if user == 0:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["model.onnx", "package.json", "package.sig"])
def test_a_file_that_may_not_be_read_is_named(package: Path, unprivileged: Path, name: str) -> None:
    copy = package.rename(unprivileged / "package") if os.geteuid() != 0 else _copied(package, unprivileged / "package")
    (copy / name).touch()
    (copy / name).chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)

    with pytest.raises(PackageError, match=rf"{name} cannot be read: Permission denied; check its permissions$"):
        verify_package(copy)


def _copied(package: Path, to: Path) -> Path:
    to.mkdir(mode=0o755)
    for file in package.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
        (to / file.name).chmod(0o644)
    return to


def test_a_file_that_changes_while_it_is_verified_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = plain_files._sha256

    def hash_and_append(stream: Any, size: int) -> str:
        digest = hashed(stream, size)
        with (package / "model.onnx").open("ab") as file:
            file.write(b"more")
        return digest

    monkeypatch.setattr(plain_files, "_sha256", hash_and_append)

    with pytest.raises(PackageError, match="changes while it is verified"):
        check_entry(package / "model.onnx", read_manifest(package).files["model.onnx"])


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_byte_of_a_file_passes(package: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(read_manifest(package).files)))
    original = (package / name).read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= data.draw(st.integers(1, 255))
    (package / name).write_bytes(changed)
    try:
        with pytest.raises(PackageError):
            verify_package(package)
    finally:
        (package / name).write_bytes(original)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_garbled_manifest_is_refused_in_one_line_or_still_a_manifest(package: Path, data: st.DataObject) -> None:
    raw = bytearray((package / "package.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 40))] = data.draw(
            st.binary(max_size=8) | st.sampled_from([b"{", b"]", b'"', b"-1e999"])
        )
        raw = raw or bytearray(b" ")
    problem = ""
    try:
        manifest = decode_manifest(bytes(raw), where="here")
        assert manifest.files["model.onnx"].size >= 0
    except PackageError as error:
        problem = str(error)
    assert "\n" not in problem


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=25, deadline=None)
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(PackageError):
        decode_manifest(raw, where="here")
