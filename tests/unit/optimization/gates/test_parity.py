import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from tidegate.errors import OptimizationError
from tidegate.optimization.gates.parity import Replay, Run, held_to, judge_parity, measure_parity, replay_golden
from tidegate.optimization.records import OutputParity
from tidegate.packaging.format.golden import Golden, read_golden
from tidegate.packaging.format.manifest import Precision, Task
from tidegate.packaging.running.session import GraphSession
from tidegate.project import OutputTolerances, ParityGate, Tolerance

GATE = ParityGate()
Array = np.ndarray[Any, Any]


def verdicts_on(
    run: Run,
    golden: Golden,
    *,
    task: Task = "binary-classification",
    gate: ParityGate = GATE,
    precision: Precision = "full",
    threshold: float | None = None,
) -> dict[str, bool]:
    """Whether each measure of the whole gate passed."""
    parity = measure_parity(golden, replay_golden(run, golden), gate, precision, task=task, threshold=threshold)
    return {verdict.measure: verdict.passed for verdict in judge_parity("m", parity, gate, precision, golden.rows)}


def measured(
    expected: Any,
    found: Any,
    *,
    task: Task = "tensors",
    name: str = "y",
    gate: ParityGate = GATE,
    precision: Precision = "full",
    threshold: float | None = None,
) -> OutputParity:
    """The parity of one output whose answers are given."""
    golden = Golden({"x": np.zeros((len(expected), 1))}, {name: np.asarray(expected)})
    rows = np.arange(len(expected))
    replay = Replay(rows, np.full(len(rows), len(rows)), {name: np.asarray(found)})
    return measure_parity(golden, replay, gate, precision, task=task, threshold=threshold)[0]


def a_source(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Stand for a binary classifier: one number and one text in, a probability out."""
    known = {"a": 0.5, "b": -0.5}
    shift = np.array([known.get(text, 0.0) for text in inputs["text"][:, 0]])
    return {"probability": (1 / (1 + np.exp(-inputs["x"][:, 0] - shift))).astype(np.float32)}


@pytest.fixture
def golden() -> Golden:
    """60 ordinary rows, and 3 edges: a very large number, a very small one, and a text that is not known."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(size=60), [90.0, -90.0, 0.3]])[:, None]
    texts = np.array([*rng.choice(["a", "b"], 60), "a", "b", "zzz"], dtype=object)[:, None]
    inputs = {"x": x, "text": texts}
    return Golden(inputs, a_source(inputs))


# What the replay runs


def test_golden_rows_are_run_whole_alone_and_in_odd_batches(golden: Golden) -> None:
    sizes = []

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        sizes.append(len(inputs["x"]))
        return a_source(inputs)

    replay = replay_golden(run, golden)

    assert sizes == [63, *[1] * 32, 3, 7, 17]
    assert replay.batches.tolist() == [size for size in sizes for _ in range(size)]
    np.testing.assert_array_equal(replay.outputs["probability"], golden.outputs["probability"][replay.rows])
    assert {0, 62} <= set(replay.rows[63:95].tolist()), "the last rows are the edges"


def test_a_large_sample_is_run_in_chunks() -> None:
    inputs = {"image": np.zeros((20, 1024, 1024), np.float32)}  # 4 MiB a row
    seen = []

    def run(batch: Mapping[str, Array]) -> dict[str, Array]:
        seen.append(len(batch["image"]))
        return {"y": batch["image"][:, 0, 0]}

    replay = replay_golden(run, Golden(inputs, {"y": np.zeros(20, np.float32)}))

    assert seen[:3] == [16, 4, 1]
    assert replay.rows[:20].tolist() == list(range(20))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_small_sample_is_repeated_to_the_odd_sizes(rows: int) -> None:
    golden = Golden({"x": np.arange(float(rows))[:, None]}, {"y": np.arange(float(rows))})

    replay = replay_golden(lambda inputs: {"y": inputs["x"][:, 0]}, golden)

    assert [int(size) for size in dict.fromkeys(replay.batches.tolist())] == list(dict.fromkeys([rows, 1, 3, 7, 17]))
    assert set(replay.rows.tolist()) == set(range(rows))


def test_an_empty_sample_proves_nothing() -> None:
    with pytest.raises(OptimizationError, match="the golden sample holds no rows; package again"):
        replay_golden(a_source, Golden({"x": np.zeros((0, 1))}, {"y": np.zeros(0)}))


def test_a_batch_that_the_graph_refuses_is_named(golden: Golden) -> None:
    def only_whole(inputs: Mapping[str, Array]) -> dict[str, Array]:
        if len(inputs["x"]) != 63:
            raise RuntimeError("Got invalid dimensions\nfor input: x Expected: 63")
        return a_source(inputs)

    with pytest.raises(OptimizationError, match="fails on a batch of 1 row: Got invalid dimensions for input: x Expected: 63"):
        replay_golden(only_whole, golden)


# What the gate catches


def test_a_faithful_graph_passes(candidates) -> None:
    package = candidates.packages / "mlp"

    found = verdicts_on(GraphSession.of_package(package).run, read_golden(package / "golden.npz"))

    assert set(found.values()) == {True}
    assert len(found) == 2


def test_trees_whose_categorical_features_skl2onnx_gets_wrong_are_caught() -> None:
    from skl2onnx import to_onnx

    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 12, 2_000), rng.normal(size=2_000)]).astype(np.float32)
    y = ((x[:, 0] % 3 == 0) ^ (x[:, 1] > 0.5)).astype(int)
    with threadpool_limits(1):
        model = HistGradientBoostingClassifier(max_iter=20, categorical_features=[0], random_state=0).fit(x, y)
    session = _session(to_onnx(model, x[:1], options={"zipmap": False}))
    rows = x[:300]
    golden = Golden({"X": rows}, {"probability": model.predict_proba(rows)[:, 1].astype(np.float32)})

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"probability": session.run(["probabilities"], {"X": inputs["X"]})[0][:, 1]}

    assert not all(verdicts_on(run, golden).values())
    assert not all(verdicts_on(run, golden, precision="int8").values())


