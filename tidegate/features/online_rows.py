"""The online store's protocol: packed rows under their keys, and how far each view is materialized.

A SQLite file serves one machine (`online_file`), a Redis a cluster (`online_redis`); `online_opening` chooses by address.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

PackedRow = tuple[bytes, int, int, bytes]
"""Key, event time, created time (0 if unknown), packed row; times in microseconds since the epoch."""

FoundRow = tuple[int, bytes]
"""Event time in microseconds since the epoch, and the packed row."""


class Watermark(NamedTuple):
    """Up to which event time (microseconds since the epoch) a view is materialized, and from which definition of it."""

    project: str
    view: str
    until_us: int
    definition: str


class RowReader(Protocol):
    """What the model server asks of an online store, from its event loop."""

    @property
    def waits(self) -> bool:
        """Whether `fetch` may wait for something."""

    async def fetch(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`, as one state of the store; raises FeatureError if it cannot be read."""

    def close(self) -> None:
        """Let go of the store."""


class RowWriter(Protocol):
    """What materialization asks of an online store.

    An older event (or, of one event time, an earlier creation) never overwrites a newer one, whoever writes meanwhile.
    """

    def write(self, rows: Sequence[PackedRow], marks: Sequence[Watermark], *, lifetime_us: int | None = None) -> None:
        """Write rows and then move watermarks: a mark that is there vouches for its rows, whenever the writer is killed.

        Args:
            rows: What to write.
            marks: The watermarks that stand once the rows are in.
            lifetime_us: How long after its event time, by the wall clock, the store must keep a row; None is forever.

        Raises:
            FeatureError: The store cannot be written; some of the rows may be in, the marks are not.
        """

    def watermark_us(self, project: str, view: str, definition: str) -> int | None:
        """Return up to which event time a view is materialized from this definition; None if it is not."""

    def read(self, keys: Sequence[bytes]) -> Mapping[bytes, FoundRow]:
        """Return the rows that lie under `keys`; raises FeatureError if the store cannot be read."""

    def delete_view(self, project: str, view: str) -> None:
        """Remove a view's watermark and every row of it."""

    def close(self) -> None:
        """Let go of the store."""
