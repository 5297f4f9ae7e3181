"""gRPC's own client library against a real server: many calls at once, long messages, callers who give up, and the end."""

import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from tests import small_packages
from tidegate.serving.grpc_v2.messages import message_class, methods_of
from tidegate.serving.metrics.names import REJECTED

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
SIDE = 256
ROWS = 12


@pytest.fixture(scope="module")
def digits(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server of large images, whose answers are larger still."""
    return launch_once(small_packages.image(tmp_path_factory.mktemp("packages") / "digits", side=SIDE))


@pytest.fixture(scope="module")
def slow(launch_once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return launch_once(small_packages.slow(tmp_path_factory.mktemp("packages") / "slow", rounds=10), batch_rows=1)


@pytest.fixture
def connect() -> Iterator[Callable[..., grpc.Channel]]:
    channels: list[grpc.Channel] = []

    def to(server: Any, **options: int) -> grpc.Channel:
        named = [(f"grpc.{name}", value) for name, value in options.items()]
        channels.append(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", named))
        return channels[-1]

    yield to
    for channel in channels:
        channel.close()


def method(channel: grpc.Channel, service: str, name: str, kind: str = "unary_unary") -> Any:
    request, response = methods_of(service)[name]
    called = getattr(channel, kind)(
        f"/{service}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
    )
    return lambda timeout=20, **fields: called(request(**fields), timeout=timeout)


def infer(channel: grpc.Channel) -> Any:
    """Return the stub of ModelInfer, for messages as they are."""
    response = message_class("inference.ModelInferResponse")
    return channel.unary_unary(f"/{INFERENCE}/ModelInfer", response_deserializer=response.FromString)


def image(rows: int, number: int = 0) -> bytes:
    pixels = np.full((rows, 1, SIDE, SIDE), number, np.float32)
    tensor = {"name": "image", "datatype": "FP32", "shape": pixels.shape}
    fields = {"model_name": "digits", "id": str(number), "inputs": [tensor], "raw_input_contents": [pixels.tobytes()]}
    encoded: bytes = message_class("inference.ModelInferRequest")(**fields).SerializeToString()
    return encoded


def rounds(number: int) -> bytes:
    tensor = {"name": "rounds", "datatype": "INT64", "shape": [1]}
    fields = {"model_name": "slow", "inputs": [tensor], "raw_input_contents": [struct.pack("<q", number)]}
    encoded: bytes = message_class("inference.ModelInferRequest")(**fields).SerializeToString()
    return encoded


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="the client's own windows"),
        pytest.param({"http2.lookahead_bytes": 1024, "http2.bdp_probe": 0}, id="small windows"),
        pytest.param({"http2.max_frame_size": 100_000}, id="large frames"),
    ],
)
def test_long_messages_go_both_ways(digits: Any, connect: Callable[..., grpc.Channel], options: dict[str, int]) -> None:
    call = infer(connect(digits, max_receive_message_length=-1, **options))
    answer = call(image(ROWS, 1), timeout=20)
    assert len(image(ROWS)) > 3_000_000
    assert len(answer.raw_output_contents[2]) == 2 * 4 * ROWS * SIDE * SIDE
    assert len({answer.raw_output_contents[0][40 * row : 40 * row + 40] for row in range(ROWS)}) == 1


def test_many_long_messages_at_once(digits: Any, connect: Callable[..., grpc.Channel]) -> None:
    """More than the server holds of one connection at a time: they take turns, and none waits for ever."""
    call = infer(connect(digits, max_receive_message_length=-1))
    futures = [call.future(image(ROWS, number), timeout=60) for number in range(16)]
    assert [future.result().id for future in futures] == [str(number) for number in range(16)]


def test_calls_on_one_connection_do_not_mix(digits: Any, connect: Callable[..., grpc.Channel]) -> None:
    call = infer(connect(digits))
    alone = {number: call(image(1, number), timeout=20).raw_output_contents[0] for number in range(5)}
    assert len(set(alone.values())) == 5
    futures = [(number % 5, call.future(image(1, number % 5), timeout=20)) for number in range(200)]
    for number, future in futures:
        answer = future.result()
        assert (answer.id, answer.raw_output_contents[0]) == (str(number), alone[number])


def test_a_message_of_100_megabytes_is_refused_unread(digits: Any, connect: Callable[..., grpc.Channel]) -> None:
    call = infer(connect(digits, max_send_message_length=-1))
    call(image(1), timeout=20)
    before = psutil.Process(digits.process.pid).memory_info().rss
    for _ in range(3):
        with pytest.raises(grpc.RpcError) as error:
            call(bytes(100_000_000), timeout=20)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 4194304 are allowed" in error.value.details()
    assert psutil.Process(digits.process.pid).memory_info().rss - before < 20_000_000
    call(image(1), timeout=20)


def test_compressed_messages(digits: Any, connect: Callable[..., grpc.Channel]) -> None:
    call = infer(connect(digits))
    plain = call(image(1, 7), timeout=20)
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        assert call(image(1, 7), timeout=20, compression=compression) == plain
    with pytest.raises(grpc.RpcError) as error:
        call(bytes(8_000_000), timeout=20, compression=grpc.Compression.Gzip)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_who_gives_up_is_not_computed_for(
    slow: Any, connect: Callable[..., grpc.Channel], eventually: Callable[..., None]
) -> None:
    call = infer(connect(slow))
    call(rounds(1), timeout=20)
    busy = call.future(rounds(1000), timeout=20)
    time.sleep(0.3)
    futures = [call.future(rounds(2000), timeout=20) for _ in range(5)]
    time.sleep(0.3)
    for future in futures:
        future.cancel()
    eventually(lambda: slow.metric(REJECTED, 'reason="abandoned"') == 5, "calls that were given up")
    assert busy.result().raw_output_contents
    began = time.monotonic()
    call(rounds(1), timeout=20)
    assert time.monotonic() - began < 2


def test_a_deadline_passes(slow: Any, connect: Callable[..., grpc.Channel]) -> None:
    call = infer(connect(slow))
    call(rounds(1), timeout=20)
    busy = call.future(rounds(1000), timeout=20)
    time.sleep(0.3)
    with pytest.raises(grpc.RpcError) as error:
        call(rounds(1), timeout=0.1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert busy.result().raw_output_contents


def test_health_and_repository(digits: Any, connect: Callable[..., grpc.Channel]) -> None:
    channel = connect(digits)
    check = method(channel, HEALTH, "Check")
    assert check().status == check(service=INFERENCE).status == SERVING
    with pytest.raises(grpc.RpcError) as error:
        check(service="other")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    for name in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError) as error:
            method(channel, INFERENCE, name)()
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "--repository" in error.value.details()


def test_who_watches_the_health_is_told_of_the_end(launch: Callable[..., Any], connect: Callable[..., grpc.Channel]) -> None:
    server = launch(drain_delay_seconds=0.5)
    channel = connect(server)
    unknown = method(channel, HEALTH, "Watch", "unary_stream")(service="other")
    assert next(unknown).status == SERVICE_UNKNOWN
    watch = method(channel, HEALTH, "Watch", "unary_stream")()
    assert next(watch).status == SERVING
    server.process.send_signal(signal.SIGTERM)
    assert next(watch).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as error:
        next(watch)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server stops")
    assert server.process.wait(timeout=10) == 0


def test_no_call_is_lost_when_the_server_stops(
    launch: Callable[..., Any], connect: Callable[..., grpc.Channel], tmp_path: Path
) -> None:
    """Whoever calls until the server is gone has every call answered but the last, which found nobody."""
    server = launch(small_packages.slow(tmp_path / "slow"))
    calls = [infer(connect(server, enable_retries=0)) for _ in range(4)]

    def load(call: Any) -> list[Any]:
        outcomes = []
        for _ in range(2000):
            try:
                call(rounds(1), timeout=20)
                outcomes.append(None)
            except grpc.RpcError as error:
                outcomes.append(error)
                break
        return outcomes

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(load, call) for call in calls]
        time.sleep(0.5)
        assert server.stop() == 0
        outcomes = [future.result() for future in futures]
    answered = sum(outcome is None for found in outcomes for outcome in found)
    refused = [outcome for found in outcomes for outcome in found if outcome is not None]
    assert answered > 10
    assert {error.code() for error in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert all("Connection refused" in error.details() for error in refused), [error.details() for error in refused]


GARBAGE = [
    pytest.param(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n", b"This port speaks gRPC", id="HTTP/1.1"),
    pytest.param(b"\x16\x03\x01" + bytes(200), b"preface", id="TLS"),
    pytest.param(bytes(100_000), b"preface", id="zeros"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000, b"more than 65536 bytes", id="a frame of 16 MB"),
]


@pytest.mark.parametrize(("sent", "told"), GARBAGE)
def test_garbage_is_told_what_is_wrong_and_cut_off(
    digits: Any, connect: Callable[..., grpc.Channel], sent: bytes, told: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", digits.grpc_port), timeout=10) as wire:
        wire.sendall(sent)
        received = b""
        while part := wire.recv(65536):
            received += part
    assert told in received
    infer(connect(digits))(image(1), timeout=20)
    assert [event for event in digits.events if event["level"] == "error"] == []
