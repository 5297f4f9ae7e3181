"""When files of the inference log are closed, and how much may wait."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bounds of one worker's log.

    Attributes:
        rotate_rows: Rows after which a file is written; more if they came while the last one was.
        rotate_bytes: The same in bytes of columns in memory.
        rotate_seconds: Longest time that a row waits for its file; what a killed process can lose.
        queue_rows: Rows that may wait; more are dropped and counted, or refused by an audit log.
        queue_bytes: The same in bytes of columns in memory.
        keep_seconds: Longest time that a request waits for its record to be kept, if it must be.
        close_seconds: Longest time that closing waits for the store.
    """

    rotate_rows: int = 5000
    rotate_bytes: int = 16 * 1024 * 1024
    rotate_seconds: float = 5.0
    queue_rows: int = 50_000
    queue_bytes: int = 64 * 1024 * 1024
    keep_seconds: float = 5.0
    close_seconds: float = 10.0
