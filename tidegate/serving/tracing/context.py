"""Reads by which header a request says what trace it belongs to (W3C Trace Context, https://www.w3.org/TR/trace-context/)."""

import re
from dataclasses import dataclass

# A version, the trace, the caller's span, and flags. Versions to come may say more, after another hyphen.
_TRACE_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_FIRST_VERSION, _INVALID_VERSION = "00", "ff"
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceParent:
    """What a caller says of its trace.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits, not all zero.
        span_id: The caller's span: 16 of them, not all zero.
        sampled: Whether the caller records the trace.
    """

    trace_id: str
    span_id: str
    sampled: bool


def parse_trace_parent(header: str) -> TraceParent | None:
    """Read a `traceparent` header; None if it is not valid, so that it is to be ignored (section 3.2)."""
    found = _TRACE_PARENT.fullmatch(header)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _INVALID_VERSION or (version == _FIRST_VERSION and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
