"""Lines on stderr: one JSON document each, and nobody waits for whoever reads them."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tidegate.serving.events import EventHandler, LineWriter, emit, now


def documents(raw: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in raw.splitlines()]


def read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def test_a_line_holds_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    emit("ready", worker=1)
    emit("no\nline break", level="warning", value="ü")
    first, second = documents(capsys.readouterr().err.encode())
    assert first.keys() == {"time", "level", "event", "worker"}
    assert (first["level"], first["event"], first["worker"]) == ("info", "ready", 1)
    assert (second["level"], second["event"], second["value"]) == ("warning", "no\nline break", "ü")


def test_the_time_is_that_of_the_clock_to_the_microsecond() -> None:
    before = datetime.now(UTC)
    said = [datetime.fromisoformat(now()) for _ in range(3)]
    assert before - timedelta(microseconds=1) <= said[0] <= said[1] <= said[2] <= datetime.now(UTC)
    assert len(now()) == len("2026-11-22T10:05:09.922574+00:00")


def test_what_libraries_log_becomes_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("a.library")
    logger.addHandler(handler := EventHandler())
    try:
        logger.warning("store %s is slow", "s1")
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("it failed")
    finally:
        logger.removeHandler(handler)
    slow, failed = documents(capsys.readouterr().err.encode())
    assert (slow["source"], slow["level"], slow["event"]) == ("a.library", "warning", "store s1 is slow")
    assert failed["level"] == "error"
    assert "ValueError: broken" in str(failed["traceback"])


def test_lines_are_written_whole_and_in_their_order() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    for number in range(2000):
        writer.add(json.dumps({"number": number}).encode())
    found: list[bytes] = []
    collecting = threading.Thread(target=lambda: found.append(read_all(reading)))
    collecting.start()
    writer.close(10)
    os.close(writing)
    collecting.join(10)
    os.close(reading)
    assert [document["number"] for document in documents(found[0])] == list(range(2000))


def test_while_nobody_reads_lines_wait_and_then_are_dropped_and_counted() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, most_lines=100)
    line = json.dumps({"event": "x" * 1000}).encode()
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        for _ in range(100):
            writer.add(line)
        time.sleep(0.01)
    found: list[bytes] = []
    collecting = threading.Thread(target=lambda: found.append(read_all(reading)))
    collecting.start()
    writer.close(10)
    os.close(writing)
    collecting.join(10)
    os.close(reading)
    *lines, last = documents(found[0])
    assert 100 <= len([document for document in lines if document["event"] != "lines dropped"]) < 400
    assert last["event"] == "lines dropped"
    assert isinstance(last["lines"], int)
    assert last["lines"] > 100


def test_closing_does_not_wait_for_a_reader_who_never_comes() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing)
    for _ in range(1000):
        writer.add(b"x" * 1000)
    began = time.monotonic()
    writer.close(0.2)
    assert time.monotonic() - began < 5
    os.set_blocking(reading, False)
    os.close(reading)  # ends the thread's write
    os.close(writing)


def test_a_reader_who_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    writer.add(b"lost")
    writer.close(5)
    assert not writer._thread.is_alive()
    os.close(writing)


@pytest.mark.parametrize(
    "stderr",
    [
        pytest.param(lambda: subprocess.DEVNULL, id="discarded"),
        pytest.param(lambda: None, id="closed"),
        pytest.param(lambda: full_pipe(), id="a pipe that is full"),
    ],
)
@pytest.mark.parametrize("scope", ["emit('one'); emit('two')", "with background_lines():\n    emit('one'); emit('two')"])
def test_nothing_waits_for_stderr(stderr: Callable[[], int | None], scope: str) -> None:
    where = stderr()
    script = f"from tidegate.serving.events import background_lines, emit\n{scope}\nprint('done')"
    command = (
        [sys.executable, "-c", script] if where is not None else ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    )
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=where, timeout=20, check=True)
    assert finished.stdout == b"done\n"
    if where is not None and where > 0:
        os.close(where)


def full_pipe() -> int:
    _, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    return writing
