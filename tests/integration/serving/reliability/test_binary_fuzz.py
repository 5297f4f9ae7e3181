"""Binary tensors whose sizes lie, overlap, end early or run on are refused; those that do not come back as they were."""

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.serving.reliability.conftest import ECHO, echo_data, echo_document, strings

LENGTH_HEADER = "inference-header-content-length"


def binary_document() -> tuple[dict[str, Any], list[bytes]]:
    """Return a request of one row of every datatype, and each tensor's data."""
    document, data = echo_document(), echo_data()
    for tensor, raw in zip(document["inputs"], data, strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(raw)}
    return document | {"parameters": {"binary_data_output": True}}, data


@pytest.fixture
def connection(echo: Any, unharmed: None) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", echo.http_port, timeout=10)) as connection:
        yield connection


def ask(
    connection: http.client.HTTPConnection, header: bytes, rest: bytes, length: str | None = None
) -> tuple[int, bytes, str]:
    headers = {"content-type": "application/octet-stream", LENGTH_HEADER: str(len(header)) if length is None else length}
    connection.request("POST", ECHO, header + rest, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader(LENGTH_HEADER) or ""


def refused(status: int, content: bytes) -> bool:
    return 400 <= status < 500 and bool(json.loads(content)["error"])


odd_sizes = st.integers(-(2**70), 2**70) | st.integers(-1, 40) | st.sampled_from([None, True, 1.5, "8", [8], {}])
odd_shapes = (
    st.lists(st.integers(-1, 2**63), max_size=4) | st.lists(st.integers(0, 4), max_size=3) | st.sampled_from([[1] * 10_000])
)
changes = st.tuples(st.integers(0, 12), st.sampled_from(["binary_data_size", "shape"]), odd_sizes | odd_shapes)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(st.tuples(st.lists(changes, max_size=2), st.integers(-40, 40), st.binary(max_size=20)), min_size=5))
def test_lying_sizes_are_refused(connection: http.client.HTTPConnection, requests: list[Any]) -> None:
    for lies, cut, surplus in requests:
        document, data = binary_document()
        for index, field, value in lies:
            tensor = document["inputs"][index]
            (tensor["parameters"] if field == "binary_data_size" else tensor)[field] = value
        whole = b"".join(data)
        status, content, _ = ask(connection, json.dumps(document).encode(), whole[: len(whole) - cut] + surplus)
        assert status == 200 or refused(status, content), (status, content)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=8, max_size=8), values=st.lists(st.text(max_size=20), min_size=2, max_size=2))
def test_any_bits_come_back_or_are_refused(connection: http.client.HTTPConnection, noise: bytes, values: list[str]) -> None:
    document, data = binary_document()
    for index, tensor in enumerate(document["inputs"]):
        bits = noise[: len(data[index]) // 2] * 2
        datatype = tensor["datatype"]
        if datatype == "BYTES":
            bits = strings(*(value.encode() for value in values))
        elif datatype == "BOOL":
            bits = bytes(byte & 1 for byte in bits)
        data[index] = bits
        tensor["parameters"] = {"binary_data_size": len(data[index])}
    status, content, length = ask(connection, json.dumps(document).encode(), b"".join(data))
    if status == 200:
        assert content[int(length) :] == b"".join(data)
    else:
        assert refused(status, content)


HEADER = json.dumps(binary_document()[0]).encode()
DATA = b"".join(binary_document()[1])


@pytest.mark.parametrize(
    ("length", "body"),
    [
        pytest.param("-1", HEADER + DATA, id="negative header length"),
        pytest.param(str(len(HEADER + DATA) + 1), HEADER + DATA, id="header length beyond the body"),
        pytest.param("9" * 5000, HEADER + DATA, id="endless header length"),
        pytest.param(str(2**64), HEADER + DATA, id="header length beyond 64 bits"),
        pytest.param("0x10", HEADER + DATA, id="hexadecimal header length"),
        pytest.param("1_0", HEADER + DATA, id="header length with an underscore"),
        pytest.param("", HEADER + DATA, id="empty header length"),
        pytest.param("0", HEADER + DATA, id="no header"),
        pytest.param(str(len(HEADER) - 1), HEADER + DATA, id="header cut"),
        pytest.param(str(len(HEADER) + 1), HEADER + DATA, id="header runs into the data"),
        pytest.param(str(len(HEADER)), HEADER + DATA[:-1], id="data cut"),
        pytest.param(str(len(HEADER)), HEADER + DATA + b"x", id="data left over"),
        pytest.param(str(len(HEADER)), HEADER, id="no data"),
        pytest.param(str(len(HEADER)), HEADER.replace(b": 2}", b": 4611686018427387904}", 1) + DATA, id="an exabyte"),
        pytest.param(str(len(HEADER)), HEADER[:-1] + b"]" + DATA, id="no JSON"),
    ],
)
def test_what_does_not_fit_is_refused(connection: http.client.HTTPConnection, length: str, body: bytes) -> None:
    status, content, _ = ask(connection, body, b"", length)
    assert status == 400
    assert refused(status, content)


@pytest.mark.parametrize(
    "data_of_text",
    [
        pytest.param(struct.pack("<I", 2**32 - 1) + b"a" + strings(b"b"), id="a length beyond the tensor"),
        pytest.param(struct.pack("<I", 2**31) * 2, id="two gigabytes each"),
        pytest.param(strings(b"a", b"b", b"c"), id="one too many"),
        pytest.param(strings(b"a") + b"\0\0\0", id="a length cut"),
        pytest.param(strings(b"\xff", b"b"), id="no UTF-8"),
        pytest.param(strings(b"\xed\xa0\x80", b"b"), id="a lone surrogate"),
    ],
)
def test_strings_that_do_not_fit_are_refused(connection: http.client.HTTPConnection, data_of_text: bytes) -> None:
    document, data = binary_document()
    data[-1] = data_of_text
    document["inputs"][-1]["parameters"] = {"binary_data_size": len(data_of_text)}
    status, content, _ = ask(connection, json.dumps(document).encode(), b"".join(data))
    assert status == 400
    assert b"bytes" in content
