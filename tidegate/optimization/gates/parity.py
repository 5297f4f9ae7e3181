"""The parity gate: how far a graph's outputs lie from the source model's own on the golden sample.

replay = replay_golden(session.run, golden)                       # where the graph can crash: in the variant's own process
parity = measure_parity(golden, replay, gate, "int8", task=manifest.task, threshold=manifest.threshold)
judge_parity("mlp/int8-dynamic", parity, gate, "int8", golden.rows)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.errors import OptimizationError, in_one_line
from tidegate.optimization.gates.distance import error_between, kind_of, rows_that_change_class, rows_that_differ
from tidegate.optimization.gates.output_size import output_size
from tidegate.optimization.records import OutputParity
from tidegate.packaging.format.golden import Golden
from tidegate.packaging.format.manifest import SCORE_OUTPUTS, Precision, Task, Verdict
from tidegate.project import ParityGate, Tolerance

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_ROWS_ALONE = 32
_ODD_BATCHES = (3, 7, 17)
_BATCH_BYTES = 64 * 1024 * 1024  # of inputs; what a graph computes from them can be many times as much


@dataclass(frozen=True, slots=True)
class Replay:
    """What a graph answered to golden rows, whole, alone and in odd batches.

    Attributes:
        rows: Which golden row each answer is to, shape [answers].
        batches: How many rows the batch had that the answer was part of, shape [answers].
        outputs: By name, shape [answers, …].
        misfits: Outputs that are no rows of one shape, by name, with what is wrong in words.
    """

    rows: NDArray[np.int64]
    batches: NDArray[np.int64]
    outputs: dict[str, Array]
    misfits: dict[str, str] = field(default_factory=dict)


def replay_golden(run: Run, golden: Golden) -> Replay:
    """Run a graph on the golden rows: all in one batch, up to 32 each alone, and in batches of 3, 7 and 17.

    All rows in one batch means chunks of at most 64 MiB of inputs, where they are more. The rows that are run again lie spread
    over the whole sample, since its real rows come first and its edges last.

    Args:
        run: Takes inputs in the signature's shapes and returns outputs, by name.
        golden: The source model's inputs and outputs.

    Raises:
        OptimizationError: The sample is empty, or the graph fails on a batch; the message says how many rows it had.
    """
    if golden.rows == 0:
        raise OptimizationError("the golden sample holds no rows; package again")
    batches = list(_batches(golden))
    answers = [_answer(run, golden, rows) for rows in batches]
    outputs: dict[str, Array] = {}
    misfits: dict[str, str] = {}
    for name in answers[0]:
        parts = [np.asarray(answer[name]) for answer in answers]
        misfit = _misfit(parts, batches)
        if misfit:
            misfits[name] = misfit
        else:
            outputs[name] = np.concatenate(parts)
    sizes = np.concatenate([np.full(len(rows), len(rows)) for rows in batches])
    return Replay(np.concatenate(batches), sizes, outputs, misfits)


def measure_parity(
    golden: Golden, replay: Replay, gate: ParityGate, precision: Precision, *, task: Task, threshold: float | None
) -> tuple[OutputParity, ...]:
    """Compare every output with the source model's, element by element.

    The error of a number is held to `max_absolute * size + max_relative * |expected|`, so a zero has a tolerance too; the size
    is the output's (see `output_size`), of a probability 1. A NaN or infinity on one side only is infinitely far. Integers,
    booleans and text are equal or not.

    Args:
        golden: The source model's inputs and outputs.
        replay: The graph's answers to them.
        gate: The tolerances.
        precision: Of the variant, or what `held_to` made of it.
        task: Says which output is a classification's score, whose class can change.
        threshold: Of a binary classification; None means 0.5.

    Raises:
        OptimizationError: `gate.outputs` names an output that the model does not have.
    """
    for name in gate.outputs:
        if name not in golden.outputs:
            raise OptimizationError(f"gates.parity.outputs.{name}: no such output; the model has {', '.join(golden.outputs)}")
    return tuple(
        _compare(
            name,
            expected[replay.rows],
            output_size(name, expected, task) if kind_of(expected) == "floating-point numbers" else np.ones(()),
            replay,
            gate.tolerance(name, precision),
            task,
            0.5 if threshold is None else threshold,
        )
        for name, expected in golden.outputs.items()
    )


def held_to(precision: Precision, *, accuracy_is_judged: bool) -> Precision:
    """Return the precision whose tolerances a variant is held to.

    The wide ones for pruned weights rest on the accuracy gate. Where that has no labels to judge by, parity alone protects
    users, and a pruned model must answer as closely as one of 8-bit integers.
    """
    return "int8" if precision == "pruned" and not accuracy_is_judged else precision


def judge_parity(
    name: str, parity: Sequence[OutputParity], gate: ParityGate, precision: Precision, rows: int
) -> tuple[Verdict, ...]:
    """Hold a parity to the tolerances of its precision: up to two verdicts an output, on its error and on changed classes.

    Args:
        name: What is judged, "candidate/variant".
        parity: What `measure_parity` found under the same gate and precision.
        gate: The tolerances.
        precision: Of the variant, or what `held_to` made of it.
        rows: How many the golden sample holds, for the notes.
    """

    def verdict(measure: str, value: float | None, bound: float, note: str) -> Verdict:
        passed = value is not None and value <= bound
        said = "; ".join(part for part in (note, f"{rows} golden rows, {precision} precision") if part)
        return Verdict(gate="parity", subject=name, measure=measure, value=value, bound=bound, passed=passed, note=said)

    verdicts = []
    for output in parity:
        allowed = gate.tolerance(output.output, precision)
        if output.differing is not None:
            measure, bound = f"share of rows whose {output.output} differs", gate.differing(output.output, precision)
            verdicts.append(verdict(measure, output.differing, bound, output.worst))
            continue
        measure = f"largest error of {output.output} as a share of what is allowed"
        verdicts.append(verdict(measure, output.of_tolerance, 1.0, output.problem or _error_in_words(output, allowed)))
        if output.flip_rate is not None:
            measure = f"share of rows whose class changes by {output.output}"
            verdicts.append(verdict(measure, output.flip_rate, allowed.max_flip_rate, ""))
    return tuple(verdicts)


def _batches(golden: Golden) -> Iterator[NDArray[np.int64]]:
    size = max(1, _BATCH_BYTES * golden.rows // max(1, sum(array.nbytes for array in golden.inputs.values())))
    everything = np.arange(golden.rows)
    yield from (everything[start : start + size] for start in range(0, golden.rows, size))
    yield from (row.reshape(1) for row in _spread(golden.rows, min(_ROWS_ALONE, golden.rows)))
    yield from (_spread(golden.rows, size) for size in _ODD_BATCHES)


def _spread(rows: int, count: int) -> NDArray[np.int64]:
    """Return `count` row numbers from the first to the last, rows repeated where there are fewer."""
    return np.linspace(0, rows - 1, num=count).round().astype(np.int64)


def _answer(run: Run, golden: Golden, rows: NDArray[np.int64]) -> Mapping[str, Array]:
    try:
        return run({name: array[rows] for name, array in golden.inputs.items()})
    except Exception as error:  # ONNX Runtime raises its own kinds of errors
        raise OptimizationError(f"the graph fails on a batch of {_counted(len(rows))}: {in_one_line(error)}") from error


def _misfit(parts: Sequence[Array], batches: Sequence[NDArray[np.int64]]) -> str:
    first = parts[0]
    for part, rows in zip(parts, batches, strict=True):
        if part.ndim == 0 or len(part) != len(rows):
            return f"a batch of {_counted(len(rows))} gives shape {list(part.shape)}, which is not one answer a row"
        if part.shape[1:] != first.shape[1:]:
            return (
                f"a batch of {_counted(len(rows))} gives shape {list(part.shape[1:])} a row, "
                f"one of {len(batches[0])} gives {list(first.shape[1:])}"
            )
    return ""


def _compare(
    name: str, expected: Array, size: Array, replay: Replay, allowed: Tolerance, task: Task, threshold: float
) -> OutputParity:
    problem = _problem(name, expected, replay)
    if problem:
        return OutputParity(output=name, max_absolute=None, max_relative=None, of_tolerance=None, problem=problem)
    found = replay.outputs[name]
    if kind_of(expected) != "floating-point numbers":
        return _compare_exactly(name, expected, found, replay)
    error = error_between(expected, found, absolute=allowed.max_absolute * size, relative=allowed.max_relative)
    changed = rows_that_change_class(expected, found, task, threshold) if SCORE_OUTPUTS.get(task) == name else None
    return OutputParity(
        output=name,
        max_absolute=error.absolute,
        max_relative=error.relative,
        of_tolerance=error.of_tolerance,
        flip_rate=None if changed is None else float(changed.mean()),
        worst="" if error.element is None else _in_words(expected, found, replay, error.element),
        size=float(np.broadcast_to(size, expected.shape).flat[error.element or 0]) if expected.size else 1.0,
    )


def _compare_exactly(name: str, expected: Array, found: Array, replay: Replay) -> OutputParity:
    differs = rows_that_differ(expected, found)
    worst = _in_words(expected, found, replay, int((found != expected).argmax())) if differs.any() else ""
    return OutputParity(
        output=name,
        max_absolute=None,
        max_relative=None,
        of_tolerance=None,
        differing=float(differs.mean()),
        worst=worst,
    )


def _problem(name: str, expected: Array, replay: Replay) -> str:
    if name not in replay.outputs:
        return replay.misfits.get(name, "the graph has no such output")
    found = replay.outputs[name]
    if found.shape != expected.shape:
        return f"shape {list(found.shape[1:])} a row where the source model gives {list(expected.shape[1:])}"
    if kind_of(found) != kind_of(expected):
        return f"{kind_of(found)} where the source model gives {kind_of(expected)}"
    return ""


def _in_words(expected: Array, found: Array, replay: Replay, element: int) -> str:
    answer = element // (expected.size // len(expected))
    row, batch = int(replay.rows[answer]), int(replay.batches[answer])
    given, wanted = found.reshape(-1)[element], expected.reshape(-1)[element]
    return f"golden row {row} in a batch of {batch}: {_shown(given)} where the source model gives {_shown(wanted)}"


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return repr(str(value))[:80] if isinstance(value, str) else str(value)


def _error_in_words(output: OutputParity, allowed: Tolerance) -> str:
    sized = "" if output.size == 1 else f" of the output's size, {output.size:.3g},"
    bound = f"allowed {allowed.max_absolute:g}{sized} + {allowed.max_relative:g} of the value"
    if not output.worst:
        return f"no difference at all; {bound}"
    largest = "without end" if output.max_absolute is None else f"{output.max_absolute:.3g} at most"
    return f"{output.worst}; absolute error {largest}; {bound}"


def _counted(rows: int) -> str:
    return f"{rows} row" if rows == 1 else f"{rows} rows"