def _session(model: Any) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def otherwise_alone(inputs: Mapping[str, Array]) -> dict[str, Array]:
    answers = a_source(inputs)
    return {"probability": answers["probability"] + 0.5} if len(inputs["x"]) == 1 else answers


def otherwise_in_threes(inputs: Mapping[str, Array]) -> dict[str, Array]:
    answers = a_source(inputs)
    return {"probability": answers["probability"][::-1]} if len(inputs["x"]) == 3 else answers


def normalized_over_the_batch(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return a_source({**inputs, "x": inputs["x"] - inputs["x"].mean()})


def overflowing(inputs: Mapping[str, Array]) -> dict[str, Array]:
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.exp(inputs["x"][:, 0].astype(np.float32)).astype(np.float32)
    shift = np.array([{"a": 0.5, "b": -0.5}.get(text, 0.0) for text in inputs["text"][:, 0]], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        odds = power * np.exp(shift, dtype=np.float32)
        return {"probability": odds / (1 + odds)}  # inf / inf, where exp overflows float32


def unknown_as_the_first_known(inputs: Mapping[str, Array]) -> dict[str, Array]:
    texts = np.where(np.isin(inputs["text"].astype(str), ["a", "b"]), inputs["text"], "a")
    return a_source({**inputs, "text": texts})


def nothing_but_nan(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"probability": np.full(len(inputs["x"]), np.nan, np.float32)}


def the_other_class(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"probability": 1 - a_source(inputs)["probability"]}


@pytest.mark.parametrize(
    "wrong",
    [otherwise_alone, otherwise_in_threes, normalized_over_the_batch, overflowing, unknown_as_the_first_known, nothing_but_nan,
     the_other_class],
    ids=lambda wrong: wrong.__name__,
)  # fmt: skip
def test_a_graph_that_is_wrong_somewhere_is_caught_even_with_the_tolerances_of_int8(golden: Golden, wrong: Run) -> None:
    if wrong is overflowing:
        golden = Golden({**golden.inputs, "x": np.where(golden.inputs["x"] == -90, 89.5, golden.inputs["x"])}, golden.outputs)
        golden = Golden(golden.inputs, a_source(golden.inputs))

    assert verdicts_on(a_source, golden, precision="int8") == {
        "largest error of probability as a share of what is allowed": True,
        "share of rows whose class changes by probability": True,
    }
    assert not verdicts_on(wrong, golden, precision="int8")["largest error of probability as a share of what is allowed"]


def test_shuffled_classes_are_caught() -> None:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), size=50).astype(np.float32)
    golden = Golden({"x": scores}, {"probabilities": scores})

    found = verdicts_on(lambda inputs: {"probabilities": inputs["x"][:, [1, 2, 0]]}, golden, task="multiclass-classification")

    assert set(found.values()) == {False}


