"""How numbers, durations and moments are written."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.reporting import formats


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (formats.count, 1234, "1,234"),
        (formats.number, 0.5, "0.5"),
        (formats.number, 3.0, "3"),
        (formats.number, 0.00001234, "1.234e-05"),
        (formats.number, 12345.6, "12,346"),
        (formats.number, float("nan"), "NaN"),
        (formats.number, float("-inf"), "-∞"),
        (formats.fixed, 0.5, "0.500"),
        (formats.percent, 0.123, "12.3 %"),
        (formats.milliseconds, 1.234, "1.23 ms"),
        (formats.milliseconds, 12.34, "12.3 ms"),
        (formats.milliseconds, 1234.5, "1,234 ms"),
        (formats.duration, 9.96, "10.0 s"),
        (formats.duration, 59.7, "1 min 00 s"),
        (formats.duration, 185, "3 min 05 s"),
        (formats.duration, 7260, "2 h 01 min"),
        (formats.size, 999, "999 B"),
        (formats.size, 1500, "1.5 kB"),
        (formats.size, 2_500_000_000, "2.5 GB"),
        (formats.day, datetime(2013, 6, 4, tzinfo=UTC), "4 Jun 2013"),
    ],
)
def test_written(write, value, written):
    assert write(value) == written


@pytest.mark.parametrize(
    "write",
    [
        formats.count,
        formats.number,
        formats.fixed,
        formats.percent,
        formats.milliseconds,
        formats.duration,
        formats.size,
        formats.day,
    ],
)
def test_absent_is_said(write):
    assert write(None) == "n/a"


def test_span_names_a_shared_year_once():
    first, last = datetime(2013, 4, 1, tzinfo=UTC), datetime(2013, 9, 30, tzinfo=UTC)

    assert formats.span(first, last) == "1 Apr \u2013 30 Sep 2013"
    assert formats.span(first.replace(year=2012), last) == "1 Apr 2012 \u2013 30 Sep 2013"
    assert formats.span(None, last) == "n/a"


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_any_float_is_written(value):
    assert formats.number(value)
