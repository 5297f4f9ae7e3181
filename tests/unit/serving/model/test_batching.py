"""Which requests share a run of the graph, which are refused, and which are not computed."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Any

import numpy as np
import pytest

from tidegate.serving.model.batching import LOOP_SECONDS, Batcher, BatchLimits, Call, Pace
from tidegate.serving.model.reading import Inputs
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferRequest
from tidegate.serving.protocol.tensors import Array

ON_LOOP, IN_THREAD = 1000, 0


class Graph:
    """Doubles the value of each row, remembers its runs, and may be held up or fail."""

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.threads: set[str] = set()
        self.free = threading.Event()
        self.free.set()
        self.fails_on: float | None = None

    def run(self, requests: Sequence[Inputs]) -> dict[str, Array]:
        values = np.concatenate([inputs.columns["x"] for inputs in requests if inputs.columns is not None])
        self.runs.append(len(values))
        self.threads.add(threading.current_thread().name)
        assert self.free.wait(10)
        if self.fails_on is not None and self.fails_on in values:
            raise RuntimeError(f"cannot take {self.fails_on}")
        return {"y": values * 2}


class Counts:
    """What batching counts."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.rejected: Counter[str] = Counter()
        self.queue = 0

    def count_batch(self, requests: int, rows: int) -> None:
        self.batches.append((requests, rows))

    def set_batch_queue(self, rows: int) -> None:
        self.queue = rows

    def count_rejected(self, reason: str) -> None:
        self.rejected[reason] += 1


class Queue:
    """A batcher before a graph, and what came of each request by its id."""

    def __init__(self, **limits: Any) -> None:
        self.graph, self.counts = Graph(), Counts()
        self.outcomes: dict[str, Any] = {}
        self.batcher = Batcher(self.graph.run, BatchLimits(**limits), self.counts, answered=self._answered, failed=self._failed)

    def add(self, name: str, value: float, rows: int = 1, width: int = 1, due: float = 10.0) -> InferRequest:
        request = InferRequest(name, [])
        request.arrived(perf_counter_ns(), int(due * 1e9))
        inputs = Inputs(rows, columns={"x": np.full((rows, width), value, np.float32)}, keys={})
        self.batcher.add(Call(request, inputs, lambda _outcome: None, datetime(2013, 6, 1, tzinfo=UTC)))
        return request

    async def settled(self, count: int) -> dict[str, Any]:
        for _ in range(1000):
            if len(self.outcomes) >= count and self.batcher.is_idle:
                return self.outcomes
            await asyncio.sleep(0.005)
        raise AssertionError(f"{len(self.outcomes)} of {count} requests have an outcome")

    def _answered(self, calls: Sequence[Call], outputs: dict[str, Array]) -> None:
        start = 0
        for call in calls:
            end = start + call.inputs.rows
            self.outcomes[call.request.id] = outputs["y"][start:end].ravel().tolist()
            start = end
        assert start == len(outputs["y"])

    def _failed(self, call: Call, error: Exception) -> None:
        self.outcomes[call.request.id] = error


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))


@pytest.mark.parametrize("rows_on_loop", [pytest.param(ON_LOOP, id="on the loop"), pytest.param(IN_THREAD, id="in a thread")])
@pytest.mark.parametrize(
    ("batch_rows", "sizes", "runs"),
    [
        pytest.param(64, [1], [1], id="a lone request"),
        pytest.param(64, [1, 1, 1], [3], id="what is there at once is run at once"),
        pytest.param(4, [1, 2, 1, 3, 2], [4, 3, 2], id="no batch is larger than allowed"),
        pytest.param(4, [9, 1], [9, 1], id="a request that is larger is run by itself"),
        pytest.param(1, [1, 1], [1, 1], id="turned off"),
    ],
)
def test_requests_share_runs(rows_on_loop: int, batch_rows: int, sizes: list[int], runs: list[int]) -> None:
    async def scene() -> None:
        queue = Queue(batch_rows=batch_rows, rows_on_loop=rows_on_loop)
        for index, rows in enumerate(sizes):
            queue.add(f"r{index}", index, rows)
        outcomes = await queue.settled(len(sizes))
        assert outcomes == {f"r{index}": [index * 2.0] * rows for index, rows in enumerate(sizes)}
        assert queue.graph.runs == runs
        assert sum(rows for _, rows in queue.counts.batches) == sum(sizes)
        assert queue.graph.threads == {"graph" if rows_on_loop == IN_THREAD else "MainThread"}
        queue.batcher.close()

    play(scene)


def test_what_comes_while_the_graph_is_busy_is_the_next_batch() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=IN_THREAD)
        queue.graph.free.clear()
        queue.add("first", 1)
        await asyncio.sleep(0.02)
        for index in range(5):
            queue.add(f"r{index}", index)
            await asyncio.sleep(0)
        queue.graph.free.set()
        await queue.settled(6)
        assert queue.graph.runs == [1, 5]
        queue.batcher.close()

    play(scene)