# What is measured


@pytest.mark.parametrize(
    ("expected", "found", "absolute", "relative", "of_tolerance"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], 0.0, 0.0, 0.0, id="the same"),
        pytest.param([0.0, 5.0], [2e-4, 5.0], 2e-4, 0.0, 2.0, id="beside a zero only the absolute error counts"),
        pytest.param([1e6], [1e6 + 50], 50, 5e-5, 0.5, id="of a large value the relative one"),
        pytest.param([1.0], [1.0004], 4e-4, 4e-4, 2.0, id="of one both"),
        pytest.param([np.nan, 1.0], [np.nan, 1.0], 0.0, 0.0, 0.0, id="not a number on both sides"),
        pytest.param([np.inf, -np.inf], [np.inf, -np.inf], 0.0, 0.0, 0.0, id="the same infinities"),
        pytest.param([1.0, 2.0], [np.nan, 2.0], None, None, None, id="not a number where one was"),
        pytest.param([np.nan], [1.0], None, 0.0, None, id="a number where none was"),
        pytest.param([np.inf], [1.0], None, None, None, id="a number instead of infinity"),
        pytest.param([np.inf], [-np.inf], None, None, None, id="the other infinity"),
        pytest.param([[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], [3.0, 4.8]], 0.8, 0.2, 1600, id="several values a row"),
    ],
)
def test_errors(expected: Any, found: Any, absolute: float | None, relative: float | None, of_tolerance: float | None) -> None:
    parity = measured(expected, found, task="binary-classification", name="probability")

    assert parity.max_absolute == (absolute and pytest.approx(absolute, rel=1e-3))
    assert parity.max_relative == (relative and pytest.approx(relative, rel=1e-3))
    assert parity.of_tolerance == (of_tolerance and pytest.approx(of_tolerance, rel=1e-3))


def test_outputs_of_no_values_agree() -> None:
    assert measured(np.zeros((2, 0)), np.zeros((2, 0))).of_tolerance == 0
    assert measured(np.zeros((2, 0), int), np.zeros((2, 0), int)).differing == 0


def test_without_any_tolerance_only_the_same_numbers_pass() -> None:
    gate = ParityGate(full=Tolerance(max_absolute=0, max_relative=0, max_flip_rate=0))

    assert measured([1.0, 0.0], [1.0, 0.0], gate=gate).of_tolerance == 0
    assert measured([1.0, 0.0], [1.0, 1e-30], gate=gate).of_tolerance is None


