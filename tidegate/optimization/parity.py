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

from tidegate.errors import OptimizationError
from tidegate.optimization.output_size import output_size
from tidegate.optimization.records import OutputParity
from tidegate.packaging.golden import Golden
from tidegate.packaging.manifest import SCORE_OUTPUTS, Precision, Task, Verdict
from tidegate.project import ParityGate, Tolerance

Array = NDArray[Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

_ROWS_ALONE = 32
_ODD_BATCHES = (3, 7, 17)
_BATCH_BYTES = 64 * 1024 * 1024  # of inputs; what a graph computes from them can be many times as much
_TIE = 1e-6  # a score this close to the threshold, or to another class's, is float32's rounding away from another class


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
    is the output's (`tidegate.optimization.output_size`), of a probability 1. A NaN or infinity on one side only is infinitely
    far. Integers, booleans and text are equal or not.

    Args:
        golden: The source model's inputs and outputs.
        replay: The graph's answers to them.
        gate: The tolerances.
        precision: Of the variant's arithmetic.
        task: Says which output is a classification's score, whose class can change.
        threshold: Of a binary classification; None means 0.5.

    Raises:
        OptimizationError: `gate.outputs` names an output that the model does not have.
    """
    for name in gate.outputs:
        if name not in golden.outputs:
            raise OptimizationError(f"gates.parity.outputs.{name}: no such output; the model has {', '.join(golden.outputs)}")
    score = SCORE_OUTPUTS.get(task)
    found = []
    for name in golden.outputs:
        comparison = _Comparison(
            name=name,
            expected=golden.outputs[name][replay.rows],
            replay=replay,
            allowed=gate.tolerance(name, precision),
            size=output_size(name, golden.outputs[name], task) if _is_float(golden.outputs[name]) else np.asarray(1.0),
            flips=_flips_of(task, 0.5 if threshold is None else threshold) if name == score else None,
        )
        found.append(comparison.result())
    return tuple(found)


def judge_parity(
    name: str, parity: Sequence[OutputParity], gate: ParityGate, precision: Precision, rows: int
) -> tuple[Verdict, ...]:
    """Hold a parity to the tolerances of its precision: up to two verdicts an output, on its error and on changed classes.

    Args:
        name: What is judged, "candidate/variant".
        parity: What `measure_parity` found under the same gate and precision.
        gate: The tolerances.
        precision: Of the variant's arithmetic.
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
        message = " ".join(str(error).split())
        raise OptimizationError(f"the graph fails on a batch of {_counted(len(rows))}: {message}") from error


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


_Flips = Callable[[Array, Array], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """One output of the source model beside the graph's."""

    name: str
    expected: Array
    replay: Replay
    allowed: Tolerance
    size: Array
    flips: _Flips | None

    def result(self) -> OutputParity:
        problem = self._problem()
        if problem:
            return self._parity(problem=problem)
        return self._within() if _is_float(self.expected) else self._exact()

    def _problem(self) -> str:
        if self.name not in self.replay.outputs:
            return self.replay.misfits.get(self.name, "the graph has no such output")
        found, expected = self.replay.outputs[self.name], self.expected
        if found.shape != expected.shape:
            return f"shape {list(found.shape[1:])} a row where the source model gives {list(expected.shape[1:])}"
        if _kind(found) != _kind(expected):
            return f"{_kind(found)} where the source model gives {_kind(expected)}"
        return ""

    def _exact(self) -> OutputParity:
        differs = (self.replay.outputs[self.name] != self.expected).reshape(len(self.expected), -1)
        worst = self._described(int(differs.argmax())) if differs.any() else ""
        return self._parity(differing=float(differs.any(axis=1).mean()), worst=worst)

    def _within(self) -> OutputParity:
        expected, found = self.expected.astype(np.float64), self.replay.outputs[self.name].astype(np.float64)
        if expected.size == 0:
            return self._parity(max_absolute=0.0, max_relative=0.0, of_tolerance=0.0)
        magnitude = np.abs(expected)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.where((found == expected) | (np.isnan(found) & np.isnan(expected)), 0.0, np.abs(found - expected))
            error = np.nan_to_num(error, nan=np.inf, posinf=np.inf)
            # An infinite expectation allows no error; without this it would allow any.
            of_value = self.allowed.max_relative * np.where(np.isfinite(magnitude), magnitude, 0.0)
            share = np.where(error == 0, 0.0, error / (self.allowed.max_absolute * self.size + of_value))
            relative = np.where(error == 0, 0.0, error / magnitude)[magnitude > 0]
        worst = int(share.argmax())
        return self._parity(
            max_absolute=_finite(error.max()),
            max_relative=_finite(relative.max(initial=0.0)),
            of_tolerance=_finite(share.flat[worst]),
            flip_rate=None if self.flips is None else float(self.flips(expected, found).mean()),
            worst=self._described(worst) if share.flat[worst] > 0 else "",
            size=float(np.broadcast_to(self.size, expected.shape).flat[worst]),
        )

    def _described(self, element: int) -> str:
        answer = element // (self.expected.size // len(self.expected))
        row, batch = int(self.replay.rows[answer]), int(self.replay.batches[answer])
        given, wanted = (array.reshape(-1)[element] for array in (self.replay.outputs[self.name], self.expected))
        return f"golden row {row} in a batch of {batch}: {_shown(given)} where the source model gives {_shown(wanted)}"

    def _parity(self, **found: Any) -> OutputParity:
        nothing = {"max_absolute": None, "max_relative": None, "of_tolerance": None}
        return OutputParity(output=self.name, **(nothing | found))


def _is_float(array: Array) -> bool:
    return _kind(array) == "floating-point numbers"


def _kind(array: Array) -> str:
    kinds = {"b": "booleans", "i": "integers", "u": "integers", "O": "text", "U": "text", "S": "text"}
    return kinds.get(array.dtype.kind, "floating-point numbers")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _flips_of(task: Task, threshold: float) -> _Flips | None:
    """Return what tells which rows change their class; rows that had no class of their own, being tied, do not count."""

    def of_binary(expected: Array, found: Array) -> NDArray[np.bool_]:
        tied = np.abs(expected - threshold) <= _TIE
        flips: NDArray[np.bool_] = ((found >= threshold) != (expected >= threshold)) & ~tied
        return flips

    def of_multiclass(expected: Array, found: Array) -> NDArray[np.bool_]:
        if expected.shape[1] < 2:
            return np.zeros(len(expected), dtype=np.bool_)
        best = np.sort(expected, axis=1)[:, -2:]
        tied = best[:, 1] - best[:, 0] <= _TIE
        flips: NDArray[np.bool_] = (found.argmax(axis=1) != expected.argmax(axis=1)) & ~tied
        return flips

    return {"binary-classification": of_binary, "multiclass-classification": of_multiclass}.get(task)


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
