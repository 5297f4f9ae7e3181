"""Builds one variant of one package, in a process of its own: a crash, a hang or too much memory loses that variant only."""

import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

import msgspec
import onnx
import pyarrow as pa

from tidegate.optimization.isolation.nursery import describe_error
from tidegate.optimization.isolation.workers import Limits, WorkerLost, Workers
from tidegate.optimization.records import OUTCOME_NAME, PACKAGE_FOLDER, BuildOutcome, variant_of, write_record
from tidegate.optimization.variants import variant_builder
from tidegate.optimization.variants.builder import BuiltGraph, NotApplicable, VariantBuilder
from tidegate.packaging.format.bill import installed_tools
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, MODEL_NAME, Manifest, Variant
from tidegate.packaging.format.package import read_manifest, write_package
from tidegate.packaging.format.reference import read_reference
from tidegate.packaging.inputs import input_arrays, tensor_column
from tidegate.packaging.running.inference import run_in_chunks
from tidegate.packaging.running.session import GraphSession

BUILDER = "tidegate.optimization.search.build:Builder"


def build_variant_of(
    package: Path,
    name: str,
    out: Path,
    *,
    refused: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    workers: Workers | None = None,
) -> BuildOutcome:
    """Build the variant `name` ("candidate/variant") of the baseline package at `package`.

    Writes `out/package/` if it could be built, and `out/outcome.json` last; what lay in `out` before is replaced. The golden
    outputs and the reference's outputs of the new package are the variant's own: a server replays what this variant answers.

    Args:
        package: The baseline package, verified.
        name: "candidate/variant".
        out: Directory for the outcome.
        refused: What `reasons_against` says of the package's variants, if it was asked already.
        limits: Of the building process; those of this machine by default.
        workers: Start the process; new ones by default.

    Raises:
        PackageError: There is no package.
        OptimizationError: There is no such variant, or no process could be started.
    """
    variant = variant_of(name)
    reason = (reasons_against(package, [variant]) if refused is None else refused).get(variant)
    if reason is not None:
        return keep_outcome(out, BuildOutcome(name=name, status="not-applicable", reason=reason))
    with Workers() if workers is None else nullcontext(workers) as nursery:
        worker = nursery.start(BUILDER, package, name, out, limits=limits or Limits.of_this_machine())
        with worker:
            try:
                outcome: BuildOutcome = worker.call("build")
            except WorkerLost as lost:
                outcome = BuildOutcome(name=name, status="failed", reason=f"building it {lost}")
    return keep_outcome(out, outcome)


def reasons_against(package: Path, variants: Iterable[str]) -> dict[str, str]:
    """Return why each of the variants does not apply to the package here, but for those that do; in this process."""
    graph = onnx.load(package / MODEL_NAME)
    reasons = {variant: variant_builder(variant).applies(graph) for variant in variants}
    return {variant: reason for variant, reason in reasons.items() if reason is not None}


def keep_outcome(out: Path, outcome: BuildOutcome) -> BuildOutcome:
    """Write `outcome.json`, which says that the build is over; without a package nothing else is left in `out`."""
    if not outcome.built:
        shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    write_record(out / OUTCOME_NAME, outcome)
    return outcome


def read_outcome(out: Path) -> BuildOutcome:
    """Read `outcome.json` in a directory that `build_variant_of` wrote."""
    return msgspec.json.decode((out / OUTCOME_NAME).read_bytes(), type=BuildOutcome)


class Builder:
    """Builds one variant; lives in a worker."""

    def __init__(self, package: Path, name: str, out: Path) -> None:
        """Prepare to build `name` of the baseline at `package` as `out/package/`."""
        self._package = package
        self._name = name
        self._to = out / PACKAGE_FOLDER

    def build(self) -> BuildOutcome:
        """Build it and say how that ended."""
        started = time.perf_counter()
        shutil.rmtree(self._to.parent, ignore_errors=True)
        self._to.parent.mkdir(parents=True)
        builder = variant_builder(variant_of(self._name))
        try:
            note = _write_variant(builder, self._name, read_manifest(self._package), self._package, self._to)
        except NotApplicable as refusal:
            return BuildOutcome(name=self._name, status="not-applicable", reason=str(refusal))
        except Exception as error:  # the converters raise whatever their parts raise: the variant is lost, not the search
            return BuildOutcome(name=self._name, status="failed", reason=describe_error(error))
        return BuildOutcome(name=self._name, status="built", note=note, seconds=time.perf_counter() - started)


def _write_variant(builder: VariantBuilder, name: str, baseline: Manifest, package: Path, to: Path) -> str:
    built = builder.build(package, baseline.runtime)
    variant = Variant(
        name=variant_of(name),
        candidate=baseline.variant.candidate,
        precision=builder.precision,
        parameters={**builder.parameters, **built.parameters},
    )
    tools = {**baseline.tools, **installed_tools(*builder.tools)}
    manifest = msgspec.structs.replace(baseline, variant=variant, runtime=built.runtime, tools=tools)
    golden, reference = _own_answers(built, baseline, package)
    write_package(to, manifest, model=built.graph, golden=golden, reference=reference, files=built.files)
    return built.note


def _own_answers(built: BuiltGraph, baseline: Manifest, package: Path) -> tuple[Golden, pa.Table]:
    graph = GraphSession.of_graph(built.graph, built.runtime, baseline)
    golden = read_golden(package / GOLDEN_NAME)
    reference = read_reference(package)
    for name, array in run_in_chunks(graph, input_arrays(reference, baseline.signature.inputs)).items():
        reference = reference.set_column(reference.column_names.index(name), name, tensor_column(array))
    return Golden(golden.inputs, run_in_chunks(graph, golden.inputs)), reference
