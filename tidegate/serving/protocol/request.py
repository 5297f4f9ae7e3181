"""One inference request and its answer, whatever protocol they came by."""

import itertools
import os
from dataclasses import dataclass

from tidegate.serving.protocol.tensors import Array

MAX_ID_LENGTH = 256

_process_part = ""
_numbers = itertools.count(1)


@dataclass(slots=True)
class InferRequest:
    """Tensors by name, each with the rows as its first axis.

    Attributes:
        id: The caller's request id, or one that `new_request_id` issued.
        tensors: Entity keys, request inputs, and possibly the features themselves.
        outputs: Names of the outputs the caller wants; None means all.
    """

    id: str
    tensors: dict[str, Array]
    outputs: tuple[str, ...] | None = None


@dataclass(slots=True)
class InferAnswer:
    """Output tensors by name, in the order in which they are answered."""

    id: str
    outputs: dict[str, Array]


def new_request_id() -> str:
    """Return a request id that no other process and no other call returns."""
    if not _process_part:
        _renew_process_part()
    return f"{_process_part}-{next(_numbers):x}"


def _renew_process_part() -> None:
    global _process_part
    _process_part = os.urandom(8).hex()


os.register_at_fork(after_in_child=_renew_process_part)
