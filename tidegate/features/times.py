"""Event times as the feature store keeps them: whole microseconds since the epoch, UTC."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """Return `moment` in microseconds since the epoch; without a zone it is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """Return the UTC time that lies so many microseconds after the epoch."""
    return _EPOCH + microseconds * _MICROSECOND


EARLIEST_US = to_microseconds(datetime.min.replace(tzinfo=UTC))
LATEST_US = to_microseconds(datetime.max.replace(tzinfo=UTC))