@pytest.mark.parametrize(
    ("expected", "found", "share"),
    [
        pytest.param(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 4], np.int32), 0.0, id="integers of another width"),
        pytest.param(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25, id="an integer"),
        pytest.param(np.array([2**62, 1]), np.array([2**62 + 1, 1]), 0.5, id="integers beyond float64's"),
        pytest.param(np.array([[True, False], [True, True]]), np.array([[True, True], [False, True]]), 1.0, id="booleans"),
        pytest.param(np.array(["a", "b"], object), np.array(["a", "c"], object), 0.5, id="text"),
        pytest.param(np.array(["a", "b"]), np.array(["a", "b"], object), 0.0, id="text of another kind"),
    ],
)
def test_what_is_no_floating_point_number_is_equal_or_not(expected: Array, found: Array, share: float) -> None:
    parity = measured(expected, found)

    assert parity.differing == share
    assert judge_parity("m", [parity], GATE, "int8", 4)[0].passed == (share == 0)


def test_an_output_of_class_numbers_may_be_allowed_to_differ_in_some_rows() -> None:
    loose = Tolerance(max_absolute=0, max_relative=0, max_flip_rate=0.3)
    parity, gate = measured([1, 2, 3, 4], [1, 2, 3, 5]), ParityGate(outputs={"y": OutputTolerances(int8=loose)})

    assert judge_parity("m", [parity], gate, "int8", 4)[0].passed
    assert not judge_parity("m", [parity], gate, "full", 4)[0].passed


@pytest.mark.parametrize(
    ("expected", "found", "threshold", "rate"),
    [
        pytest.param([0.4, 0.6, 0.9, 0.1], [0.45, 0.4, 0.9, 0.1], None, 0.25, id="at one half"),
        pytest.param([0.4, 0.6, 0.9, 0.1], [0.45, 0.4, 0.9, 0.1], 0.3, 0.0, id="at another threshold"),
        pytest.param([0.4, 0.6, 0.9, 0.1], [0.0, 0.0, 0.0, 0.0], 0.0, 0.0, id="at a threshold that all reach"),
        pytest.param([0.5, 0.7, 0.9, 0.1], [0.49999997, 0.7, 0.9, 0.1], None, 0.0, id="a tie that rounding decides"),
        pytest.param([0.6, 0.7], [np.nan, 0.7], None, 0.5, id="not a number"),
        pytest.param([[0.4, 0.6], [0.7, 0.3]], [[0.4, 0.6], [0.4, 0.6]], None, 0.5, id="the most probable of several"),
        pytest.param([[0.5, 0.5], [0.7, 0.3]], [[0.4999, 0.5001], [0.7, 0.3]], None, 0.0, id="a tie of several"),
        pytest.param([[1.0], [1.0]], [[0.2], [1.0]], None, 0.0, id="only one class"),
    ],
)
def test_changed_classes(expected: Any, found: Any, threshold: float | None, rate: float) -> None:
    many = np.ndim(expected) == 2
    task: Task = "multiclass-classification" if many else "binary-classification"
    parity = measured(expected, found, task=task, name="probabilities" if many else "probability", threshold=threshold)

    assert parity.flip_rate == rate


@pytest.mark.parametrize("task", ["regression", "tensors"])
def test_numbers_that_are_no_scores_have_no_class(task: Task) -> None:
    assert measured([0.4], [0.6], task=task, name="prediction").flip_rate is None


# Outputs that are no probabilities


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("error", "passed"), [(0.04, True), (0.2, False)])
def test_the_unit_of_an_output_does_not_matter(unit: float, error: float, passed: bool) -> None:
    rng = np.random.default_rng(0)
    expected = rng.normal(size=(200, 8))
    parity = measured(unit * expected, unit * (expected + error * np.sign(expected)), precision="int8")

    (verdict,) = judge_parity("m", [parity], GATE, "int8", 200)

    assert verdict.passed == passed
    assert parity.size == pytest.approx(unit * np.median(np.abs(expected).max(axis=1)))
    assert f"allowed 0.05 of the output's size, {parity.size:.3g}, + 0.05 of the value" in verdict.note


def test_each_target_of_a_regression_has_a_size_of_its_own() -> None:
    expected = np.array([[1e6, 1e-3], [2e6, 2e-3], [3e6, 3e-3]])
    found = np.add(expected, [0, 1e-3])

    parity = measured(expected, found, task="regression", name="prediction", precision="int8")

    assert parity.size == 2e-3
    assert not judge_parity("m", [parity], GATE, "int8", 3)[0].passed


