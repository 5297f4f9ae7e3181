"""Building one variant: what is written, and how a build ends that does not succeed."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tidegate.errors import OptimizationError
from tidegate.optimization.search.build import Builder, build_variant_of, read_outcome
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import NotApplicable
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.package import read_manifest, verify_package
from tidegate.packaging.running.inference import PackageModel


def test_a_variant_is_a_package_with_its_parameters(candidates, tmp_path: Path) -> None:
    baseline = candidates.packages / "mlp"

    outcome = build_variant_of(baseline, "mlp/int8-static-entropy", tmp_path)

    assert outcome.built, outcome.reason
    assert read_outcome(tmp_path) == outcome
    assert "of 3 layers in 8 bits" in outcome.note
    assert outcome.seconds > 0
    variant = verify_package(tmp_path / "package").variant
    assert (variant.name, variant.candidate, variant.precision) == ("int8-static-entropy", "mlp", "int8")
    assert variant.parameters["calibration"] == "entropy"
    difference = np.abs(
        PackageModel(tmp_path / "package").predict(candidates.holdout) - PackageModel(baseline).predict(candidates.holdout)
    )
    assert 1e-7 < difference.max() < 0.1, "reduced precision really changes the numbers"


def test_what_building_chose_is_recorded_beside_the_builders_parameters(candidates, tmp_path: Path) -> None:
    Builder(candidates.packages / "mlp", "mlp/pruned", tmp_path).build()

    parameters = read_manifest(tmp_path / "package").variant.parameters
    assert parameters["most_percent"] == 90
    assert 0 < parameters["percent"] < 90
    assert parameters["sparsity"] == pytest.approx(parameters["percent"] / 100, abs=0.01)


@pytest.mark.parametrize("variant", ["fp16", "mixed-precision", "int8-dynamic", "int8-static-minmax", "pruned", "pruned-units"])
def test_trees_have_nothing_to_reduce(candidates, variant: str, tmp_path: Path) -> None:
    outcome = build_variant_of(candidates.packages / "trees", f"trees/{variant}", tmp_path)

    assert outcome.status == "not-applicable"
    assert "it is a tree ensemble" in outcome.reason
    assert [path.name for path in tmp_path.iterdir()] == ["outcome.json"]


def test_golden_and_reference_of_a_variant_are_its_own_answers(candidates, tmp_path: Path) -> None:
    Builder(candidates.packages / "mlp", "mlp/int8-dynamic", tmp_path).build()

    model = PackageModel(tmp_path / "package")
    golden = read_golden(tmp_path / "package" / "golden.npz")
    reference = pq.read_table(tmp_path / "package" / "reference.parquet")
    np.testing.assert_allclose(model.outputs_of(golden.inputs)["probability"], golden.outputs["probability"], atol=1e-6)
    np.testing.assert_allclose(model.predict(reference), reference["probability"].to_numpy(), atol=1e-6)
    assert reference["label"].equals(pq.read_table(candidates.packages / "mlp" / "reference.parquet")["label"])


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        pytest.param(RuntimeError("the converter\nbroke"), "failed", "RuntimeError: the converter broke", id="broken"),
        pytest.param(NotApplicable("that is variant fp16"), "not-applicable", "that is variant fp16", id="nothing to do"),
    ],
)
def test_a_builder_that_raises_loses_its_variant_only(
    candidates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, reason: str
) -> None:
    monkeypatch.setattr(type(variant_builder("fp16")), "build", lambda *_: (_ for _ in ()).throw(error))

    outcome = Builder(candidates.packages / "mlp", "mlp/fp16", tmp_path).build()

    assert (outcome.status, outcome.reason) == (status, reason)
    assert not (tmp_path / "package").exists()


def test_building_again_changes_nothing(candidates, tmp_path: Path) -> None:
    Builder(candidates.packages / "mlp", "mlp/fp16", tmp_path).build()
    first = read_manifest(tmp_path / "package")

    Builder(candidates.packages / "mlp", "mlp/fp16", tmp_path).build()

    assert read_manifest(tmp_path / "package").files == first.files


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptimizationError, match=r"'fp8' is unknown; allowed: .*graph-optimized, .*fp16, .*int8-static-minmax"):
        variant_builder("fp8")
