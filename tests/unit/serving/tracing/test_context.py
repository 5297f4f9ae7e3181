"""Reading `traceparent`: the specification's own rules, and whatever else callers may send."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.serving.tracing.context import TraceParent, parse_trace_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEX = "0123456789abcdef"
IDS = {length: st.text(HEX, min_size=length, max_size=length).filter(lambda text: text.strip("0")) for length in (16, 32)}


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        pytest.param(f"00-{TRACE}-{SPAN}-01", True, id="sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-00", False, id="not sampled"),
        pytest.param(f"00-{TRACE}-{SPAN}-03", True, id="another flag besides: a random trace id"),
        pytest.param(f"00-{TRACE}-{SPAN}-fe", False, id="all other flags"),
        pytest.param(f"01-{TRACE}-{SPAN}-01", True, id="a later version"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True, id="a later version that says more"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01-", True, id="a later version that ends in a hyphen"),
    ],
)
def test_valid_headers(header: str, sampled: bool) -> None:
    assert parse_trace_parent(header) == TraceParent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="empty"),
        pytest.param(f"ff-{TRACE}-{SPAN}-01", id="version ff"),
        pytest.param(f"00-{'0' * 32}-{SPAN}-01", id="a trace of zeros"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", id="a span of zeros"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-more", id="version 00 that says more"),
        pytest.param(f"00-{TRACE}-{SPAN}-01-", id="version 00 that ends in a hyphen"),
        pytest.param(f"00-{TRACE}-{SPAN}-1", id="short flags"),
        pytest.param(f"00-{TRACE}-{SPAN}-0x", id="flags that are no number"),
        pytest.param(f"0-{TRACE}-{SPAN}-01", id="a short version"),
        pytest.param(f"00-{TRACE[1:]}-{SPAN}-01", id="a short trace"),
        pytest.param(f"00-{TRACE}0-{SPAN}-01", id="a long trace"),
        pytest.param(f"00-{TRACE}-{SPAN}0-01", id="a long span"),
        pytest.param(f"00-{TRACE.upper()}-{SPAN}-01", id="capital letters"),
        pytest.param(f"00_{TRACE}_{SPAN}_01", id="other separators"),
        pytest.param(f" 00-{TRACE}-{SPAN}-01", id="a space before"),
        pytest.param(f"00-{TRACE}-{SPAN}-01\n", id="a line end after"),
        pytest.param(f"cc-{TRACE}-{SPAN}-01.more", id="a later version that says more without a hyphen"),
        pytest.param(f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01", id="two in one"),
        pytest.param(f"00-{'٣' * 32}-{SPAN}-01", id="digits of another script"),
    ],
)
def test_headers_that_are_not_valid_are_ignored(header: str) -> None:
    assert parse_trace_parent(header) is None


@settings(max_examples=50, deadline=None)
@given(trace=IDS[32], span=IDS[16], flags=st.integers(0, 255), version=st.integers(0, 254))
def test_every_valid_header_is_read_as_it_was_written(trace: str, span: str, flags: int, version: int) -> None:
    header = f"{version:02x}-{trace}-{span}-{flags:02x}"
    assert parse_trace_parent(header) == TraceParent(trace, span, bool(flags & 1))


@settings(max_examples=50, deadline=None)
@given(
    st.one_of(
        st.text(max_size=80),
        st.text(HEX + "-", min_size=50, max_size=60),
        st.tuples(st.sampled_from([f"00-{TRACE}-{SPAN}-01"]), st.integers(0, 54), st.characters()).map(
            lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
        ),
    )
)
def test_whatever_is_sent_is_read_or_ignored(header: str) -> None:
    found = parse_trace_parent(header)
    if found is not None:
        assert header[3:35] == found.trace_id
        assert header[36:52] == found.span_id
        assert set(found.trace_id + found.span_id) <= set(HEX)
