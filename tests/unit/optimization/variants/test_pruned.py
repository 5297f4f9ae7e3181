"""The pruned variants: as much goes as the answers allow, and what went is recorded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.unit.optimization.variants import models
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable
from tidegate.packaging.format.package import read_manifest

Package = Callable[[str], Path]


def build(name: str, package: Path, **changes: float) -> BuiltGraph:
    return replace(variant_builder(name), **changes).build(package, read_manifest(package).runtime)


def weights(graph: bytes) -> list[np.ndarray]:
    return [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(graph).graph.initializer]


def test_more_tolerance_prunes_more(package: Package) -> None:
    found = [build("pruned", package("dense"), max_absolute=bound, max_relative=0).parameters for bound in (0.01, 0.05, 0.2)]

    percents = [parameters["percent"] for parameters in found]
    assert 0 < percents[0] < percents[1] < percents[2] < 90
    for parameters in found:
        assert parameters["sparsity"] == pytest.approx(parameters["percent"] / 100, abs=0.02)


def test_the_zeros_are_those_that_are_told(package: Package) -> None:
    built = build("pruned", package("dense"))

    zeros = sum(int((array == 0).sum()) for array in weights(built.graph) if array.ndim == 2)
    assert built.note.startswith(f"{zeros} of 576 weights in 3 layers are zero (")
    assert built.parameters["sparsity"] == zeros / 576


@pytest.mark.parametrize(("variant", "zeros"), [("pruned-50", 288), ("pruned-70", 401)])
def test_a_fixed_percentage_goes_whatever_it_costs(package: Package, variant: str, zeros: int) -> None:
    built = build(variant, package("dense"), max_absolute=0, max_relative=0)

    assert built.parameters["percent"] == int(variant.removeprefix("pruned-"))
    assert built.parameters["sparsity"] == zeros / 576


def test_never_more_than_the_most_goes(package: Package) -> None:
    assert build("pruned", package("dense"), max_absolute=9, most_percent=37).parameters["percent"] == 37


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        pytest.param("pruned", "not even one percent of its weights can go", id="weights"),
        pytest.param("pruned-units", "without 15 % of its hidden units the answers change too much", id="units"),
    ],
)
def test_where_all_are_needed_there_is_no_variant(package: Package, variant: str, reason: str) -> None:
    with pytest.raises(NotApplicable, match=reason):
        build(variant, package("dense"), max_absolute=0, max_relative=0)


def test_weights_that_are_computed_cannot_be_pruned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = models.graph_of(
        "g (float[n, 6] x) => (float[n, 6] y) { w = Neg(v)  y = MatMul(x, w) }", {"v": models.floats(rng, 6, 6)}
    )

    with pytest.raises(NotApplicable, match="no layer's weights are constants of the graph"):
        build("pruned", models.write_model(model, models.rows_of(rng, 6), tmp_path / "package"))


def test_twins_are_removed_and_matrices_get_smaller(package: Package) -> None:
    built = build("pruned-units", package("columns"), max_absolute=0.01, max_relative=0.01)

    assert built.parameters == {"removed": 5}, "45 percent of 12; the twin of each of six could go"
    assert built.note == "5 of 12 units in 1 hidden layers are removed"
    assert sorted(array.shape for array in weights(built.graph)) == [(7,), (7, 2), (16, 7)]
