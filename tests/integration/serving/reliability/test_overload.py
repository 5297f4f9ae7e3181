"""More is asked than can be computed: what cannot be done in time is refused in time, and nothing is computed in vain."""

import concurrent.futures
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests import small_packages
from tests.integration.serving.reliability.conftest import complaints
from tests.integration.serving.reliability.wire import Answer, Wire, request
from tidegate.serving.grpc_v2.messages import methods_of

SLOW = "/v2/models/slow/infer"
PREDICTIONS = "tidegate_predictions_total"


def asking(rounds: int, *headers: str) -> bytes:
    """Return a request that takes about a millisecond and a half for each of its `rounds`."""
    tensor = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]}
    return request(SLOW, json.dumps({"inputs": [tensor]}).encode(), *headers)


def ask(port: int, sent: bytes) -> Answer:
    with Wire(port, seconds=30) as wire:
        answer = wire.send(sent).answer()
    assert answer is not None, "cut off without a word"
    return answer


def at_once(port: int, requests: Sequence[bytes]) -> list[Answer]:
    """Send every request on a connection of its own, all at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda sent: ask(port, sent), requests))


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package whose golden sample tells the server that a request takes long."""
    return small_packages.slow(tmp_path_factory.mktemp("packages") / "slow", rounds=10)


def test_what_does_not_fit_into_the_queue_is_refused_with_a_time_to_come_back(
    launch_once: Callable[..., Any], slow: Path
) -> None:
    server = launch_once(slow, queue_rows=5, batch_rows=1)
    answers = at_once(server.http_port, [asking(30)] * 40)
    refused = [answer for answer in answers if answer.status == 429]
    assert {answer.status for answer in answers} == {200, 429}
    assert 6 <= len(answers) - len(refused) < 40
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all("wait for the model" in json.loads(answer.body)["error"] for answer in refused)
    assert [answer.status for answer in at_once(server.http_port, [asking(1)] * 5)] == [200] * 5
    assert complaints(server) == []


def test_what_cannot_be_answered_in_time_is_refused_and_not_computed(launch_once: Callable[..., Any], slow: Path) -> None:
    server = launch_once(slow, request_seconds=0.5, batch_rows=1)
    answers = at_once(server.http_port, [asking(100)] * 20)
    computed = server.metric(PREDICTIONS)
    assert {answer.status for answer in answers} == {200, 504}
    assert sum(answer.status == 200 for answer in answers) <= computed <= 10
    assert ask(server.http_port, asking(1)).status == 200
    assert server.metric(PREDICTIONS) == computed + 1
    assert complaints(server) == []


def test_a_caller_says_how_long_it_waits(launch_once: Callable[..., Any], slow: Path) -> None:
    server = launch_once(slow, batch_rows=1)
    impatient = asking(100, "x-envoy-expected-rq-timeout-ms: 200")
    answers = at_once(server.http_port, [asking(300), *[impatient] * 5, asking(1)])
    assert [answer.status for answer in answers[1:6]].count(504) >= 4
    assert (answers[0].status, answers[6].status) == (200, 200)
    assert ask(server.http_port, asking(1, "x-envoy-expected-rq-timeout-ms: 2000")).status == 200


def test_what_nobody_waits_for_any_more_is_not_computed(
    launch_once: Callable[..., Any], slow: Path, eventually: Callable[..., None]
) -> None:
    server = launch_once(slow, batch_rows=1)
    for _ in range(30):
        wire = Wire(server.http_port).send(asking(400))
        time.sleep(0.01)
        wire.reset()
    assert ask(server.http_port, asking(1)).status == 200
    assert server.metric(PREDICTIONS) <= 5


@pytest.mark.parametrize("rounds", [pytest.param(1, id="unforeseen"), pytest.param(20, id="foreseen")])
def test_a_long_run_delays_no_probe(launch_once: Callable[..., Any], tmp_path: Path, rounds: int) -> None:
    server = launch_once(small_packages.slow(tmp_path / "slow", rounds=rounds))
    ask(server.http_port, asking(200))  # from now on the server knows
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        long = pool.submit(ask, server.http_port, asking(700))
        time.sleep(0.1)
        probes = 0
        while not long.done():
            assert ask(server.http_port, request("/v2/health/live")).status == 200
            probes += 1
            time.sleep(0.05)
    assert long.result().status == 200
    assert probes >= 5


def test_rest_and_grpc_share_a_loaded_server(launch_once: Callable[..., Any], slow: Path) -> None:
    server = launch_once(slow, batch_rows=1)
    asked, answered = methods_of("inference.GRPCInferenceService")["ModelInfer"]
    message = asked(model_name="slow")
    tensor = message.inputs.add(name="rounds", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(10)
    end = time.monotonic() + 1

    def by_rest() -> int:
        count = 0
        with Wire(server.http_port, seconds=30) as wire:
            while time.monotonic() < end:
                answer = wire.send(asking(10)).answer()
                assert answer is not None
                assert answer.status == 200
                count += 1
        return count

    def by_grpc() -> int:
        count = 0
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            while time.monotonic() < end:
                infer(message, timeout=30)
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rest = [pool.submit(by_rest) for _ in range(4)]
        grpcs = [pool.submit(by_grpc) for _ in range(4)]
        counts = [[future.result() for future in futures] for futures in (rest, grpcs)]
    assert min(map(min, counts)) >= max(map(max, counts)) / 4, counts
