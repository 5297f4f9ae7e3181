"""A process that is killed while it writes or signs a package leaves the earlier one or the new one, never half of either."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tidegate.errors import PackageError
from tidegate.packaging.format.package import copy_package, read_manifest, verify_package
from tidegate.packaging.format.signing import sign_package

FLUSHED = 7  # six files and their directory reach the disk; then the earlier package is moved aside, then the new one in


@pytest.fixture
def source(make_package: Callable[..., Path]) -> Path:
    return make_package("new")


@pytest.mark.parametrize("at", range(1, FLUSHED + 2))
def test_killed_while_writing_a_first_package(source: Path, tmp_path: Path, at: int) -> None:
    to = tmp_path / "out" / "package"

    _killed(at, lambda: copy_package(source, to, read_manifest(source)))

    assert not to.exists()
    copy_package(source, to, read_manifest(source))
    verify_package(to)


@pytest.mark.parametrize("at", range(1, FLUSHED + 3))
def test_killed_while_replacing_a_package(source: Path, tmp_path: Path, at: int) -> None:
    to = tmp_path / "out" / "package"
    copy_package(source, to, msgspec.structs.replace(read_manifest(source), name="earlier"))

    _killed(at, lambda: copy_package(source, to, read_manifest(source)))

    if at == FLUSHED + 2:
        (earlier,) = to.parent.glob(".package.*/replaced")
        assert not to.exists()
    else:
        earlier = to
    assert verify_package(earlier).name == "earlier"
    copy_package(source, to, read_manifest(source))
    assert verify_package(to).name == "flights-late"


@pytest.mark.parametrize("at", [1, 2])
def test_killed_while_signing(source: Path, tmp_path: Path, at: int) -> None:
    key = tmp_path / "key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    _killed(at, lambda: sign_package(source, key))

    assert not (source / "package.sig").exists()
    (left,) = source.glob(".package.sig.*")
    with pytest.raises(PackageError, match=r"'\.package\.sig\..*' is not in package\.json; remove it"):
        verify_package(source)
    left.unlink()
    verify_package(source)


def _killed(at: int, work: Callable[[], object]) -> None:
    """Do the work in a child process that is killed before the n-th time that something reaches the disk or is renamed."""
    child = os.fork()
    if child == 0:
        try:
            _kill_before(at)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the work ended without reaching the step at which it was to be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def _kill_before(at: int) -> None:
    steps = iter(range(1, at + 1))

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any) -> Any:
            if next(steps) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)

        return take

    os.fsync = counted(os.fsync)
    Path.rename = counted(Path.rename)
    Path.replace = counted(Path.replace)
