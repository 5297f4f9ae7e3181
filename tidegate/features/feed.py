"""A replay's materialization: the source is read a stretch of event time at once, and written row by row as time comes to it.

    feed = repository.open_feed()
    feed.materialize(clock.now())        # a millisecond or so, so a replay can afford it at every tick

The source must hold the replayed past already: rows that are added to it after their stretch was read are not seen.
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta

from feast import FeatureView

from tidegate.errors import FeatureError
from tidegate.features.materialize import Materializer, known_at_us
from tidegate.features.online_rows import PackedRow
from tidegate.features.times import to_microseconds

_MICROSECOND = timedelta(microseconds=1)


class ReplayFeed:
    """Writes each row to the online store once the replay's time has come to it, and never before.

    Leaves the online store as `Materializer.materialize` would, with the same watermarks, so either can go on after the other.
    """

    def __init__(self, materializer: Materializer, views: Sequence[FeatureView], stretch: timedelta) -> None:
        """Feed `views`, which are materialized already up to where the replay begins, reading `stretch` at once."""
        self._materializer = materializer
        self._views = views
        self._stretch_us = stretch // _MICROSECOND
        marks = {view.name: materializer.watermark_us(view) for view in views}
        missing = [name for name, mark in marks.items() if mark is None]
        if missing:
            raise FeatureError(f"feature view {missing[0]}: nothing is materialized yet; materialize up to the replay's start")
        self._written_us = min(mark for mark in marks.values() if mark is not None)
        self._read_us = self._written_us
        self._rows: list[PackedRow] = []
        self._next = 0

    def materialize(self, until: datetime) -> int:
        """Write every row that became knowable by `until`, a stretch at once, and return how many.

        Raises:
            DataError: A source cannot be read.
            FeatureError: The online store cannot be written.
        """
        until_us = to_microseconds(until)
        written = 0
        while self._written_us < until_us:
            if self._written_us == self._read_us:
                self._read_stretch()
            reached_us = min(until_us, self._read_us)
            end = bisect_right(self._rows, reached_us, lo=self._next, key=known_at_us)
            self._materializer.write(self._views, self._rows[self._next : end], reached_us)
            written += end - self._next
            self._next, self._written_us = end, reached_us
        return written

    def _read_stretch(self) -> None:
        since_us, self._read_us = self._read_us, self._read_us + self._stretch_us
        rows = [row for view in self._views for row in self._materializer.read(view, since_us, self._read_us)]
        self._rows, self._next = sorted(rows, key=known_at_us), 0