def test_rows_of_other_shapes_are_not_joined() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=ON_LOOP)
        queue.add("a", 1, width=2)
        queue.add("b", 2, width=2)
        queue.add("c", 3, width=5)
        await queue.settled(3)
        assert queue.graph.runs == [2, 1]

    play(scene)


@pytest.mark.parametrize("rows_on_loop", [ON_LOOP, IN_THREAD])
def test_one_request_that_fails_does_not_spoil_the_others(rows_on_loop: int) -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=rows_on_loop)
        queue.graph.fails_on = 2
        for index in range(4):
            queue.add(f"r{index}", index)
        outcomes = await queue.settled(4)
        assert [outcomes[name] for name in ("r0", "r1", "r3")] == [[0.0], [2.0], [6.0]]
        assert str(outcomes["r2"]) == "cannot take 2"
        queue.batcher.close()

    play(scene)


def test_a_full_queue_refuses_with_429_and_says_when_to_retry() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=IN_THREAD, queue_rows=4)
        queue.graph.free.clear()
        queue.add("running", 0)
        await asyncio.sleep(0.02)
        queue.add("a", 1, rows=3)
        with pytest.raises(RequestError, match="3 rows wait for the model, and at most 4 may") as error:
            queue.add("b", 2, rows=2)
        assert error.value.status == 429
        assert error.value.headers == b"retry-after: 1\r\n"
        queue.add("c", 3)
        queue.graph.free.set()
        assert (await queue.settled(3)).keys() == {"running", "a", "c"}
        assert queue.counts.rejected == {"queue-full": 1}
        assert queue.counts.queue == 0
        queue.batcher.close()

    play(scene)


def test_a_request_larger_than_the_whole_queue_is_taken_when_nothing_waits() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=ON_LOOP, queue_rows=4)
        queue.add("large", 1, rows=9)
        assert (await queue.settled(1))["large"] == [2.0] * 9

    play(scene)


def test_what_is_past_its_deadline_is_refused_in_time_and_not_computed() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=IN_THREAD)
        queue.graph.free.clear()
        queue.add("running", 0)
        await asyncio.sleep(0.02)
        queue.add("late", 1, due=0.05)
        queue.add("patient", 2)
        for _ in range(200):
            if "late" in queue.outcomes:
                break
            await asyncio.sleep(0.01)
        assert queue.outcomes["late"].status == 504  # while the graph is still busy
        assert "past its deadline" in str(queue.outcomes["late"])
        queue.graph.free.set()
        await queue.settled(3)
        assert queue.graph.runs == [1, 1]
        assert queue.counts.rejected == {"deadline": 1}
        queue.batcher.close()

    play(scene)


def test_what_nobody_waits_for_is_not_computed() -> None:
    async def scene() -> None:
        queue = Queue(rows_on_loop=IN_THREAD)
        queue.graph.free.clear()
        queue.add("running", 0)
        await asyncio.sleep(0.02)
        queue.add("gone", 1).abandoned = True
        queue.add("there", 2)
        queue.graph.free.set()
        outcomes = await queue.settled(3)
        assert outcomes["gone"].status == 499
        assert queue.graph.runs == [1, 1]
        assert queue.counts.rejected == {"abandoned": 1}
        queue.batcher.close()

    play(scene)


def test_a_lone_request_does_not_wait_for_others_but_concurrent_ones_do() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        queue = Queue(rows_on_loop=ON_LOOP, delay=0.2, batch_rows=3)
        begun = loop.time()
        queue.add("alone", 0)
        await queue.settled(1)
        assert loop.time() - begun < 0.1
        queue.add("a", 1)
        queue.add("b", 2)
        await queue.settled(3)
        queue.add("c", 3)
        await asyncio.sleep(0.02)
        assert "c" not in queue.outcomes  # the batch before held two, so more may be on their way
        queue.add("d", 4)
        await queue.settled(5)
        assert queue.graph.runs == [1, 2, 2]

    play(scene)


@pytest.mark.parametrize(
    ("took", "is_short"),
    [
        pytest.param([], True, id="as the golden sample promised"),
        pytest.param([LOOP_SECONDS * 2], True, id="a little longer, as on a busy machine"),
        pytest.param([1.5], False, id="a run that held the loop up"),
        pytest.param([1.5, *[LOOP_SECONDS / 2] * 20], False, id="a few short ones do not make up for it"),
        pytest.param([1.5, *[LOOP_SECONDS / 2] * 200], True, id="many do"),
    ],
)
def test_the_pace_is_learnt(took: list[float], is_short: bool) -> None:
    pace = Pace(10)
    assert pace.is_short(10)
    assert not pace.is_short(11)
    for seconds in took:
        pace.learn(1, seconds)
    assert pace.is_short(1) == is_short
