from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest

from tidegate.errors import OptimizationError, PackageError
from tidegate.optimization.build import build_variant_of, read_outcome
from tidegate.optimization.variants import simplicity, variant_builder, variant_names
from tidegate.packaging.golden import read_golden
from tidegate.packaging.inference import PackageModel
from tidegate.packaging.package import read_manifest, verify_package

REDUCED = {"fp16", "int8-dynamic", "int8-static"}


@pytest.mark.parametrize("variant", variant_names())
def test_every_variant_of_the_mlp_answers_close_to_it(candidates, variant: str, tmp_path: Path) -> None:
    baseline = candidates.packages / "mlp"

    outcome = build_variant_of(baseline, f"mlp/{variant}", tmp_path)

    assert outcome.built, outcome.reason
    assert read_outcome(tmp_path) == outcome
    manifest = verify_package(tmp_path / "package")
    difference = np.abs(
        PackageModel(tmp_path / "package").predict(candidates.holdout) - PackageModel(baseline).predict(candidates.holdout)
    ).max()
    assert (manifest.variant.name, manifest.variant.candidate) == (variant, "mlp")
    assert (manifest.variant.precision != "full") is (variant in REDUCED)
    assert manifest.variant.parameters
    if variant in REDUCED:
        assert 1e-7 < difference < 0.05, "reduced precision really changes the numbers"
    else:
        assert difference < 1e-6


@pytest.mark.parametrize(
    ("variant", "operator"),
    [("int8-dynamic", "MatMulInteger"), ("int8-static", "QuantizeLinear")],
)
def test_quantized_graphs_hold_integer_operators(candidates, variant: str, operator: str, tmp_path: Path) -> None:
    build_variant_of(candidates.packages / "mlp", f"mlp/{variant}", tmp_path)

    operators = {node.op_type for node in onnx.load(tmp_path / "package" / "model.onnx").graph.node}
    assert any(found.startswith(operator) or found == "DynamicQuantizeMatMul" for found in operators), operators


@pytest.mark.parametrize("variant", sorted(REDUCED))
def test_trees_have_nothing_to_reduce(candidates, variant: str, tmp_path: Path) -> None:
    outcome = build_variant_of(candidates.packages / "trees", f"trees/{variant}", tmp_path)

    assert outcome.status == "not-applicable"
    assert "tree ensemble" in outcome.reason
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


def test_golden_and_reference_of_a_variant_are_its_own_answers(candidates, tmp_path: Path) -> None:
    build_variant_of(candidates.packages / "mlp", "mlp/int8-dynamic", tmp_path)

    model = PackageModel(tmp_path / "package")
    golden = read_golden(tmp_path / "package" / "golden.npz")
    reference = pq.read_table(tmp_path / "package" / "reference.parquet")
    np.testing.assert_allclose(model.outputs_of(golden.inputs)["probability"], golden.outputs["probability"], atol=1e-6)
    np.testing.assert_allclose(model.predict(reference), reference["probability"].to_numpy(), atol=1e-6)
    assert reference["label"].equals(pq.read_table(candidates.packages / "mlp" / "reference.parquet")["label"])


def test_a_builder_that_raises_loses_its_variant_only(candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = type(variant_builder("fp16"))
    monkeypatch.setattr(builder, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("the converter\nbroke")))

    outcome = build_variant_of(candidates.packages / "mlp", "mlp/fp16", tmp_path)

    assert outcome.status == "failed"
    assert outcome.reason == "RuntimeError: the converter broke"
    assert not (tmp_path / "package").exists()


def test_building_again_changes_nothing(candidates, tmp_path: Path) -> None:
    build_variant_of(candidates.packages / "mlp", "mlp/fp16", tmp_path)
    first = read_manifest(tmp_path / "package")

    build_variant_of(candidates.packages / "mlp", "mlp/fp16", tmp_path)

    assert read_manifest(tmp_path / "package").files == first.files


def test_a_corrupted_baseline_is_refused(candidates, tmp_path: Path) -> None:
    import shutil

    package = shutil.copytree(candidates.packages / "mlp", tmp_path / "mlp")
    (package / "model.onnx").write_bytes(b"")

    with pytest.raises(PackageError, match=r"model\.onnx has 0 bytes"):
        build_variant_of(package, "mlp/fp16", tmp_path / "out")


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptimizationError, match="'fp8' is unknown; allowed: graph-optimized, fp16, int8-dynamic, int8-static"):
        variant_builder("fp8")


def test_the_baseline_is_the_simplest() -> None:
    assert [simplicity(name) for name in ("baseline", *variant_names())] == [0, 10, 30, 40, 50]
