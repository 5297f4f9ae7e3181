import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tidegate.errors import PackageError, StorageError
from tidegate.packaging.golden import read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.package import (
    copy_package,
    fetch_package,
    package_digest,
    read_manifest,
    verify_package,
    write_package,
)


@pytest.fixture
def package(tiny_package: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_package, tmp_path / "package")


def edit_manifest(package: Path, change: Callable[[dict], object]) -> None:
    file = package / "package.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def flip_a_byte(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def replace_by_link(file: Path) -> None:
    elsewhere = file.parent.parent / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def test_a_package_that_was_written_verifies(package: Path) -> None:
    manifest = verify_package(package)

    assert manifest.name == "tiny"
    assert [spec.name for spec in manifest.signature.inputs] == [
        "carrier",
        "origin",
        "distance",
        "hour",
        "weather__temp",
        "route__delay",
    ]
    assert sorted(manifest.files) == ["golden.npz", "model.onnx", "reference.parquet"]
    assert {path.name for path in package.iterdir()} == {*manifest.files, "package.json"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        pytest.param(lambda p: flip_a_byte(p / "model.onnx"), "model.onnx has sha256", id="a flipped byte"),
        pytest.param(lambda p: os.truncate(p / "golden.npz", 100), "golden.npz has 100 bytes", id="a truncated file"),
        pytest.param(lambda p: (p / "reference.parquet").unlink(), "reference.parquet is missing", id="a missing file"),
        pytest.param(lambda p: (p / "evil.py").write_text("x"), "evil.py is not in package.json", id="an extra file"),
        pytest.param(lambda p: (p / "sub").mkdir(), "sub is not in package.json", id="an extra directory"),
        pytest.param(lambda p: replace_by_link(p / "model.onnx"), "model.onnx is not a plain file", id="a link"),
        pytest.param(lambda p: (p / "package.json").unlink(), "package.json", id="no manifest"),
        pytest.param(lambda p: (p / "package.json").write_text('{"schema_ver'), "truncated", id="a truncated manifest"),
        pytest.param(lambda p: (p / "package.json").write_bytes(b"\xff\xfe{}"), "package.json", id="not UTF-8"),
        pytest.param(lambda p: (p / "package.json").write_text("[]"), "package.json", id="not an object"),
        pytest.param(
            lambda p: edit_manifest(p, lambda d: d.update(schema_version=2, unheard_of=1)), "schema_version is 2", id="newer"
        ),
        pytest.param(lambda p: edit_manifest(p, lambda d: d.update(surprise=1)), "surprise", id="an unknown field"),
        pytest.param(lambda p: edit_manifest(p, lambda d: d.pop("threshold")), "threshold", id="a missing field"),
        pytest.param(lambda p: edit_manifest(p, lambda d: d.update(threshold="high")), "threshold", id="a wrong type"),
        pytest.param(
            lambda p: edit_manifest(p, lambda d: d["files"].update({"../x": {"size": 1, "sha256": "0"}})),
            "'../x' is not a plain file name",
            id="a path out of the package",
        ),
        pytest.param(
            lambda p: edit_manifest(p, lambda d: d["files"].pop("model.onnx")),
            "model.onnx is not listed",
            id="model not listed",
        ),
    ],
)
def test_a_damaged_package_is_refused(package: Path, damage: Callable[[Path], object], named: str) -> None:
    damage(package)

    with pytest.raises(PackageError, match=named.replace(".", r"\.")) as refused:
        verify_package(package)

    assert "\n" not in str(refused.value)


def test_writing_replaces_an_earlier_package_whole(package: Path, tmp_path: Path) -> None:
    manifest = read_manifest(package)
    before = package_digest(package)

    copy_package(package, package, msgspec.structs.replace(manifest, name="renamed"))

    assert verify_package(package).name == "renamed"
    assert package_digest(package) != before
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_the_same_content_gives_the_same_digest(package: Path, tmp_path: Path) -> None:
    copy_package(package, tmp_path / "again", read_manifest(package))

    assert package_digest(tmp_path / "again") == package_digest(package)


def test_writing_never_overwrites_what_is_no_package(package: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")

    with pytest.raises(PackageError, match="not a package"):
        copy_package(package, tmp_path / "home", read_manifest(package))

    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_write_that_fails_leaves_nothing(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "package"

    with pytest.raises(PackageError, match="cannot be written"):
        write_package(
            out,
            read_manifest(package),
            model=package / "no-such-file.onnx",
            golden=read_golden(package / "golden.npz"),
            reference=package / "reference.parquet",
        )

    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "file://{path}/"])
def test_a_local_package_is_fetched_where_it_lies(package: Path, tmp_path: Path, form: str) -> None:
    assert fetch_package(form.format(path=package), tmp_path / "into") == package
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("uri", ["/no/such/place", "file:///no/such/place/"])
def test_fetching_from_nowhere_is_one_clear_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises((PackageError, StorageError), match="/no/such/place"):
        fetch_package(uri, tmp_path / "into")


def test_the_golden_sample_is_replayed_by_the_graph(tiny_package: Path) -> None:
    golden = read_golden(tiny_package / "golden.npz")

    answers = PackageModel(tiny_package).outputs_of(golden.inputs)["probability"]

    assert golden.rows > 256, "edge rows come after the real ones"
    np.testing.assert_allclose(answers, golden.outputs["probability"], atol=1e-6)


def test_a_garbled_golden_sample_is_a_package_error(tmp_path: Path) -> None:
    (tmp_path / "golden.npz").write_bytes(b"PK not really")

    with pytest.raises(PackageError, match=r"golden\.npz"):
        read_golden(tmp_path / "golden.npz")


def test_the_reference_predicts_as_recorded(tiny_package: Path) -> None:
    reference = pq.read_table(tiny_package / "reference.parquet")

    assert reference.column_names[-2:] == ["probability", "label"]
    assert reference.num_rows == 300
    np.testing.assert_allclose(PackageModel(tiny_package).predict(reference), reference["probability"].to_numpy(), atol=1e-6)


def test_a_graph_that_onnx_runtime_refuses_is_a_package_error(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"not a graph")

    with pytest.raises(PackageError, match=r"model\.onnx: ONNX Runtime cannot load it"):
        PackageModel(package)
