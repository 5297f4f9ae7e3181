"""Batches of fixed sizes and largest batches answer as the plain session does: bound buffers are real, only the GPU is not."""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT
from tidegate.packaging.running.steady import CapturedRuns, steady_run

Array = NDArray[Any]


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    """Two inputs of different types and ranks, two outputs."""
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["score"]),
            helper.make_node("Cast", ["size"], ["float_size"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["score", "float_size"], ["scaled"]),
        ],
        "graph",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, 3]),
            helper.make_tensor_value_info("size", TensorProto.INT64, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["n", 4]),
        ],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), providers=[CPU])


def _feeds(rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.normal(size=(rows, 2, 3)).astype(np.float32),
        "size": rng.integers(0, 9, (rows, 1)),
    }


def _same(session: ort.InferenceSession, run: Any, feeds: Mapping[str, Array]) -> None:
    expected, found = session.run(["scaled", "score"], feeds), run(["scaled", "score"], feeds)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 9, 64, 65, 130])
def test_captured_runs_answer_every_number_of_rows(session: ort.InferenceSession, rows: int) -> None:
    captured = CapturedRuns(session, "cpu", sizes=(1, 8, 64))
    for seed in range(3):  # the buffers are used again: a later call must not see an earlier one's rows
        _same(session, captured.run, _feeds(rows, seed))


def test_captured_runs_leave_the_callers_arrays_alone(session: ort.InferenceSession) -> None:
    captured = CapturedRuns(session, "cpu", sizes=(4,))
    feeds = _feeds(4)
    before = {name: array.copy() for name, array in feeds.items()}
    captured.run(["score"], feeds)
    captured.run(["score"], _feeds(4, seed=1))
    for name, array in feeds.items():
        np.testing.assert_array_equal(array, before[name])


def test_answers_stay_as_they_were_given(session: ort.InferenceSession) -> None:
    captured = CapturedRuns(session, "cpu", sizes=(4,))
    first = captured.run(["score"], _feeds(4))[0]
    before = first.copy()
    captured.run(["score"], _feeds(4, seed=1))
    np.testing.assert_array_equal(first, before)


def test_callers_on_many_threads_get_their_own_answers(session: ort.InferenceSession) -> None:
    captured, wrong = CapturedRuns(session, "cpu", sizes=(1, 8)), []

    def call(seed: int) -> None:
        for _ in range(20):
            feeds = _feeds(5, seed)
            if not np.allclose(captured.run(["score"], feeds)[0], session.run(["score"], feeds)[0]):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_batch_larger_than_the_engines_is_run_in_parts(session: ort.InferenceSession) -> None:
    options = {"trt_profile_max_shapes": "image:4x2x3,size:4x1"}
    run = steady_run(session, Runtime(providers=(TENSORRT, CPU), provider_options={TENSORRT: options}))
    for rows in (1, 4, 5, 11):
        _same(session, run, _feeds(rows))


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(Runtime(), id="CPU"),
        pytest.param(Runtime(providers=(CUDA, CPU), provider_options={CUDA: {"use_tf32": "0"}}), id="CUDA without graphs"),
        pytest.param(
            Runtime(provider_options={CUDA: {"enable_cuda_graph": "1"}}), id="CUDA graphs, but fallen back to the CPU"
        ),
    ],
)
def test_other_sessions_are_run_as_they_are(session: ort.InferenceSession, runtime: Runtime) -> None:
    assert steady_run(session, runtime) == session.run


def test_a_large_batch_gives_its_memory_back_and_a_usual_one_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    class Session:
        def run(self, outputs: list[str], feeds: dict[str, np.ndarray], options: ort.RunOptions | None) -> list[np.ndarray]:
            shrinks = options is not None and options.get_run_config_entry("memory.enable_memory_arena_shrinkage") == "gpu:2"
            asked.append((len(feeds["x"]), shrinks))
            return [feeds["x"]]

    limited = Runtime(providers=(CUDA, CPU), provider_options={CUDA: {"gpu_mem_limit": "1000", "device_id": "2"}})
    run = steady_run(Session(), limited)  # type: ignore[arg-type]
    for rows in (1, 64, 65):
        run(["y"], {"x": np.zeros((rows, 1), np.float32)})
    assert asked == [(1, False), (64, False), (65, True)]
