"""Packages that earlier versions of Tidegate wrote, kept as they are: whatever is done with a package is done with them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tidegate.optimization.variants import variant_builder
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, InputPolicy, Manifest
from tidegate.packaging.format.package import copy_package, inspect_package, read_manifest, verify_package
from tidegate.packaging.format.reference import read_reference
from tidegate.packaging.format.signing import verify_signature
from tidegate.packaging.running.session import GraphSession
from tidegate.packaging.triton.repository import write_triton_repository
from tidegate.registry.registry import ModelRegistry
from tidegate.serving.model.engine import Engine
from tidegate.storage.directory import DirectoryStore

FOLDER = Path(__file__).parent / "golden"
PACKAGES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Path:
    return FOLDER / request.param


def replay(graph: GraphSession, package: Path, tolerance: float = 1e-4) -> None:
    golden = read_golden(package / GOLDEN_NAME)
    for name, values in graph.run(golden.inputs).items():
        np.testing.assert_allclose(values, golden.outputs[name], atol=tolerance)


def test_there_is_one_of_every_schema() -> None:
    written = {inspect_package(FOLDER / name).schema_version for name in PACKAGES}

    assert written >= {1, 2, 3}


def test_it_verifies_and_says_what_it_is(package: Path) -> None:
    found = inspect_package(package)

    assert f"schema-{found.schema_version}-" in package.name
    assert found.manifest == read_manifest(package)
    assert found.manifest.schema_version == 3
    assert found.manifest.task in ("binary-classification", "regression")


def test_its_graph_runs(package: Path) -> None:
    replay(GraphSession.of_package(package), package)


def test_it_is_ready_to_serve(package: Path) -> None:
    assert Engine(package, read_manifest(package)).replay_golden(package) < 1e-3


def test_its_reference_is_read(package: Path) -> None:
    reference = read_reference(package)
    signature = read_manifest(package).signature
    columns = [spec.name for spec in (*signature.inputs, *signature.outputs)]

    assert reference.column_names == [*columns, "label"]
    assert reference.equals(pq.read_table(package / "reference.parquet"))


def test_it_can_be_optimized(package: Path) -> None:
    manifest = read_manifest(package)

    built = variant_builder("graph-optimized").build(package, manifest.runtime)

    replay(GraphSession.of_graph(built.graph, built.runtime, manifest), package)


def test_it_is_copied_in_the_newest_schema(package: Path, tmp_path: Path) -> None:
    copy_package(package, tmp_path / "copy", read_manifest(package))

    found = inspect_package(tmp_path / "copy")
    assert found.schema_version == 3
    assert {"bom.cdx.json", "model-card.md"} < found.manifest.files.keys()
    assert _without_files(found.manifest) == _without_files(read_manifest(package))


def test_it_is_registered_as_it_is(package: Path, tmp_path: Path) -> None:
    registry = ModelRegistry(DirectoryStore(tmp_path / "store"))

    version = registry.register(package, reason="kept")

    assert inspect_package(registry.download("golden", version, tmp_path / "copy")) == inspect_package(package)


def test_triton_gets_it(package: Path, tmp_path: Path) -> None:
    write_triton_repository(package, tmp_path / "triton")

    assert (tmp_path / "triton" / "golden" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize("public_key", sorted(path.name for path in FOLDER.glob("*.pub")))
def test_its_signature_holds(public_key: str) -> None:
    package = FOLDER / public_key.removesuffix(".pub")

    assert verify_signature(package, FOLDER / public_key) == read_manifest(package)


def test_its_bill_is_valid(package: Path) -> None:
    bill = package / "bom.cdx.json"
    if inspect_package(package).schema_version == 1:
        assert not bill.exists()
        return
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.read_text()) is None


def test_what_schema_2_says() -> None:
    tabular = verify_package(FOLDER / "schema-2-tabular")

    assert [packed.columns for packed in tabular.packing] == [("distance", "hour", "temp", "wind", "dewp")]
    assert (tabular.variant.name, tabular.variant.precision) == ("int8-dynamic", "int8")
    assert (tabular.source.framework, tabular.tools["skl2onnx"]) == ("scikit-learn", "1.20.0")
    assert [row.status for row in tabular.search] == ["passed", "failed", "not-applicable"]
    assert [row.concurrency for row in tabular.benchmark] == [1, 4]
    assert "## Why this variant" in (FOLDER / "schema-2-tabular" / "model-card.md").read_text()


def test_what_schema_2_could_not_say() -> None:
    earlier = {spec.name: spec.policy for spec in verify_package(FOLDER / "schema-2-tabular").signature.inputs}
    policies = {spec.name: spec.policy for spec in verify_package(FOLDER / "schema-3-policies").signature.inputs}

    assert set(earlier.values()) == {InputPolicy()}
    assert policies == earlier | {
        "carrier": InputPolicy(unknown_category="impute", missing="impute", imputed="UA"),
        "distance": InputPolicy(missing="impute", imputed=500.0),
        "hour": InputPolicy(out_of_range="reject"),
        "temp": InputPolicy(out_of_range="clamp"),
    }
    assert "taken as the nearer end" in (FOLDER / "schema-3-policies" / "model-card.md").read_text()


def test_what_schema_1_could_not_say() -> None:
    baseline = verify_package(FOLDER / "schema-1-baseline")
    reduced = verify_package(FOLDER / "schema-1-int8")

    assert (baseline.task, baseline.variant.precision, reduced.variant.precision) == ("binary-classification", "full", "int8")
    assert baseline.source is None
    assert (baseline.packing, baseline.search, baseline.tools) == ((), (), {})
    assert (reduced.benchmark[0].concurrency, reduced.runtime.execution, reduced.runtime.engine) == (1, "sequential", None)


def _without_files(manifest: Manifest) -> dict[str, object]:
    return {field: getattr(manifest, field) for field in manifest.__struct_fields__ if field != "files"}
