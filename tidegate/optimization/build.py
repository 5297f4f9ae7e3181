"""Builds one variant of one package. As a program, it does so in a process of its own, so that a crash loses that variant only.

python -m tidegate.optimization.build PACKAGE CANDIDATE/VARIANT OUT
"""

import sys
import time
from pathlib import Path

import msgspec
import onnx
import pyarrow as pa
import pyarrow.parquet as pq

from tidegate.errors import TidegateError
from tidegate.optimization.records import OUTCOME_NAME, PACKAGE_FOLDER, BuildOutcome, write_record
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import BuiltGraph, VariantBuilder
from tidegate.packaging.golden import Golden, read_golden
from tidegate.packaging.inputs import input_arrays, tensor_column
from tidegate.packaging.manifest import GOLDEN_NAME, MODEL_NAME, REFERENCE_NAME, Manifest, Variant
from tidegate.packaging.package import verify_package, write_package
from tidegate.packaging.session import GraphSession


def build_variant_of(package: Path, name: str, out: Path) -> BuildOutcome:
    """Build the variant `name` ("candidate/variant") of the baseline package at `package`.

    Writes `out/package/` if it could be built, and `out/outcome.json` last. The golden outputs and the reference's
    probabilities of the new package are the variant's own: a server replays what this variant answers.

    Raises:
        PackageError: The baseline package is corrupted.
        OptimizationError: There is no such variant.
    """
    started = time.perf_counter()
    manifest = verify_package(package)
    builder = variant_builder(name.rpartition("/")[2])
    out.mkdir(parents=True, exist_ok=True)
    reason = builder.applies(onnx.load(package / MODEL_NAME))
    if reason is not None:
        return _write_outcome(out, BuildOutcome(name=name, status="not-applicable", reason=reason))
    try:
        note = _write_variant(builder, manifest, package, out / PACKAGE_FOLDER)
    except Exception as error:  # the converters raise whatever their parts raise: the variant is lost, not the search
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        return _write_outcome(out, BuildOutcome(name=name, status="failed", reason=reason))
    return _write_outcome(out, BuildOutcome(name=name, status="built", note=note, seconds=time.perf_counter() - started))


def read_outcome(out: Path) -> BuildOutcome:
    """Read `outcome.json` in a directory that `build_variant_of` wrote."""
    return msgspec.json.decode((out / OUTCOME_NAME).read_bytes(), type=BuildOutcome)


def _write_variant(builder: VariantBuilder, baseline: Manifest, package: Path, to: Path) -> str:
    built = builder.build(package, baseline.runtime)
    manifest = msgspec.structs.replace(
        baseline,
        variant=Variant(
            name=builder.name,
            candidate=baseline.variant.candidate,
            precision=builder.precision,
            parameters=builder.parameters,
        ),
        runtime=built.runtime,
    )
    golden, reference = _own_answers(built, baseline, package)
    write_package(to, manifest, model=built.graph, golden=golden, reference=reference, files=built.files)
    return built.note


def _own_answers(built: BuiltGraph, baseline: Manifest, package: Path) -> tuple[Golden, pa.Table]:
    graph = GraphSession.of_graph(built.graph, built.runtime, baseline)
    golden = read_golden(package / GOLDEN_NAME)
    reference = pq.read_table(package / REFERENCE_NAME)
    for name, array in graph.run(input_arrays(reference, baseline.signature.inputs)).items():
        reference = reference.set_column(reference.column_names.index(name), name, tensor_column(array))
    return Golden(golden.inputs, graph.run(golden.inputs)), reference


def _write_outcome(out: Path, outcome: BuildOutcome) -> BuildOutcome:
    write_record(out / OUTCOME_NAME, outcome)
    return outcome


if __name__ == "__main__":
    try:
        build_variant_of(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    except TidegateError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from None
