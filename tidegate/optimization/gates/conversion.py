"""The proof that a fresh package answers as its source model does: on the golden sample, and at other lengths of its axes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tidegate.errors import OptimizationError, PackageError
from tidegate.optimization.gates.parity import judge_parity, measure_parity, replay_golden
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import GOLDEN_NAME, Manifest, TensorSpec, Verdict
from tidegate.packaging.format.package import read_manifest
from tidegate.packaging.running.session import GraphSession
from tidegate.packaging.sources.source import Array, Source
from tidegate.project import ParityGate

_SUBJECT = "model/baseline"
_ROWS_CUT = 8  # golden rows that are replayed at each other length


def prove_conversion(package: Path, source: Source) -> tuple[Verdict, ...]:
    """Return the parity gate's verdicts on a package's graph against the source that it was made from.

    Axes of varying length are also tried at the least length the signature says and at half of the sample's.

    Raises:
        PackageError: The graph fails, or lies outside the tolerances of full precision; the message names output and numbers.
    """
    manifest = read_manifest(package)
    golden = read_golden(package / GOLDEN_NAME)
    run = GraphSession.of_package(package, manifest).run
    gate = ParityGate()
    verdicts: list[Verdict] = []
    for words, sample in _samples(golden, manifest.signature.inputs, source):
        try:
            replay = replay_golden(run, sample)
        except OptimizationError as error:
            raise PackageError(f"{_converted(manifest)}{words}: {error}; {_WAY_OUT}") from error
        parity = measure_parity(sample, replay, gate, "full", task=manifest.task, threshold=manifest.threshold)
        judged = judge_parity(_SUBJECT, parity, gate, "full", sample.rows)
        for verdict in judged:
            if not verdict.passed:
                value = "not a number" if verdict.value is None else f"{verdict.value:.4g}"
                raise PackageError(
                    f"{_converted(manifest)}{words}: it does not agree with the source model: {verdict.measure} is {value}, "
                    f"the bound is {verdict.bound:g} ({verdict.note}); {_WAY_OUT}"
                )
        verdicts.extend(judged if not words else ())
    return tuple(verdicts)


_WAY_OUT = "nothing was written; change what the converter gets wrong, or convert the model yourself and give the .onnx"


def _converted(manifest: Manifest) -> str:
    made = manifest.source
    return f"the graph made of {made.kind} ({made.framework} {made.version})" if made else "the graph"


def _samples(golden: Golden, inputs: Sequence[TensorSpec], source: Source) -> Iterator[tuple[str, Golden]]:
    """The golden sample itself, and its first rows cut to other lengths, as far as the source model takes them."""
    yield "", golden
    for length in _other_lengths(inputs):
        cut = {spec.name: _cut(golden.inputs[spec.name][:_ROWS_CUT], spec, length) for spec in inputs}
        expected = _answer(source, cut)
        if expected is not None:
            yield f" at length {length} of its varying axes", Golden(cut, expected)


def _other_lengths(inputs: Sequence[TensorSpec]) -> list[int]:
    least = max((low for low, high in _varying(inputs)), default=1)
    greatest = max((high for _, high in _varying(inputs)), default=1)
    return sorted({least, max(least, greatest // 2)} - {greatest})


def _varying(inputs: Sequence[TensorSpec]) -> Iterator[tuple[int, int]]:
    for spec in inputs:
        yield from (ends for size, ends in zip(spec.shape[1:], spec.sizes, strict=False) if size == -1)


def _cut(array: Array, spec: TensorSpec, length: int) -> Array:
    cuts = tuple(slice(length) if size == -1 else slice(None) for size in spec.shape[1:])
    return array[(slice(None), *cuts)]


def _answer(source: Source, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    try:
        return source.predict(inputs)
    except PackageError:  # a model may well take some lengths only
        return None