# What cannot be compared


@pytest.mark.parametrize(
    ("run", "said"),
    [
        pytest.param(lambda x: {"y": x[:, :2]}, r"shape \[2\] a row where the source model gives \[3\]", id="another width"),
        pytest.param(lambda x: {"y": x[:, :, None]}, r"shape \[3, 1\] a row where .* \[3\]", id="another rank"),
        pytest.param(
            lambda x: {"y": x.mean(axis=0)},
            r"a batch of 20 rows gives shape \[3\], which is not one answer a row",
            id="one answer for all",
        ),
        pytest.param(lambda x: {"y": x.sum()}, r"gives shape \[\], which is not one answer a row", id="a scalar"),
        pytest.param(
            lambda x: {"y": x if len(x) > 1 else x[:, :1]},
            r"a batch of 1 row gives shape \[1\] a row, one of 20 gives \[3\]",
            id="another width when alone",
        ),
        pytest.param(lambda x: {"y": x.astype(int)}, "integers where the source model gives floating-point", id="integers"),
        pytest.param(lambda x: {"z": x}, "the graph has no such output", id="missing"),
    ],
)
def test_outputs_that_cannot_be_compared_fail_and_say_why(run: Any, said: str) -> None:
    x = np.ones((20, 3), np.float32)
    golden = Golden({"x": x}, {"y": x})
    replay = replay_golden(lambda inputs: run(inputs["x"]), golden)

    parity = measure_parity(golden, replay, GATE, "int8", task="tensors", threshold=None)
    (verdict,) = judge_parity("m", parity, GATE, "int8", golden.rows)

    assert (verdict.passed, verdict.value) == (False, None)
    assert re.search(said, parity[0].problem)
    assert verdict.note.startswith(parity[0].problem)


def test_tolerances_of_an_output_that_does_not_exist_are_refused(golden: Golden) -> None:
    gate = ParityGate(outputs={"probabilty": OutputTolerances()})

    with pytest.raises(
        OptimizationError, match=r"gates\.parity\.outputs\.probabilty: no such output; the model has probability"
    ):
        verdicts_on(a_source, golden, gate=gate)


# What the verdicts say


def test_the_verdict_names_output_number_bound_and_row() -> None:
    parity = measured([0.2, 0.5, 0.75], [0.2, 0.5, 0.25], task="binary-classification", name="probability")

    error, flips = judge_parity("mlp/fp16", [parity], GATE, "half", 3)

    assert error.measure == "largest error of probability as a share of what is allowed"
    assert (error.value, error.bound) == (pytest.approx(0.5 / 1.75e-4, rel=1e-3), 1.0)
    assert error.note == (
        "golden row 2 in a batch of 3: 0.25 where the source model gives 0.75; absolute error 0.5 at most; "
        "allowed 0.01 + 0.01 of the value; 3 golden rows, half precision"
    )
    assert (flips.measure, flips.bound) == ("share of rows whose class changes by probability", 0.01)
    assert flips.value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("share", "flips", "precision", "passed"),
    [
        pytest.param(1.0, 0.001, "full", (True, True), id="at the bounds"),
        pytest.param(1.001, 0.0, "full", (False, True), id="too far"),
        pytest.param(0.0, 0.002, "full", (True, False), id="too many flips"),
        pytest.param(1.0, 0.01, "half", (True, True), id="as many as half precision may have"),
        pytest.param(1.0, 0.02, "half", (True, False), id="more than half precision may have"),
        pytest.param(0.5, 0.02, "int8", (True, True), id="as many as int8 may have"),
        pytest.param(None, 0.03, "int8", (False, False), id="not even that"),
        pytest.param(1.0, 0.25, "pruned", (True, True), id="as many as pruned weights may change"),
        pytest.param(1.0, 0.26, "pruned", (True, False), id="more than pruned weights may change"),
    ],
)
def test_bounds_depend_on_the_precision(
    share: float | None, flips: float, precision: Precision, passed: tuple[bool, bool]
) -> None:
    parity = OutputParity(output="probability", max_absolute=0.1, max_relative=0.1, of_tolerance=share, flip_rate=flips)

    assert tuple(verdict.passed for verdict in judge_parity("m", [parity], GATE, precision, 9)) == passed


