"""Header blocks: what is remembered of them is what HPACK says each time."""

from contextlib import suppress

import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving.grpc_v2.conftest import HEADERS
from tidegate.serving.grpc_v2.frames import ConnectionViolation
from tidegate.serving.grpc_v2.headers import MAX_HEADER_BYTES, HeaderDecoder, HeaderFragments

PATHS = st.sampled_from(["/a/A", "/a/B", "/a/" + "C" * 2000])
TIMEOUTS = st.sampled_from(["1S", "20m", "3H"])
SENSITIVE = st.booleans()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(PATHS, TIMEOUTS, SENSITIVE, st.sampled_from([None, 4096, 200, 0])), min_size=1, max_size=30))
def test_a_remembered_block_means_what_hpack_says(calls: list[tuple[str, str, bool, int | None]]) -> None:
    """Paths of 2,000 bytes drive the others out of the table; so do the sizes that the caller changes it to."""
    encoder, decoder, plain = Encoder(), HeaderDecoder(), Decoder()
    for path, timeout, sensitive, size in calls:
        if size is not None:
            encoder.header_table_size = size
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path, sensitive)]
        block = encoder.encode([*fields, ("content-type", "application/grpc"), ("grpc-timeout", timeout)])
        expected = dict(plain.decode(block))
        head = decoder.decode(block)
        assert (head.path, expected["grpc-timeout"]) == (expected[":path"], timeout)
        assert head.timeout_ns == {"1S": 10**9, "20m": 2 * 10**7, "3H": 3 * 3600 * 10**9}[timeout]
        assert not head.malformed
        assert head.refusal is None


def test_the_same_indexes_can_mean_something_else_later() -> None:
    encoder, decoder = Encoder(), HeaderDecoder()

    def block(path: str) -> bytes:
        return encoder.encode([(name, path if name == ":path" else value) for name, value in HEADERS])

    decoder.decode(block("/a"))
    indexed = block("/a")
    assert [decoder.decode(indexed).path for _ in range(2)] == ["/a", "/a"]
    encoder.header_table_size = 0
    decoder.decode(block("/a"))
    encoder.header_table_size = 4096
    decoder.decode(block("/b"))
    assert indexed == block("/b")
    assert decoder.decode(indexed).path == "/b"


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        pytest.param("grpc-timeout", "99999999H", "timeout_ns", 99_999_999 * 3600 * 10**9, id="the longest timeout"),
        pytest.param("grpc-timeout", "0n", "timeout_ns", 0, id="the shortest"),
        pytest.param("grpc-timeout", "5u", "timeout_ns", 5000, id="microseconds"),
        pytest.param("grpc-timeout", "2M", "timeout_ns", 120 * 10**9, id="minutes"),
        pytest.param("traceparent", "00-ab-cd-01", "trace_parent", "00-ab-cd-01", id="trace"),
        pytest.param("grpc-encoding", "gzip", "encoding", "gzip", id="encoding"),
        pytest.param("content-length", "12", "content_length", 12, id="length"),
        pytest.param("x", "any value, with {signs} and\ttabs", "malformed", False, id="metadata"),
        pytest.param("x-bin", "", "malformed", False, id="empty metadata"),
    ],
)
def test_what_headers_say(name: str, value: str, attribute: str, expected: object) -> None:
    head = HeaderDecoder().decode(Encoder().encode([*HEADERS, (name, value)]))
    assert getattr(head, attribute) == expected
    assert not head.malformed


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5))
def test_garbage_is_no_crash(blocks: list[bytes]) -> None:
    decoder = HeaderDecoder()
    with suppress(ConnectionViolation):
        for block in blocks:
            decoder.decode(block)


def test_fragments_are_bounded_in_size_and_number() -> None:
    fragments = HeaderFragments(1, b"a", True)
    fragments.add(b"b")
    assert bytes(fragments.block) == b"ab"
    with pytest.raises(ConnectionViolation, match="more than 16384 bytes"):
        fragments.add(bytes(MAX_HEADER_BYTES))
