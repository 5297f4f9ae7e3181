"""How numbers, shares, durations and moments are written on every page, so that they read alike."""

from datetime import datetime
from math import isfinite, isnan

ABSENT = "n/a"


def count(value: int | None) -> str:
    """Write a count with thousands separators."""
    return ABSENT if value is None else f"{value:,}"


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with at most `digits` significant digits, without an exponent where it stays readable."""
    if value is None:
        return ABSENT
    if not isfinite(value):
        return "NaN" if isnan(value) else "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if 1e-4 <= abs(value) < 1e6:
        return f"{value:,.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:,.0f}"
    return f"{value:.{digits}g}"


def fixed(value: float | None, places: int = 3) -> str:
    """Write a number with exactly `places` decimals."""
    return ABSENT if value is None else f"{value:,.{places}f}"


def percent(share: float | None, places: int = 1) -> str:
    """Write a share between 0 and 1 as a percentage."""
    return ABSENT if share is None else f"{share * 100:.{places}f} %"


def milliseconds(value: float | None) -> str:
    """Write a time given in milliseconds."""
    if value is None:
        return ABSENT
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def duration(seconds: float | None) -> str:
    """Write a duration given in seconds, such as `41 s` or `3 min 05 s`."""
    if seconds is None:
        return ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(octets: int | None) -> str:
    """Write a size given in bytes, in decimal units."""
    if octets is None:
        return ABSENT
    amount = float(octets)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} GB"


def day(moment: datetime | None) -> str:
    """Write the day of a moment, such as `14 Jun 2013`."""
    return ABSENT if moment is None else f"{moment.day} {moment:%b %Y}"


def span(start: datetime | None, end: datetime | None) -> str:
    """Write a span of days, such as `1 Apr - 30 Sep 2013` with an en dash."""
    if start is None or end is None:
        return ABSENT
    left = f"{start.day} {start:%b}" if start.year == end.year else day(start)
    return f"{left} – {day(end)}"  # noqa: RUF001


def plural(amount: int, word: str) -> str:
    """Write an amount with its noun: `1 row`, `2 rows`."""
    return f"{amount:,} {word}" if amount == 1 else f"{amount:,} {word}s"
