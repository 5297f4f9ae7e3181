"""A request on which the graph itself fails is answered with 500, and spoils no other that is run with it."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import small_packages
from tests.integration.serving.reliability.wire import Wire, request
from tidegate.packaging.running.inference import PackageModel

UNKNOWN_TOKEN = 1_000_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_packages.tokens(tmp_path_factory.mktemp("packages") / "embedder")


def asking(tokens: list[int]) -> bytes:
    tensor = {"name": "tokens", "datatype": "INT64", "shape": [1, len(tokens)], "data": tokens}
    return request("/v2/models/embedder/infer", json.dumps({"inputs": [tensor]}).encode())


def test_one_bad_request_spoils_no_other_of_its_batch(launch_once: Callable[..., Any], package: Path) -> None:
    server = launch_once(package)
    good = [[number, number + 1, 3] for number in range(20)]
    expected = PackageModel(package).outputs_of({"tokens": np.array(good)})["mean"]
    for _ in range(10):
        with ExitStack() as stack:
            wires = [stack.enter_context(Wire(server.http_port)) for _ in range(40)]
            for number, wire in enumerate(wires):
                wire.send(asking(good[number // 2] if number % 2 else [1, UNKNOWN_TOKEN, 2]))
            answers = [wire.answer() for wire in wires]
        assert [answer.status for answer in answers if answer is not None] == [500, 200] * 20
        for answer, mean in zip(answers[1::2], expected, strict=True):
            assert answer is not None
            assert json.loads(answer.body)["outputs"][1]["data"] == pytest.approx(mean)
    assert "Traceback" not in server.stderr
