import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tidegate.errors import PackageError, StorageError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.package import (
    copy_package,
    fetch_package,
    package_digest,
    read_manifest,
    verify_package,
    write_package,
)
from tidegate.packaging.running.inference import PackageModel


@pytest.fixture
def package(tiny_package: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_package, tmp_path / "package")


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
    assert sorted(manifest.files) == ["bom.cdx.json", "golden.npz", "model-card.md", "model.onnx", "reference.parquet"]
    assert {path.name for path in package.iterdir()} == {*manifest.files, "package.json"}


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


def test_a_copy_renews_the_card_and_the_bill_and_drops_the_signature(package: Path, tmp_path: Path) -> None:
    (package / "package.sig").write_bytes(b"of the old manifest")

    copy_package(package, tmp_path / "copy", msgspec.structs.replace(read_manifest(package), name="renamed"))

    assert (tmp_path / "copy" / "model-card.md").read_text().startswith("# renamed\n")
    assert '"name": "renamed"' in (tmp_path / "copy" / "bom.cdx.json").read_text()
    assert not (tmp_path / "copy" / "package.sig").exists()


def test_a_damaged_package_is_not_copied_under_new_digests(package: Path, tmp_path: Path) -> None:
    (package / "model.onnx").write_bytes(b"another graph")

    with pytest.raises(PackageError, match=r"model\.onnx has 13 bytes"):
        copy_package(package, tmp_path / "copy", read_manifest(package))
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "name", ["package.json", "package.sig", "model-card.md", "../escaped", "a/b", "é", ".hidden", "x" * 101]
)
def test_a_further_file_has_a_name_of_its_own(package: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="a further file cannot be called"):
        write_package(
            tmp_path / "out" / "package",
            read_manifest(package),
            model=package / "model.onnx",
            golden=package / "golden.npz",
            reference=package / "reference.parquet",
            files={name: b"content"},
        )
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_no_reader_accepts_is_not_written(package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="classes: there are 1, a binary-classification has 2"):
        copy_package(package, tmp_path / "copy", msgspec.structs.replace(read_manifest(package), classes=("one",)))
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


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


@pytest.mark.parametrize("uri", ["gs://bucket/package/", "https://host/package"])
def test_an_address_of_another_kind_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(PackageError, match=f"^package {uri}: is neither a directory nor at s3://"):
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
