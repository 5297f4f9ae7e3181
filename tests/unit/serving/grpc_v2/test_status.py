"""Header blocks that say how a call ended, read by another implementation of HPACK."""

from urllib.parse import unquote

import pytest
from hpack import Decoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.grpc_v2.status import ANSWER_HEADERS, ANSWER_TRAILERS, Code, Refusal, literal
from tidegate.serving.protocol.errors import RequestError


def fields(block: bytes) -> dict[str, str]:
    decoder = Decoder()
    found = dict(decoder.decode(block))
    assert not decoder.header_table.dynamic_entries, "the callers' table is left alone"
    return found


def test_the_blocks_of_every_answer() -> None:
    assert fields(ANSWER_HEADERS) == {":status": "200", "content-type": "application/grpc"}
    assert fields(ANSWER_TRAILERS) == {"grpc-status": "0"}


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 5000, 60_000])
def test_literals_of_any_length(size: int) -> None:
    assert fields(literal("name", "v" * size)) == {"name": "v" * size}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INVALID_ARGUMENT),
        (404, Code.NOT_FOUND),
        (408, Code.DEADLINE_EXCEEDED),
        (409, Code.FAILED_PRECONDITION),
        (413, Code.RESOURCE_EXHAUSTED),
        (415, Code.UNIMPLEMENTED),
        (429, Code.RESOURCE_EXHAUSTED),
        (499, Code.CANCELLED),
        (500, Code.INTERNAL),
        (501, Code.UNIMPLEMENTED),
        (503, Code.UNAVAILABLE),
        (504, Code.DEADLINE_EXCEEDED),
        (418, Code.INTERNAL),
    ],
)
def test_every_status_has_a_code(status: int, code: Code) -> None:
    found = fields(Refusal.of(RequestError(status, "why")).block())
    assert found == {":status": "200", "content-type": "application/grpc", "grpc-status": str(int(code)), "grpc-message": "why"}


def test_when_to_come_back_is_said_as_grpc_says_it() -> None:
    found = fields(Refusal.of(RequestError(429, "full", b"retry-after: 2\r\n")).block())
    assert found["grpc-retry-pushback-ms"] == "2000"
    assert "grpc-retry-pushback-ms" not in fields(Refusal.of(RequestError(405, "no", b"allow: POST\r\n")).block())


def test_a_refusal_after_headers_has_none_of_its_own() -> None:
    assert fields(Refusal(Code.INTERNAL, "why").block(after_headers=True)) == {"grpc-status": "13", "grpc-message": "why"}


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=100))
def test_messages_are_percent_encoded(message: str) -> None:
    encoded = fields(Refusal(Code.INTERNAL, message).block())["grpc-message"]
    assert all(" " <= character <= "~" for character in encoded)
    expected = " ".join(message.encode(errors="replace").decode().split())
    assert unquote(encoded) == expected


def test_a_long_message_is_cut_between_characters() -> None:
    for letters in range(9):
        encoded = fields(Refusal(Code.INTERNAL, "x" * letters + "ü" * 5000).block())["grpc-message"]
        assert 1994 <= len(encoded) <= 2000
        assert unquote(encoded).strip("x") in ("ü" * 333, "ü" * 332)
