"""A finding: one thing looked at, whether it is as it must be, and what to do if not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tidegate.errors import TidegateError

State = Literal["ok", "missing", "optional"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and the fix; `optional` is missing, but only some commands need it."""

    subject: str
    state: State
    found: str
    fix: str = ""


def examine(subject: str, look: Callable[[], str], fix: str = "") -> Finding:
    """Return the finding of `look`, which returns what it saw and raises a TidegateError if that is not as it must be."""
    try:
        return Finding(subject, "ok", look())
    except TidegateError as error:
        return Finding(subject, "missing", " ".join(str(error).split()), fix)