@pytest.mark.parametrize(
    ("precision", "accuracy_is_judged", "expected"),
    [
        pytest.param("pruned", True, "pruned", id="accuracy decides"),
        pytest.param("pruned", False, "int8", id="nothing else protects users"),
        pytest.param("half", False, "half", id="rounding needs no labels"),
        pytest.param("full", True, "full", id="nothing is given up"),
    ],
)
def test_pruned_weights_have_wide_tolerances_where_accuracy_is_judged(
    precision: Precision, accuracy_is_judged: bool, expected: Precision
) -> None:
    assert held_to(precision, accuracy_is_judged=accuracy_is_judged) == expected


def test_a_pruned_probability_may_go_anywhere_but_must_be_one() -> None:
    task, name = "binary-classification", "probability"
    far = measured([0.1, 0.9], [1.0, 0.0], task=task, name=name, precision="pruned")
    no_number = measured([0.1, 0.9], [0.1, np.nan], task=task, name=name, precision="pruned")

    assert [verdict.passed for verdict in judge_parity("m", [far], GATE, "pruned", 2)] == [True, False], "all classes change"
    assert not judge_parity("m", [no_number], GATE, "pruned", 2)[0].passed


# What always holds

numbers = st.floats(-1e6, 1e6)


@settings(max_examples=25, deadline=None)
@given(
    expected=st.lists(numbers, min_size=1, max_size=8),
    error=st.floats(0, 10),
    more=st.floats(1, 5),
    precision=st.sampled_from(["full", "half", "int8", "pruned"]),
)
def test_a_larger_error_never_passes_where_a_smaller_failed(
    expected: list[float], error: float, more: float, precision: Precision
) -> None:
    passed = [
        judge_parity("m", [measured(expected, np.add(expected, size), precision=precision)], GATE, precision, 8)[0].passed
        for size in (error, error * more)
    ]

    assert passed[0] >= passed[1]


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.tuples(st.floats(0, 1), st.floats(-0.2, 0.2)), min_size=1, max_size=30), seed=st.integers(0, 999))
def test_row_order_is_nothing(rows: list[tuple[float, float]], seed: int) -> None:
    expected = np.array([row[0] for row in rows])
    found = expected + [row[1] for row in rows]
    order = np.random.default_rng(seed).permutation(len(rows))
    measure = partial(measured, task="binary-classification", name="probability")

    first, second = measure(expected, found), measure(expected[order], found[order])

    assert (first.max_absolute, first.of_tolerance, first.flip_rate) == (
        second.max_absolute,
        second.of_tolerance,
        second.flip_rate,
    )


@settings(max_examples=25, deadline=None)
@given(
    expected=st.lists(numbers, min_size=1, max_size=8),
    errors=st.lists(st.floats(-2, 2), min_size=8, max_size=8),
    absolute=st.floats(0, 1),
    relative=st.floats(0, 1),
)
def test_what_passes_is_what_numpy_calls_close(
    expected: list[float], errors: list[float], absolute: float, relative: float
) -> None:
    gate = ParityGate(full=Tolerance(max_absolute=absolute, max_relative=relative, max_flip_rate=0))
    found = np.add(expected, errors[: len(expected)])

    parity = measured(expected, found, gate=gate, task="binary-classification", name="probability")

    close = np.allclose(found, expected, rtol=relative, atol=absolute)
    share = parity.of_tolerance
    assert close == (share is not None and share <= 1) or share == pytest.approx(1, abs=1e-9)
