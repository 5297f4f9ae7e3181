"""`tidegate models export`: of a registered version, and of a package that lies somewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate.cli.main import run
from tidegate.packaging.format.package import read_manifest


def export(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        run(["models", "export", *map(str, arguments)])
    return int(str(ended.value.code))


def test_a_package_is_exported_without_a_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = Path(__file__).parent.parent / "packaging" / "format" / "golden" / "schema-2-tabular"
    name = read_manifest(package).name

    assert export(package, "--out", tmp_path / "triton", "--features-supplied", "--json") == 0

    assert json.loads(capsys.readouterr().out) == {"name": name, "version": None, "path": str(tmp_path / "triton")}
    assert (tmp_path / "triton" / name / "config.pbtxt").exists()


def test_a_package_has_no_versions(
    make_package: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(make_package(), "3", "--out", tmp_path / "triton") == 1
    assert "a package has no versions" in capsys.readouterr().err


def test_a_directory_of_a_model_s_name_is_offered(
    make_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(make_package(), tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert export("here", "--out", "triton") == 1
    assert "say ./here" in capsys.readouterr().err
