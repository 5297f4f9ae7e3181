"""Every CPU variant on every kind of model: whether it applies, and that its answers lie within its precision's tolerance."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest

from tidegate.optimization.gates.output_size import output_size
from tidegate.optimization.variants import simplicity, variant_builder, variant_names
from tidegate.optimization.variants.builder import NotApplicable
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME, Precision
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession
from tidegate.project import ParityGate

KINDS = ("mlp", "trees", "dense", "convolutions", "transformer", "recurrent", "overflowing", "branching", "columns")
IS_FP16 = {kind: "that is variant fp16" for kind in KINDS if kind not in ("trees", "overflowing")}
NO_TREES = {"trees": "it is a tree ensemble"}
NO_CLASS_1 = dict.fromkeys(KINDS[2:], "no probability of class 1 is taken")
NO_UNITS = dict.fromkeys(("convolutions", "recurrent", "branching"), "no dense layer's units")
NO_ATTENTION = dict.fromkeys(KINDS, "there is no attention in it") | {"transformer": "no self-attention is recognized"}
ONE_PATH = dict.fromkeys(("dense", "convolutions", "recurrent", "overflowing", "branching", "columns"), "no branches")
AS_EXPORTED = dict.fromkeys(("dense", "transformer", "recurrent", "overflowing", "branching"), "nothing to simplify")

# Why a variant does not apply to a kind of model; to all others it does.
REFUSALS: dict[str, dict[str, str]] = {
    "graph-basic": dict.fromkeys(("mlp", "trees", "recurrent", "branching"), "nothing to fuse"),
    "graph-optimized": {},
    "one-score": NO_CLASS_1,
    "attention-fused": NO_ATTENTION,
    "simplified": AS_EXPORTED,
    "threads-2": {},
    "parallel": ONE_PATH,
    "fp16": NO_TREES,
    "mixed-precision": NO_TREES | IS_FP16,
    "int8-dynamic": NO_TREES,
    "int8-static-minmax": NO_TREES,
    "int8-static-entropy": NO_TREES,
    "int8-static-percentile": NO_TREES,
    "pruned-units": NO_TREES | NO_UNITS,
    "pruned": NO_TREES,
    "pruned-50": NO_TREES,
    "pruned-70": NO_TREES,
}
# Weights are clipped, or go whatever that costs: the gates judge it.
UNBOUNDED = {("fp16", "overflowing")} | {(name, kind) for name in ("pruned-50", "pruned-70") for kind in KINDS}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and branches apply on a machine with two cores, whatever this one has."""
    for module in ("threads", "parallel"):
        monkeypatch.setattr(f"tidegate.optimization.variants.{module}.cores", lambda: 2)


def tolerance(precision: Precision) -> tuple[float, float]:
    found = getattr(ParityGate(), precision)
    return found.max_absolute, found.max_relative


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", REFUSALS)
def test_a_variant_applies_and_holds_or_says_why_not(package: Callable[[str], Path], variant: str, kind: str) -> None:
    baseline, builder = package(kind), variant_builder(variant)
    manifest, golden = read_manifest(baseline), read_golden(baseline / GOLDEN_NAME)
    before = sha256((baseline / MODEL_NAME).read_bytes()).hexdigest()

    reason = builder.applies(onnx.load(baseline / MODEL_NAME))
    built = None
    if reason is None:
        try:
            built = builder.build(baseline, manifest.runtime)
        except NotApplicable as refusal:
            reason = str(refusal)

    assert sha256((baseline / MODEL_NAME).read_bytes()).hexdigest() == before
    if kind in REFUSALS[variant]:
        assert built is None
        assert REFUSALS[variant][kind] in (reason or "")
        return
    assert built is not None, reason
    assert "\n" not in built.note
    outputs = GraphSession.of_graph(built.graph, built.runtime, manifest).run(golden.inputs)
    assert outputs.keys() == golden.outputs.keys()
    absolute, relative = tolerance(builder.precision)
    for name, expected in golden.outputs.items():
        assert outputs[name].shape == expected.shape
        assert outputs[name].dtype == expected.dtype
        difference = (np.abs(outputs[name] - expected) - relative * np.abs(expected)) / output_size(
            name, expected, manifest.task
        )
        if (variant, kind) in UNBOUNDED:
            assert not np.array_equal(outputs[name], expected)
        else:
            assert difference.max() <= absolute


@pytest.mark.parametrize("variant", [name for name in REFUSALS if name not in ("threads-2", "parallel")])
def test_the_same_package_gives_the_same_graph(package: Callable[[str], Path], variant: str) -> None:
    baseline, builder = package("trees" if variant == "one-score" else "overflowing"), variant_builder(variant)
    if variant in ("simplified", "attention-fused"):
        baseline = package("convolutions" if variant == "simplified" else "attention")
    runtime = read_manifest(baseline).runtime

    assert builder.build(baseline, runtime) == builder.build(baseline, runtime)


def test_columns_are_fed_packed(package: Callable[[str], Path]) -> None:
    assert [len(part.columns) for part in read_manifest(package("columns")).packing] == [16]


def test_all_are_found_by_name_simplest_first() -> None:
    names = variant_names()

    assert [name for name in names if not name.startswith("threads-")] == [name for name in REFUSALS if name != "threads-2"]
    assert [simplicity(name) for name in ("baseline", *names)] == sorted(simplicity(name) for name in ("baseline", *names))
    assert all(variant_builder(name).precision in ("full", "half", "int8", "pruned") for name in names)


def test_parameters_are_scalars_and_differ_between_settings() -> None:
    recorded = {name: variant_builder(name).parameters for name in variant_names()}

    for parameters in recorded.values():
        assert all(isinstance(value, bool | int | float | str) for value in parameters.values())
    assert recorded["int8-static-entropy"]["calibration"] == "entropy"
    assert recorded["threads-4"] == {"threads": 4}
