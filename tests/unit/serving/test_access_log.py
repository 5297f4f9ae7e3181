"""The access log says how requests ended, and never what they held."""

import json
from typing import Any

import numpy as np
import pytest

from tidegate.serving.access_log import AccessLog, open_access_log
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferAnswer, InferRequest
from tidegate.serving.protocol.tensors import Tensor
from tidegate.serving.settings import ServeSettings

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "4111-1111"
ANSWER = InferAnswer("r1", {"score": np.zeros((3, 1))})


def request(trace_parent: str | None = None) -> InferRequest:
    return InferRequest("r1", [Tensor("card", "BYTES", [1], [SECRET])], trace_parent=trace_parent)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    written = capsys.readouterr().err
    assert SECRET not in written
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in written.splitlines()]


@pytest.mark.parametrize(
    ("asked", "outcome", "expected"),
    [
        pytest.param(request(), ANSWER, {"level": "info", "status": 200, "id": "r1", "rows": 3}, id="answered"),
        pytest.param(
            request(f"00-{TRACE_ID}-00f067aa0ba902b7-01"),
            ANSWER,
            {"level": "info", "status": 200, "id": "r1", "rows": 3, "trace_id": TRACE_ID},
            id="of a trace",
        ),
        pytest.param(request("no trace"), ANSWER, {"level": "info", "status": 200, "id": "r1", "rows": 3}, id="of a bad trace"),
        pytest.param(
            request(),
            RequestError(400, f"tensor 'card' row 0 is {SECRET}"),
            {"level": "warning", "status": 400, "id": "r1"},
            id="bad values are not quoted",
        ),
        pytest.param(
            request(),
            RequestError(429, "4096 rows wait"),
            {"level": "warning", "status": 429, "id": "r1", "error": "4096 rows wait"},
            id="too many",
        ),
        pytest.param(
            None,
            RequestError(503, "x" * 1000),
            {"level": "error", "status": 503, "error": "x" * 500},
            id="unread, and a long error",
        ),
    ],
)
def test_a_line_says_how_a_request_ended(
    capsys: pytest.CaptureFixture[str], asked: InferRequest | None, outcome: Any, expected: dict[str, Any]
) -> None:
    AccessLog(errors_only=False).note("grpc", 1_234_567, asked, outcome)
    assert lines(capsys) == [{"event": "request", "protocol": "grpc", "latency_us": 1234} | expected]


def test_of_errors_only_answers_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(errors_only=True)
    log.note("http", 1, request(), ANSWER)
    log.note("http", 1, request(), RequestError(504, "late"))
    assert [line["status"] for line in lines(capsys)] == [504]


def test_the_settings_say_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert open_access_log(ServeSettings(package="p")) is None
    for which, expected in (("all", 1), ("errors", 0)):
        log = open_access_log(ServeSettings(package="p", access_log=which))  # type: ignore[arg-type]
        assert log is not None
        log.note("http", 1, request(), ANSWER)
        assert len(lines(capsys)) == expected
